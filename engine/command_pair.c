#include "engine/commands.h"
#include "engine/pair.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- status ---- */

static void put(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_ms(json_t *object, const char *key, uint64_t ns)
{
	json_object_set_new(object, key, json_real((double)ns / 1e6));
}

/* When something was that happened at `ns` by our own clock: as Unix time, for whoever compares it with
 * other hosts' logs. */
static double unix_time(uint64_t ns)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)(now_ns() - ns) / 1e9;
}

static json_t *log_status(const struct durable_thread *log)
{
	uint64_t begin = atomic_load(&log->begin);
	json_t *status = json_pack("{s:s, s:s}", "state",
		atomic_load(&log->failed) ? "lost" : "kept", "storage", log->storage);
	put(status, "durable_bytes", atomic_load(&log->durable));
	put(status, "dropped_bytes", begin - log->origin.start);
	return status;
}

static void put_lag(json_t *status, const struct live *live)
{
	put_ms(status, "lag_ms", atomic_load(&live->lag.shown_lag_ns));
	put(status, "slowed_percent", atomic_load(&live->lag.shown_percent));
	put_ms(status, "slowed_ms", atomic_load(&live->lag.shown_slept_ns));
	put(status, "ring_stops", atomic_load(&live->stops));
}

static void on_status(void *context, json_t *status)
{
	struct pair *pair = context;
	struct session *session = pair->session;
	json_object_set_new(status, "role", json_string(role_name(pair->role)));
	put(status, "generation", pair->generation);
	put(status, "divergences", pair->divergences);
	if (session)
		json_object_set_new(status, "peer", json_string(session->peer));
	if (session && pair->role == ROLE_PRIMARY) {
		uint64_t flushed = atomic_load(&pair->host.live.flushed);
		uint64_t replayed = session_replayed(session);
		json_object_set_new(status, "commit", json_string(commit_names[session->commit]));
		put(status, "session", session->id);
		put(status, "ring_bytes", session->ring);
		put(status, "log_bytes", flushed);
		put(status, "log_entries", atomic_load(&pair->host.live.entries));
		put(status, "received_bytes", session_received(session));
		put(status, "replayed_bytes", replayed);
		put(status, "durable_bytes", session_durable(session));
		put(status, "lag_bytes", flushed > replayed ? flushed - replayed : 0);
		put_lag(status, &pair->host.live);
		put(status, "clone_bytes", session->clone_bytes);
		put_ms(status, "clone_ms", session->clone_ns);
	}
	if (session && (pair->role == ROLE_BACKUP || pair->role == ROLE_LIVE)) {
		uint64_t limit = atomic_load(&pair->replay.limit),
			 applied = atomic_load(&pair->replay.applied);
		put(status, "session", session->id);
		put(status, "received_bytes", limit);
		put(status, "replayed_bytes", applied);
		put(status, "lag_bytes", limit > applied ? limit - applied : 0);
		if (session->log_thread)
			json_object_set_new(status, "log", log_status(session->log_thread));
		put_ms(status, "lag_p50_ms", histogram_quantile(&pair->replay.lag, 0.5));
		put_ms(status, "lag_p99_ms", histogram_quantile(&pair->replay.lag, 0.99));
	}
	if (pair->failover.count) {
		json_t *failover = json_object();
		put(failover, "count", pair->failover.count);
		json_object_set_new(failover, "why", json_string(pair->failover.why));
		put_ms(failover, "silence_ms",
			pair->failover.suspected_ns - pair->failover.heard_ns);
		put_ms(failover, "replay_ms",
			pair->failover.drained_ns - pair->failover.suspected_ns);
		put_ms(failover, "arbiter_ms", pair->failover.live_ns - pair->failover.drained_ns);
		json_object_set_new(
			failover, "live_at", json_real(unix_time(pair->failover.live_ns)));
		json_object_set_new(status, "failover", failover);
	}
}

/* ---- the start ---- */

/* A new VM's first generation, or with --take-over the next. */
static int hold_generation(struct pair *pair)
{
	const struct config *config = pair->host.config;
	uint64_t newest;
	int error = arbiter_current(pair->arbiter, &newest);
	if (error)
		return error;
	if (newest > 0 && !config->take_over)
		return fail(EALREADY,
			"VM %s has run before (generation %" PRIu64
			" in %s); if nobody runs it now, start with --take-over",
			config->name, newest, config->arbiter);
	enum arbiter_verdict verdict = arbiter_take(pair->arbiter, newest + 1);
	if (verdict != ARBITER_WON)
		return fail(verdict == ARBITER_LOST ? EALREADY : EIO,
			"generation %" PRIu64 " of VM %s could not be had: %s", newest + 1,
			config->name, fail_message());
	pair->generation = newest + 1;
	return 0;
}

/* Whether an address of a network leads no further than this machine. */
static bool is_loopback(const char *address)
{
	return strncmp(address, "127.", 4) == 0 || strstr(address, ":127.") ||
	       strstr(address, ":localhost:") || strstr(address, ":[::1]:") ||
	       strstr(address, "/shm:"); /* behind a model of a link */
}

static int check_address(
	const struct config *config, const char *address, const struct provider **provider)
{
	const char *where;
	int error = provider_find(address, provider, &where);
	if (!error && !(*provider)->is_local && !config->key)
		error = fail(EINVAL,
			"address %s: over a network both sides prove that they know the VM's key; "
			"give "
			"both the same --key FILE, made with `(umask 077; head -c 32 /dev/urandom "
			">FILE)`",
			address);
	if (!error && !(*provider)->is_local && is_loopback(config->heartbeat) &&
		!is_loopback(address))
		error = fail(EINVAL,
			"address %s: no heartbeat from %s reaches another host; give --heartbeat "
			"this "
			"host's address there",
			address, config->heartbeat);
	return error;
}

/* What only a session will need, but should be known to be wrong now. */
static int check_config(const struct config *config)
{
	const struct provider *provider;
	uint16_t port = 0;
	int error = config->standby ? check_address(config, config->standby, &provider) : 0;
	if (!error && config->standby && config->commit == COMMIT_PLACED && !provider->placed)
		error = fail(EINVAL,
			"address %s: --commit placed needs RDMA; use rdma:HOST:PORT, or --commit "
			"received",
			config->standby);
	if (!error && config->listen)
		error = check_address(config, config->listen, &provider);
	int fd = error ? error : heartbeat_open(config->heartbeat, &port);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int begin_primary(struct pair *pair)
{
	struct host *host = &pair->host;
	int error = host_boot(host);
	/* Last, when nothing else can fail: a generation is never given back. */
	if (!error)
		error = hold_generation(pair);
	if (error)
		return error;
	pair->role = ROLE_SOLO;
	live_set_time(&host->live, 0, now_ns());
	host_set_live(host, true);
	return host_start_machine(host);
}

static int begin_standby(struct pair *pair)
{
	const struct config *config = pair->host.config;
	const char *where;
	int error = provider_find(config->listen, &pair->provider, &where);
	/* Better now than when a primary comes: whether a machine can be made here at all. */
	if (!error)
		error = host_make_machine(
			&pair->host, config->memory ? config->memory : MEMORY_DEFAULT, config->mac);
	host_drop_machine(&pair->host);
	/* And room for the log: a large file can take longer than a primary waits. */
	if (!error && config->log)
		error = log_file_make(&pair->log, config->log, config->log_size, config->name);
	pair->role = ROLE_STANDBY;
	return error ? error : pair_listen(pair);
}

static int run_pair(struct pair *pair)
{
	const struct config *config = pair->host.config;
	unsigned tick_ms = config->timeout_ms / 10;
	struct timeval tick = {.tv_usec = (tick_ms < 5 ? 5 : tick_ms > 50 ? 50 : tick_ms) * 1000};
	int error = check_config(config);
	provider_set_silence(config->timeout_ms);
	if (!error)
		error = auth_key_read(&pair->key, config->key);
	if (!error)
		error = arbiter_open(&pair->arbiter, config->arbiter, config->name);
	if (!error)
		error = config->command == COMMAND_PRIMARY ? begin_primary(pair)
							   : begin_standby(pair);
	if (error)
		return command_failed(error);
	pair->tick_ns = now_ns();
	pair->on_tick = event_new(pair->host.base, -1, EV_PERSIST, pair_tick, pair);
	event_add(pair->on_tick, &tick);
	event_base_dispatch(pair->host.base);
	return pair->status;
}

int command_pair(const struct config *config)
{
	struct pair *pair = calloc(1, sizeof *pair);
	if (!pair)
		return command_failed(fail(ENOMEM, "no memory"));
	const struct host_events events = {.woken = pair_woken,
		.leave = pair_leave,
		.stop = pair_stop,
		.status = on_status,
		.context = pair};
	int error = host_open(&pair->host, config, &events);
	int status = error ? command_failed(error) : run_pair(pair);
	if (!error) {
		pair_close(pair);
		host_close(&pair->host);
	}
	free(pair);
	return status;
}

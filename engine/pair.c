#include "engine/pair.h"

#include "base/check.h"
#include "engine/clone.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define RETRY_NS 250000000u
#define FAILED_CLONE_NS 1000000000u /* each attempt stops the guest for a while */
#define REJOIN_NS 500000000u        /* twice as long each time */
#define ARBITER_NS 1000000000u
#define PATIENCE_NS 30000000000u /* a kernel may compute for some seconds without leaving */
#define LAST_OUTPUTS_MS 2000u

static void on_connection(evutil_socket_t fd, short what, void *context);
static void on_heartbeat(evutil_socket_t fd, short what, void *context);

void pair_halt(struct pair *pair, int status)
{
	if (pair->role == ROLE_HALTED)
		return;
	role_change(&pair->role, ROLE_HALTED);
	pair->status = status;
	event_base_loopbreak(pair->host.base);
}

/* ---- the session's events ---- */

static void watch_session(struct pair *pair)
{
	struct session *session = pair->session;
	pair->on_heartbeat =
		event_new(pair->host.base, session->udp, EV_READ | EV_PERSIST, on_heartbeat, pair);
	event_add(pair->on_heartbeat, NULL);
	int fd = session->provider->fd(session->connection);
	if (fd >= 0) {
		pair->on_connection =
			event_new(pair->host.base, fd, EV_READ | EV_PERSIST, on_connection, pair);
		event_add(pair->on_connection, NULL);
	}
	pair->beat_seen = pair->flushed_seen = 0;
	pair->beat_ns = now_ns();
	pair->refused[0] = '\0';
	atomic_store(&pair->broken, false);
}

static void unwatch_session(struct pair *pair)
{
	struct event **events[] = {&pair->on_connection, &pair->on_heartbeat};
	for (unsigned i = 0; i < 2; i++) {
		if (*events[i])
			event_free(*events[i]);
		*events[i] = NULL;
	}
}

void pair_drop_session(struct pair *pair)
{
	unwatch_session(pair);
	session_close(pair->session);
	pair->session = NULL;
}

/* Whether the last failure is another than the one before: the same is tried again and again. */
static bool is_news(struct pair *pair)
{
	if (strcmp(pair->refused, fail_message()) == 0)
		return false;
	snprintf(pair->refused, sizeof pair->refused, "%s", fail_message());
	return true;
}

/* ---- protecting ---- */

/* Solo: finds a standby, copies the guest to it, and is its primary. */
static void protect(struct pair *pair)
{
	struct host *host = &pair->host;
	bool committed = false;
	role_change(&pair->role, ROLE_CLONING);
	int error = session_connect(&pair->session, host, host->config->standby, pair->sessions + 1,
		pair->arbiter, &pair->key, pair->generation);
	if (error) {
		if (error == -ECONNREFUSED)
			pair->refused[0] = '\0'; /* the next one is another */
		else if (error != -ETIMEDOUT && error != -ENOENT &&
			 (error != -ECONNRESET || !pair->refused[0]) && is_news(pair))
			say("no standby at %s: %s", host->config->standby, fail_message());
		/* Nothing else is done here while a host that is down is waited for. */
		if (error == -ETIMEDOUT)
			pair->quiet_until_ns = now_ns() + FAILED_CLONE_NS;
		role_change(&pair->role, ROLE_SOLO);
		return;
	}
	pair->sessions++;
	struct session *session = pair->session;
	const struct commit commit = {
		.session = session->id, .reached = session_committed, .context = session};
	host_set_commit(host, &commit, session->provider->bell(session->connection));
	error = clone_send(session, host, &committed);
	if (!committed) {
		say("the clone to %s failed, going on alone: %s", host->config->standby,
			fail_message());
		const struct commit none = {.session = SESSION_ALONE};
		host_set_commit(host, &none, NULL);
		pair_drop_session(pair);
		pair->quiet_until_ns = now_ns() + FAILED_CLONE_NS;
		role_change(&pair->role, ROLE_SOLO);
		return;
	}
	watch_session(pair);
	session->heard_ns = now_ns();
	role_change(&pair->role, ROLE_PRIMARY);
	say("protected by %s: %.1f MiB copied, the guest stood still for %.1f ms",
		host->config->standby, (double)session->clone_bytes / (1u << 20),
		(double)session->clone_ns / 1e6);
	if (error)
		failover_backup_lost(pair, "it did not take the clone's last message");
}

/* ---- following ---- */

static void replay_progress(void *context)
{
	struct pair *pair = context;
	/* Only outputs wait for acks. */
	if (pair->replay.last == LOG_OUTPUT)
		receiver_progress(&pair->session->receiver);
}

static void replay_drained(void *context)
{
	struct pair *pair = context;
	host_wake(&pair->host);
}

static void log_copied(void *context)
{
	struct pair *pair = context;
	host_wake(&pair->host);
}

static void receiver_broken(void *context)
{
	struct pair *pair = context;
	atomic_store(&pair->broken, true);
	host_wake(&pair->host);
}

static uint64_t released_elsewhere(void *context, enum output_device device)
{
	const struct session *session = context;
	return atomic_load_explicit(&session->receiver.released[device], memory_order_acquire);
}

/* Lets a follower's guest run, once its durable log, if there is one, has a copy of its first state. */
static void start_following(struct pair *pair)
{
	struct machine *m = &pair->host.machine;
	const struct durable_thread *log = pair->session->log_thread;
	if (atomic_load(&m->started) || machine_ended(m) || (log && !atomic_load(&log->is_copied)))
		return;
	int error = host_start_machine(&pair->host);
	if (error)
		pair_halt(pair, command_failed(error));
}

static void stop_listening(struct pair *pair)
{
	if (pair->on_listener)
		event_free(pair->on_listener);
	pair->on_listener = NULL;
	if (pair->listener)
		pair->provider->listener_close(pair->listener);
	pair->listener = NULL;
}

int pair_listen(struct pair *pair)
{
	const struct config *config = pair->host.config;
	const char *where;
	int error = provider_find(config->listen, &pair->provider, &where);
	if (!error)
		error = pair->provider->listen(where, &pair->listener);
	if (error)
		return error;
	pair->on_listener = event_new(pair->host.base, pair->provider->listener_fd(pair->listener),
		EV_READ | EV_PERSIST, pair_answer, pair);
	event_add(pair->on_listener, NULL);
	say("waiting for a primary of VM %s at %s", config->name, config->listen);
	return 0;
}

/* Standby: a primary has connected. */
void pair_answer(evutil_socket_t fd, short what, void *context)
{
	struct pair *pair = context;
	struct host *host = &pair->host;
	(void)fd, (void)what;
	role_change(&pair->role, ROLE_RECEIVING);
	int error = session_accept(&pair->session, host, pair->provider, pair->listener,
		pair->arbiter, &pair->key, &pair->log, &pair->replay);
	if (error == -EPERM) { /* waiting will not change that */
		say("this standby does not fit: %s", fail_message());
		pair_halt(pair, STATUS_REFUSED);
		return;
	}
	if (error) {
		if (error != -EAGAIN && is_news(pair))
			say("a primary was not accepted: %s", fail_message());
		role_change(&pair->role, ROLE_STANDBY);
		return;
	}
	struct session *session = pair->session;
	pair->generation = session->generation;
	pair->sessions = session->id;
	pair->replay.progress = replay_progress;
	pair->replay.patience_ns = PATIENCE_NS;
	pair->replay.drained_now = replay_drained;
	pair->replay.context = pair;
	session->receiver.broken = receiver_broken;
	session->receiver.context = pair;
	const struct commit commit = {
		.session = session->id, .reached = released_elsewhere, .context = session};
	host_set_commit(host, &commit, NULL);
	watch_session(pair);
	session->heard_ns = now_ns();
	role_change(&pair->role, ROLE_BACKUP);
	stop_listening(pair);
	if (session->log_thread) {
		session->log_thread->copied = log_copied;
		session->log_thread->context = pair;
		error = durable_thread_start(session->log_thread);
	}
	if (!error)
		error = receiver_start(&session->receiver);
	if (error) {
		pair_halt(pair, command_failed(error));
		return;
	}
	start_following(pair);
	say("following the primary of VM %s, generation %" PRIu64, host->config->name,
		pair->generation);
}

/* ---- watching ---- */

static void beat(struct pair *pair, uint32_t flags)
{
	struct session *session = pair->session;
	struct heartbeat heartbeat = {.generation = pair->generation, .flags = flags};
	if (pair->role == ROLE_PRIMARY)
		heartbeat.progress = atomic_load(&pair->host.live.flushed);
	else
		heartbeat.progress = atomic_load(&pair->replay.applied);
	if (pair->stop_wanted)
		heartbeat.flags |= HEARTBEAT_STOP_REQUESTED;
	if (session->log_thread && atomic_load(&session->log_thread->failed))
		heartbeat.flags |= HEARTBEAT_LOG_LOST;
	session_beat(session, &heartbeat);
}

/* What the other side's heartbeats, acks and log say about it; NULL: it lives. */
static const char *silent(struct pair *pair)
{
	uint64_t now = now_ns();
	uint64_t timeout = (uint64_t)pair->host.config->timeout_ms * 1000000u;
	struct session *session = pair->session;
	if (now - session->heard_ns > timeout)
		return "no heartbeat";
	if (pair->role == ROLE_PRIMARY) {
		uint64_t beats = ack_read(&session->beat, UINT64_MAX);
		if (beats != pair->beat_seen) {
			pair->beat_seen = beats;
			pair->beat_ns = now;
		}
		return now - pair->beat_ns > timeout ? "no acks" : NULL;
	}
	/* A primary whose ring is full cannot write; then there is enough to do here. */
	bool idle = atomic_load(&pair->replay.applied) == atomic_load(&pair->replay.limit);
	uint64_t heard = atomic_load(&session->receiver.heard_ns);
	return idle && now > heard && now - heard > timeout ? "no log" : NULL;
}

static void stop_machine(struct machine *m, void *argument)
{
	(void)argument;
	live_stop(m);
}

/* doppel stop, here or on the other side. */
static void stop_vm(struct pair *pair)
{
	switch (pair->role) {
	case ROLE_SOLO:
	case ROLE_PRIMARY:
		machine_call(&pair->host.machine, MACHINE_ANYWHERE, stop_machine, NULL);
		break;
	case ROLE_BACKUP:
		pair->stop_wanted = true; /* the primary hears of it with the next heartbeat */
		break;
	default:
		pair_halt(pair, STATUS_OK);
		break;
	}
}

static void heard(struct pair *pair)
{
	struct session *session = pair->session;
	session_hear(session);
	if (pair->role == ROLE_PRIMARY && (session->heard.flags & HEARTBEAT_STOP_REQUESTED))
		stop_vm(pair);
	if (pair->role == ROLE_PRIMARY && (session->heard.flags & HEARTBEAT_LOG_LOST))
		session_forgo_durable(session, &pair->host);
}

/* The other side's connection has ended. */
static void connection_lost(struct pair *pair)
{
	heard(pair); /* its last word may have come by the other way */
	bool leaving = (pair->session->heard.flags & HEARTBEAT_LEAVING) != 0;
	bool diverged = (pair->session->heard.flags & HEARTBEAT_DIVERGED) != 0;
	unwatch_session(pair);
	if (pair->role == ROLE_PRIMARY && diverged)
		pair->divergences++;
	if (pair->role == ROLE_PRIMARY)
		failover_backup_lost(pair, leaving    ? "it has left"
					   : diverged ? "it has diverged"
						      : "its connection ended");
	else if (pair->role == ROLE_BACKUP && leaving && machine_ended(&pair->host.machine))
		pair_halt(pair, host_verdict(&pair->host));
	else if (pair->role == ROLE_BACKUP)
		failover_suspect(pair, leaving ? "it has left" : "its connection ended");
}

static void on_connection(evutil_socket_t fd, short what, void *context)
{
	struct pair *pair = context;
	struct session *session = pair->session;
	uint8_t nothing[8];
	size_t length;
	(void)fd, (void)what;
	/* No message is due here: whatever it is, the connection is of no use any more. */
	int error =
		session->provider->recv(session->connection, nothing, sizeof nothing, &length, 0);
	if (error != -ETIMEDOUT)
		connection_lost(pair);
}

static void on_heartbeat(evutil_socket_t fd, short what, void *context)
{
	(void)fd, (void)what;
	heard(context);
}

/* Asks now and then whether the other side holds a newer generation; then this process halts. */
static bool is_deposed(struct pair *pair, uint64_t now)
{
	uint64_t newest;
	if (now - pair->arbiter_ns < ARBITER_NS)
		return false;
	pair->arbiter_ns = now;
	if (arbiter_current(pair->arbiter, &newest) < 0 || newest <= pair->generation)
		return false;
	say("deposed: generation %" PRIu64 " of VM %s exists; halting", newest,
		pair->host.config->name);
	pair_halt(pair, STATUS_DEPOSED);
	return true;
}

static void tick_solo(struct pair *pair, uint64_t now)
{
	const struct config *config = pair->host.config;
	if (machine_ended(&pair->host.machine) || is_deposed(pair, now))
		return;
	if (config->standby && now >= pair->quiet_until_ns) {
		pair->quiet_until_ns = now + RETRY_NS;
		protect(pair);
	}
}

static void tick_standby(struct pair *pair, uint64_t now)
{
	if (pair->listener || now < pair->listen_ns)
		return;
	if (pair_listen(pair) < 0) {
		pair->listen_ns = now + REJOIN_NS;
		if (is_news(pair))
			say("%s", fail_message());
	}
}

void pair_tick(evutil_socket_t fd, short what, void *context)
{
	struct pair *pair = context;
	uint64_t now = now_ns();
	/* After a standstill of this process (SIGSTOP, a suspended host) the other side's silence is
	 * only ours: what it sent meanwhile is still to be read. */
	bool stood_still = now - pair->tick_ns > (uint64_t)pair->host.config->timeout_ms * 500000u;
	(void)fd, (void)what;
	pair->tick_ns = now;
	if (pair->announcements > 0 && pair->role != ROLE_BACKUP) {
		pair->announcements--;
		host_announce(&pair->host);
	}
	if (pair->role == ROLE_SOLO) {
		tick_solo(pair, now);
		return;
	}
	if (pair->role == ROLE_STANDBY) {
		tick_standby(pair, now);
		return;
	}
	if (pair->role == ROLE_LIVE) {
		failover_take_over(pair);
		if (pair->role == ROLE_LIVE)
			(void)is_deposed(pair, now); /* the rest may take long */
		return;
	}
	if (pair->role != ROLE_PRIMARY && pair->role != ROLE_BACKUP)
		return;
	if (!pair->on_heartbeat) { /* fenced: only the arbiter's answer is missing */
		failover_go_alone(pair);
		return;
	}
	beat(pair, 0);
	heard(pair);
	if (pair->role == ROLE_PRIMARY && !machine_ended(&pair->host.machine)) {
		uint64_t flushed = atomic_load(&pair->host.live.flushed);
		if (flushed == pair->flushed_seen)
			live_beat(&pair->host.machine);
		pair->flushed_seen = flushed;
	}
	const char *why = stood_still ? NULL : silent(pair);
	if (!why)
		return;
	unwatch_session(pair);
	if (pair->role == ROLE_PRIMARY)
		failover_backup_lost(pair, why);
	else
		failover_suspect(pair, why);
}

/* ---- ends ---- */

/* The machine of a live process has ended by itself or by request: its last outputs leave first. */
static void finish_live(struct pair *pair)
{
	uint32_t flags = HEARTBEAT_LEAVING;
	if (!host_drain(&pair->host, LAST_OUTPUTS_MS)) {
		say("the guest has ended, but the last outputs were not acknowledged and did not "
		    "leave");
		flags = 0; /* so that the backup takes over, to send its own */
	}
	/* A stop whose END found no room in the log is told this way. */
	if (pair->host.machine.verdict == MACHINE_STOPPED)
		flags |= HEARTBEAT_STOP_REQUESTED;
	if (pair->session)
		beat(pair, flags);
	pair_halt(pair, host_verdict(&pair->host));
}

/*
 * A backup that has diverged or failed is of no use as it is, and must never go live (D5): it leaves the
 * session, forgets its machine and what that has sent, and waits to be copied anew; each time it happens,
 * longer.
 */
static void rejoin(struct pair *pair)
{
	struct host *host = &pair->host;
	struct session *session = pair->session;
	const struct commit none = {.session = SESSION_ALONE};
	unsigned times = pair->divergences < 6 ? (unsigned)pair->divergences : 6;
	say("%s", host->machine.message);
	pair->divergences++;
	beat(pair, HEARTBEAT_DIVERGED);
	unwatch_session(pair);
	session->provider->fence(session->connection);
	machine_join(&host->machine);
	receiver_stop(&session->receiver);
	host_set_commit(host, &none, NULL);
	host_forget_outputs(host);
	pair_drop_session(pair);
	host_drop_machine(host);
	pair->listen_ns = now_ns() + (REJOIN_NS << times);
	role_change(&pair->role, ROLE_STANDBY);
}

void pair_woken(void *context)
{
	struct pair *pair = context;
	struct machine *m = &pair->host.machine;
	if (pair->role == ROLE_BACKUP || pair->role == ROLE_LIVE)
		start_following(pair);
	bool ended = pair->host.has_machine && machine_ended(m);
	switch (pair->role) {
	case ROLE_SOLO:
	case ROLE_PRIMARY:
		if (ended)
			finish_live(pair);
		break;
	case ROLE_BACKUP:
		if (atomic_load(&pair->broken)) {
			unwatch_session(pair);
			failover_suspect(pair, "its log is damaged");
		} else if (ended && m->verdict != MACHINE_ENDED && m->verdict != MACHINE_STOPPED) {
			/* What KVM cannot run here but runs over there is another machine too. */
			if (!pair->host.config->end_diverged && !pair->session->log_thread) {
				rejoin(pair);
				return;
			}
			/* It has diverged or failed: the acks freeze and the primary goes on without it. */
			receiver_stop(&pair->session->receiver);
			pair->session->provider->fence(pair->session->connection);
			pair_halt(pair, host_verdict(&pair->host));
		}
		/* One that has ended in order stays until the primary has sent its last outputs. */
		break;
	case ROLE_LIVE:
		failover_take_over(pair);
		break;
	default:
		break;
	}
}

static void leave_machine(struct machine *m, void *argument)
{
	(void)argument;
	machine_end(m, MACHINE_STOPPED, NULL);
}

/* SIGTERM or SIGINT: this process goes. A protected guest goes on at the other side. */
void pair_leave(void *context)
{
	struct pair *pair = context;
	if (pair->role == ROLE_SOLO) {
		stop_vm(pair);
		return;
	}
	if (pair->role == ROLE_PRIMARY) {
		struct machine *m = &pair->host.machine;
		bool ended = machine_ended(m);
		/* From here on nothing more is logged: not even that the guest has ended. */
		machine_call(m, MACHINE_ANYWHERE, leave_machine, NULL);
		if (ended || m->verdict == MACHINE_ENDED) {
			finish_live(pair);
			return;
		}
		say("leaving: VM %s goes on at the backup", pair->host.config->name);
	}
	if (pair->session)
		beat(pair, HEARTBEAT_LEAVING);
	pair_halt(pair, STATUS_OK);
}

void pair_stop(void *context)
{
	stop_vm(context);
}

void pair_close(struct pair *pair)
{
	struct host *host = &pair->host;
	const struct commit none = {.session = SESSION_ALONE};
	if (pair->session)
		pair->session->provider->fence(pair->session->connection);
	/* The vCPU stops first, then the receiver: each uses what is closed behind it. */
	if (host->has_machine) {
		machine_call(&host->machine, MACHINE_ANYWHERE, leave_machine, NULL);
		machine_join(&host->machine);
	}
	if (pair->session)
		receiver_stop(&pair->session->receiver);
	host_set_commit(host, &none, NULL);
	if (pair->session)
		pair_drop_session(pair);
	stop_listening(pair);
	if (pair->log)
		pair->log->kind->close(pair->log);
	if (pair->on_tick)
		event_free(pair->on_tick);
	if (pair->arbiter)
		arbiter_close(pair->arbiter);
}

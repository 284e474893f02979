#include "engine/session.h"

#include "engine/clone.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC_HELLO 0x4c454844u /* "DHEL" */
#define MAGIC_WELCOME 0x4c455744u
#define CONNECT_MS 1000u
#define ANSWER_MS 3000u
#define PAGE 4096u

/* What this file speaks: a new one for every change of a message. In a build with crash points the
 * tests can make it another. */
static const char *speaks(void)
{
#ifdef CRASH_POINTS
	if (getenv("DOPPEL_SPEAKS"))
		return getenv("DOPPEL_SPEAKS");
#endif
	return "doppel session 2";
}

struct hello {
	uint32_t magic, log_version, session;
	uint8_t pad1[4];
	char speaks[24];
	char vm[ARBITER_NAME_MAX + 1];
	uint8_t mac[6];
	uint8_t pad;
	char cpu[CPU_MODEL_NAME];
	uint64_t cpu_digest, memory, ring, generation, state_size;
	char holder[33]; /* the tag in the generation's file: both must see the same arbiter */
	uint8_t pad2[1];
	uint16_t beat_port;
	uint32_t commit;
	char beat_host[64];
};

struct welcome {
	uint32_t magic, refused;
	uint16_t beat_port;
	char beat_host[64];
	char reason[190];
};

static void copy_text(char *to, size_t size, const char *from)
{
	size_t length = strnlen(from, size - 1);
	memcpy(to, from, length);
	memset(to + length, 0, size - length);
}

static bool text_ends(const char *text, size_t size)
{
	return memchr(text, '\0', size) != NULL;
}

static struct session *session_new(void)
{
	struct session *session = calloc(1, sizeof *session);
	if (session)
		session->udp = -1;
	return session;
}

static int open_beats(struct session *session, const struct host *host, uint16_t *port)
{
	*port = 0;
	int fd = heartbeat_open(host->config->heartbeat, port);
	if (fd < 0)
		return fd;
	session->udp = fd;
	return 0;
}

static int begin_beats(
	struct session *session, const char *host, uint16_t port, enum heartbeat_side side)
{
	int error = heartbeat_peer(session->udp, host, port, &session->beat_to);
	if (error)
		return error;
	copy_text(session->peer, sizeof session->peer, host);
	heartbeat_begin(&session->beats, session->secret, side);
	session->heard_ns = now_ns();
	return 0;
}

int session_expect(struct session *session, void *message, size_t size, uint32_t magic,
	const char *what, unsigned timeout_ms)
{
	size_t length;
	uint32_t found;
	int error =
		session->provider->recv(session->connection, message, size, &length, timeout_ms);
	if (error)
		return error;
	memcpy(&found, message, sizeof found);
	if (length != size || found != magic)
		return fail(EPROTO,
			"the peer's %s has %zu bytes and not %zu: is it the same version of "
			"Doppel?",
			what, length, size);
	return 0;
}

/* ---- primary: the sink of the log ---- */

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	struct session *session = context;
	return session->provider->write_log(session->connection, lsn, pieces, count);
}

static uint64_t sink_written(void *context)
{
	struct session *session = context;
	return session->provider->written(session->connection);
}

static uint64_t sink_consumed(void *context, uint64_t head)
{
	struct session *session = context;
	return ack_read(&session->consumed, head);
}

static const struct log_sink session_sink = {
	.write = sink_write,
	.written = sink_written,
	.consumed = sink_consumed,
};

/* What an output waits for; at the level `placed`, for no counter. */
static const enum ack_counter counters[COMMIT_LEVELS] = {
	[COMMIT_RECEIVED] = ACK_RECEIVED,
	[COMMIT_DURABLE] = ACK_DURABLE,
	[COMMIT_REPLAYED] = ACK_REPLAYED,
};

/* The LSN that a counter tells, of what was handed over. */
static uint64_t reached(const struct session *session, struct ack_reader *reader)
{
	return ack_read(
		reader, atomic_load_explicit(&session->live->flushed, memory_order_acquire));
}

uint64_t session_committed(void *context, enum output_device device)
{
	(void)device;
	struct session *session = context;
	if (session->commit == COMMIT_PLACED)
		return session->provider->written(session->connection);
	return reached(session, &session->committed);
}

uint64_t session_received(struct session *session)
{
	return reached(session, &session->received);
}

uint64_t session_replayed(struct session *session)
{
	return reached(session, &session->replayed);
}

uint64_t session_durable(struct session *session)
{
	return reached(session, &session->durable);
}

static uint64_t received_instead(void *context, enum output_device device)
{
	(void)device;
	struct session *session = context;
	return reached(session, &session->fallback);
}

void session_forgo_durable(struct session *session, struct host *host)
{
	if (session->commit != COMMIT_DURABLE)
		return;
	const struct commit commit = {
		.session = session->id, .reached = received_instead, .context = session};
	host_set_commit(host, &commit, session->provider->bell(session->connection));
	/* The dataplane thread reads it no more. */
	session->commit = COMMIT_RECEIVED;
	say("the backup's durable log is lost: outputs wait until they are received, and no longer "
	    "until they are durable");
}

/* ---- primary: the handshake ---- */

static int greet(struct session *session, struct host *host, struct arbiter *arbiter)
{
	struct arbiter_holder holder;
	struct hello hello = {.magic = MAGIC_HELLO,
		.log_version = LOG_FORMAT_VERSION,
		.session = session->id,
		.cpu_digest = host->machine.vcpu.model.digest,
		.memory = host->machine.memory.size,
		.ring = session->ring,
		.generation = session->generation,
		.state_size = machine_state_size(),
		.commit = session->commit};
	int error = arbiter_holder(arbiter, session->generation, &holder);
	if (!error)
		error = open_beats(session, host, &hello.beat_port);
	if (error)
		return error;
	copy_text(hello.speaks, sizeof hello.speaks, speaks());
	copy_text(hello.vm, sizeof hello.vm, host->config->name);
	copy_text(hello.cpu, sizeof hello.cpu, host->machine.vcpu.model.name);
	copy_text(hello.holder, sizeof hello.holder, holder.tag);
	copy_text(hello.beat_host, sizeof hello.beat_host, host->config->heartbeat);
	memcpy(hello.mac, host->machine.announce.mac, sizeof hello.mac);
	error = session->provider->send(session->connection, &hello, sizeof hello);
	struct welcome welcome;
	if (!error)
		error = session_expect(
			session, &welcome, sizeof welcome, MAGIC_WELCOME, "answer", ANSWER_MS);
	if (error)
		return error;
	if (!text_ends(welcome.reason, sizeof welcome.reason) ||
		!text_ends(welcome.beat_host, sizeof welcome.beat_host))
		return fail(EPROTO, "the standby's answer is damaged");
	if (welcome.refused)
		return fail(EPERM, "the standby refuses: %s", welcome.reason);
	return begin_beats(session, welcome.beat_host, welcome.beat_port, HEARTBEAT_PRIMARY);
}

/* The log's writes are read from the staging ring, and received frames from where the port has them, by
 * whoever carries them. */
static int register_sources(struct session *session, const struct port *port)
{
	void *base;
	size_t size;
	log_writer_staging(session->log, &base, &size);
	int error = session->provider->register_source(session->connection, base, size);
	if (error || !port)
		return error;
	port_packets(port, &base, &size);
	error = session->provider->register_source(session->connection, base, size);
	if (!error)
		log_writer_lend(session->log, base, size);
	return error;
}

int session_connect(struct session **out, struct host *host, const char *address, uint32_t id,
	struct arbiter *arbiter, const struct auth_key *key, uint64_t generation)
{
	const struct provider *provider;
	const char *where;
	int error = provider_find(address, &provider, &where);
	if (error)
		return error;
	struct session *session = session_new();
	if (!session)
		return fail(ENOMEM, "no memory for a session");
	session->provider = provider;
	session->id = id;
	session->ring = host->config->ring;
	session->commit = host->config->commit;
	session->generation = generation;
	session->live = &host->live;
	error = provider->connect(where, CONNECT_MS, &session->connection);
	if (!error)
		error = auth_as_primary(key, provider, session->connection, &session->secret);
	if (!error)
		error = greet(session, host, arbiter);
	if (!error)
		error = provider->attach(session->connection, session->ring,
			host->machine.memory.size, session->secret);
	if (!error)
		error = log_writer_create(
			&session->log, &session_sink, session, session->ring, session->secret, 0);
	if (!error)
		error = register_sources(session, host->port);
	if (!error && session->commit == COMMIT_PLACED)
		error = provider->placed(session->connection);
	if (error)
		goto undo;
	const struct ack_block *acks = provider->acks(session->connection);
	session->committed =
		(struct ack_reader){acks, session->secret, counters[session->commit], 0};
	session->fallback = (struct ack_reader){acks, session->secret, ACK_RECEIVED, 0};
	session->consumed = (struct ack_reader){acks, session->secret, ACK_CONSUMED, 0};
	session->received = (struct ack_reader){acks, session->secret, ACK_RECEIVED, 0};
	session->replayed = (struct ack_reader){acks, session->secret, ACK_REPLAYED, 0};
	session->durable = (struct ack_reader){acks, session->secret, ACK_DURABLE, 0};
	session->beat = (struct ack_reader){acks, session->secret, ACK_BEAT, 0};
	*out = session;
	return 0;

undo:
	session_close(session);
	return error;
}

/* ---- standby ---- */

static void refuse(struct session *session, const char *reason)
{
	struct welcome welcome = {.magic = MAGIC_WELCOME, .refused = 1};
	copy_text(welcome.reason, sizeof welcome.reason, reason);
	/* If the refusal does not arrive, the end of the connection does. */
	if (session->provider->send(session->connection, &welcome, sizeof welcome) < 0)
		return;
}

/* Whether this primary's guest can live here; everything in `hello` is hostile. */
static int examine(const struct hello *hello, const struct host *host,
	const struct cpu_model *model, struct arbiter *arbiter)
{
	const struct config *config = host->config;
	struct arbiter_holder holder;
	uint64_t newest;
	if (!text_ends(hello->speaks, sizeof hello->speaks) ||
		strncmp(hello->speaks, "doppel ", 7) != 0)
		return fail(EPROTO, "the primary's greeting is damaged");
	if (strcmp(hello->speaks, speaks()) != 0 || hello->log_version != LOG_FORMAT_VERSION ||
		hello->state_size != machine_state_size())
		return fail(EPERM,
			"the primary is another version of Doppel (%s, log format %u; here %s, log "
			"format %u); run the same on both hosts",
			hello->speaks, hello->log_version, speaks(), LOG_FORMAT_VERSION);
	if (!text_ends(hello->vm, sizeof hello->vm) || !text_ends(hello->cpu, sizeof hello->cpu) ||
		!text_ends(hello->beat_host, sizeof hello->beat_host) ||
		!text_ends(hello->holder, sizeof hello->holder))
		return fail(EPROTO, "the primary's greeting is damaged");
	if (strcmp(hello->vm, config->name) != 0)
		return fail(EPROTO,
			"this standby is for VM %s, not %s; give both sides the same --name",
			config->name, hello->vm);
	if (hello->cpu_digest != model->digest)
		return fail(EPERM,
			"the CPUs differ: %s there, %s here; a pair needs the same model",
			hello->cpu, model->name);
	if (config->memory && hello->memory != config->memory)
		return fail(EPERM,
			"the guest has %llu MiB of memory, this standby expects %llu; give it the "
			"guest's --memory, or none",
			(unsigned long long)(hello->memory >> 20),
			(unsigned long long)(config->memory >> 20));
	if (hello->memory < GUEST_MEMORY_MIN || hello->memory > GUEST_MEMORY_MAX ||
		hello->memory % PAGE != 0 || hello->ring < LOG_RING_MIN ||
		hello->ring > (1u << 30) || (hello->ring & (hello->ring - 1)) != 0 ||
		hello->session == SESSION_ALONE || hello->commit >= COMMIT_LEVELS)
		return fail(EPROTO, "the primary's greeting asks for what cannot be");
	if (arbiter_holder(arbiter, hello->generation, &holder) < 0 ||
		strcmp(holder.tag, hello->holder) != 0)
		return fail(EPERM,
			"the two sides do not see the same arbiter: generation %llu is not the "
			"primary's in %s; give both the same directory",
			(unsigned long long)hello->generation, config->arbiter);
	/* One that was deposed and has not heard of it yet must not find a backup to release outputs. */
	if (arbiter_current(arbiter, &newest) < 0 || newest != hello->generation)
		return fail(ESTALE,
			"generation %llu of VM %s is not the newest: the primary was deposed",
			(unsigned long long)hello->generation, config->name);
	return 0;
}

/* Whether the durable log, if there is to be one, suits this guest and its primary. */
static int check_log(const struct config *config, const struct hello *hello)
{
	if (!config->log && hello->commit == COMMIT_DURABLE)
		return fail(EPERM, "the primary asks for --commit durable, and this standby has no "
				   "--log PATH");
	if (!config->log)
		return 0;
	uint64_t least = durable_size_min(machine_state_size(), hello->memory);
	if (config->log_size < least)
		return fail(EPERM,
			"a log of %llu MiB is too small for a guest with %llu MiB of memory: give "
			"%llu MiB with --log-size",
			(unsigned long long)(config->log_size >> 20),
			(unsigned long long)(hello->memory >> 20),
			(unsigned long long)((least + (1u << 20) - 1) >> 20));
	return 0;
}

/* The machine is what it will be at the log's first entry. Takes the file if all goes well. */
static int begin_log(struct session *session, struct host *host, struct log_file **file)
{
	struct durable_thread *log = session->log_thread = calloc(1, sizeof *log);
	void *state = malloc(machine_state_size());
	if (!log || !state) {
		free(state);
		return fail(ENOMEM, "no memory for the log's thread");
	}
	log->keep = host->config->log_newest ? DURABLE_KEEP_NEWEST : DURABLE_KEEP_ALL;
	log->storage = (*file)->kind->name;
	log->origin = (struct recording_origin){.vm = host->config->name,
		.generation = session->generation,
		.secret = session->secret,
		.state = state,
		.state_size = machine_state_size(),
		.memory = host->machine.memory.base,
		.memory_size = host->machine.memory.size};
	log->ring = session->provider->ring(session->connection);
	log->ring_size = session->ring;
	if (session->commit == COMMIT_DURABLE)
		log->progress = session->provider->bell(session->connection);
	int error = machine_save(&host->machine, state);
	if (error)
		return error;
	log->file = *file;
	*file = NULL;
	return 0;
}

static int answer(struct session *session, struct host *host, struct arbiter *arbiter)
{
	struct hello hello;
	struct cpu_model model;
	int error =
		session_expect(session, &hello, sizeof hello, MAGIC_HELLO, "greeting", ANSWER_MS);
	if (error)
		return error;
	struct welcome welcome = {.magic = MAGIC_WELCOME};
	/* The machine is made first: its CPU model is what the primary's is compared with. */
	error = host_make_machine(host, hello.memory, hello.mac);
	if (!error) {
		model = host->machine.vcpu.model;
		error = examine(&hello, host, &model, arbiter);
	}
	if (!error)
		error = check_log(host->config, &hello);
	if (!error)
		error = open_beats(session, host, &welcome.beat_port);
	if (error) {
		refuse(session, fail_message());
		return error;
	}
	session->id = hello.session;
	session->ring = hello.ring;
	session->generation = hello.generation;
	session->commit = (enum commit_level)hello.commit;
	copy_text(welcome.beat_host, sizeof welcome.beat_host, host->config->heartbeat);
	error = begin_beats(session, hello.beat_host, hello.beat_port, HEARTBEAT_BACKUP);
	if (!error)
		error = session->provider->send(session->connection, &welcome, sizeof welcome);
	if (!error)
		error = session->provider->expose(session->connection, session->ring,
			host->machine.memory.fd, host->machine.memory.size, session->secret);
	return error;
}

int session_accept(struct session **out, struct host *host, const struct provider *provider,
	struct listener *listener, struct arbiter *arbiter, const struct auth_key *key,
	struct log_file **log, struct replay *replay)
{
	uint64_t time_ns = 0;
	struct session *session = session_new();
	if (!session)
		return fail(ENOMEM, "no memory for a session");
	session->provider = provider;
	int error = provider->accept(listener, &session->connection);
	if (!error)
		error = auth_as_standby(key, provider, session->connection, &session->secret);
	if (!error)
		error = answer(session, host, arbiter);
	if (!error)
		error = clone_receive(session, host, &time_ns);
	if (!error && *log)
		error = begin_log(session, host, log);
	if (error) {
		session_close(session);
		host_drop_machine(host);
		return error;
	}
	memset(replay, 0, sizeof *replay);
	replay->time_ns = time_ns;
	replay->session = session->id;
	log_reader_ring(&replay->reader, provider->ring(session->connection), session->ring,
		session->secret, 0);
	replay_begin(&host->machine, replay);
	session->receiver = (struct receiver){.provider = provider,
		.connection = session->connection,
		.machine = &host->machine,
		.log = session->log_thread,
		.commit = session->commit};
	log_reader_ring(&session->receiver.reader, provider->ring(session->connection),
		session->ring, session->secret, 0);
	*out = session;
	return 0;
}

/* ---- both ---- */

void session_beat(struct session *session, const struct heartbeat *heartbeat)
{
	/* One that cannot be sent is one that was lost. */
	(void)heartbeat_send(session->udp, &session->beat_to, &session->beats, heartbeat);
}

void session_hear(struct session *session)
{
	while (heartbeat_receive(session->udp, &session->beats, &session->heard) > 0)
		session->heard_ns = now_ns();
}

void session_close(struct session *session)
{
	if (!session)
		return;
	durable_thread_stop(session->log_thread);
	if (session->connection) {
		session->provider->fence(session->connection);
		session->provider->close(session->connection);
	}
	if (session->log)
		log_writer_destroy(session->log);
	if (session->udp >= 0)
		close(session->udp);
	free(session);
}

#include "perf/peer.h"

#include "engine/pair.h"

#include <sys/prctl.h>

void __real_host_set_commit(struct host *host, const struct commit *commit, struct bell *bell);
void __wrap_host_set_commit(struct host *host, const struct commit *commit, struct bell *bell);

void __real_replay_extend(struct machine *m, uint64_t limit);
void __wrap_replay_extend(struct machine *m, uint64_t limit);

/* The vCPU thread's own reader; it is made before the guest goes on behind the clone. */
static struct ack_reader received;
static _Atomic bool is_open;

/* The one place at which the engine says which session outputs wait for. */
void __wrap_host_set_commit(struct host *host, const struct commit *commit, struct bell *bell)
{
	atomic_store(&is_open, false);
	if (commit->session != SESSION_ALONE && host->config->command == COMMAND_PRIMARY) {
		received = ((const struct session *)commit->context)->received;
		atomic_store(&is_open, true);
	}
	__real_host_set_commit(host, commit, bell);
}

bool peer_has_acked(struct machine *m)
{
	static bool is_sharp;
	/* Whoever waits for an ack sleeps for microseconds, and not up to 50 of them longer. */
	if (!is_sharp)
		prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	is_sharp = true;
	uint64_t flushed = atomic_load_explicit(&m->live->flushed, memory_order_relaxed);
	return atomic_load(&is_open) && m->live->log && ack_read(&received, flushed) == flushed;
}

/* The receiver's thread: the peers wait for more than outputs, so that each batch is acknowledged at once. */
void __wrap_replay_extend(struct machine *m, uint64_t limit)
{
	const struct pair *pair = m->replay->context;
	const struct receiver *receiver = &pair->session->receiver;
	/* Of an error the control thread hears in another way. */
	(void)!receiver->provider->write_ack(receiver->connection, ACK_RECEIVED, limit);
	__real_replay_extend(m, limit);
}

/* ---- the live source, but for `inputs` ---- */

static uint64_t clock_value(struct machine *m)
{
	return __real_live_source.clock(m);
}

static void random_bytes(struct machine *m, void *bytes, size_t length)
{
	__real_live_source.random(m, bytes, length);
}

static void output(struct machine *m, enum output_device device, const struct output_group *group)
{
	__real_live_source.output(m, device, group);
}

static void held_up(struct machine *m, enum output_device device)
{
	__real_live_source.held_up(m, device);
}

static void leave(struct machine *m)
{
	__real_live_source.leave(m);
}

static bool interrupted(struct machine *m)
{
	return __real_live_source.interrupted(m);
}

static void ended(struct machine *m, enum log_end reason, uint32_t value)
{
	__real_live_source.ended(m, reason, value);
}

extern const struct source __wrap_live_source;
const struct source __wrap_live_source = {.clock = clock_value,
	.random = random_bytes,
	.output = output,
	.inputs = peer_inputs,
	.held_up = held_up,
	.leave = leave,
	.interrupted = interrupted,
	.ended = ended};

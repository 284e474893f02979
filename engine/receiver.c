#include "engine/receiver.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "base/thread.h"
#include "engine/replay.h"

#include <string.h>

#define BATCH 64u
#define SLEEP_NS 5000000u /* applied LSNs are looked at this often when nobody waits for them */
#define RING_SHARE 8u     /* the part of the ring that the primary hears of as soon as it is free */

/* What cannot be, the log says in vain: of a device that is none, or of what is not logged yet. */
static void learn_released(struct receiver *receiver, const struct log_entry *entry)
{
	struct log_released gone;
	memcpy(&gone, entry->payload, sizeof gone);
	if (gone.device >= OUTPUT_DEVICES || gone.lsn > entry->lsn)
		return;
	_Atomic uint64_t *released = &receiver->released[gone.device];
	if (gone.lsn > atomic_load_explicit(released, memory_order_relaxed))
		atomic_store_explicit(released, gone.lsn, memory_order_release);
}

/* Takes up to BATCH whole entries. Returns whether there were any. */
static bool take(struct receiver *receiver, enum log_verdict *verdict)
{
	struct log_entry entry;
	uint64_t before = receiver->reader.next;
	*verdict = LOG_VALID;
	receiver->awaited = false;
	for (unsigned n = 0; n < BATCH; n++) {
		*verdict = log_reader_peek(&receiver->reader, &entry);
		if (*verdict != LOG_VALID)
			break;
		CHECK(L1, entry.lsn == receiver->reader.next,
			"an entry at LSN %llu where %llu comes next", (unsigned long long)entry.lsn,
			(unsigned long long)receiver->reader.next);
		if (entry.kind == LOG_OUTPUT)
			receiver->awaited = true;
		if (entry.kind == LOG_RELEASED)
			learn_released(receiver, &entry);
		log_reader_take(&receiver->reader, &entry);
	}
	if (receiver->reader.next == before)
		return false;
	CRASH_POINT("receive.checked");
	return true;
}

/* Acks are frozen as soon as the machine has diverged or failed, not when the control thread hears of
 * it (D5). One that has ended in order has still to be told from a dead one. */
static bool frozen(struct receiver *receiver)
{
	enum machine_verdict verdict = receiver->machine->verdict;
	return verdict == MACHINE_DIVERGED || verdict == MACHINE_FAILED ||
	       atomic_load_explicit(&receiver->silent, memory_order_relaxed);
}

static void acknowledge(struct receiver *receiver, enum ack_counter counter, uint64_t value)
{
	if (frozen(receiver))
		return;
	CRASH_POINT("ack.before");
	/* An error means that the connection is gone; the role logic hears of that by itself. */
	if (receiver->provider->write_ack(receiver->connection, counter, value) == 0)
		CRASH_POINT("ack.after");
}

/* Acknowledges what is persistent. Returns up to where the log needs the ring no more. */
static uint64_t acknowledge_durable(struct receiver *receiver, uint64_t received, uint64_t *acked)
{
	if (!receiver->log)
		return UINT64_MAX;
	uint64_t done = durable_thread_done(receiver->log);
	uint64_t durable = atomic_load_explicit(&receiver->log->durable, memory_order_acquire);
	if (durable > *acked) {
		CHECK(L1, durable <= received, "LSN %llu is durable, and only %llu was received",
			(unsigned long long)durable, (unsigned long long)received);
		acknowledge(receiver, ACK_DURABLE, durable);
		*acked = durable;
	}
	return done;
}

/*
 * An ack wakes the primary's dataplane. So it is written at once when somebody waits for it there,
 * the commit counter's for an output and `consumed` for room, and otherwise with the next beat.
 */
static void *run(void *argument)
{
	struct receiver *receiver = argument;
	struct idle idle = {
		.bell = receiver->provider->bell(receiver->connection), .longest_ns = SLEEP_NS};
	struct replay *replay = receiver->machine->replay;
	uint64_t received = 0, received_acked = 0, replayed_acked = 0, durable_acked = 0;
	uint64_t consumed_acked = 0;
	/* At the level `durable` too: if the log is lost, outputs wait for `received` instead. */
	bool awaits_received =
		receiver->commit == COMMIT_RECEIVED || receiver->commit == COMMIT_DURABLE;
	uint64_t beats = 0, beat_ns = 0, partial_ns = 0;
	thread_is_prompt();
	while (!atomic_load_explicit(&receiver->stopping, memory_order_acquire)) {
		idle_watch(&idle);
		enum log_verdict verdict;
		bool busy = take(receiver, &verdict);
		uint64_t now = now_ns();
		bool beat = now - beat_ns >= RECEIVER_BEAT_NS;
		if (busy) {
			atomic_store_explicit(&receiver->heard_ns, now, memory_order_relaxed);
			received = receiver->reader.next;
			if (receiver->log)
				durable_thread_extend(receiver->log, received);
		}
		if (received > received_acked && (beat || (receiver->awaited && awaits_received))) {
			acknowledge(receiver, ACK_RECEIVED, received);
			received_acked = received;
		}
		/* Behind the ack, for which a client waits: to wake the vCPU may cost us the processor. */
		if (busy)
			replay_extend(receiver->machine, received);
		uint64_t applied = atomic_load_explicit(&replay->applied, memory_order_acquire);
		CHECK(L3, applied <= received, "LSN %llu is applied, and only %llu was received",
			(unsigned long long)applied, (unsigned long long)received);
		uint64_t logged = acknowledge_durable(receiver, received, &durable_acked);
		uint64_t consumed = logged < applied ? logged : applied;
		bool much = consumed - consumed_acked > receiver->reader.size / RING_SHARE;
		if (applied > replayed_acked &&
			(beat || much || receiver->commit == COMMIT_REPLAYED)) {
			acknowledge(receiver, ACK_REPLAYED, applied);
			replayed_acked = applied;
			busy = true;
		}
		if (consumed > consumed_acked && (beat || much)) {
			acknowledge(receiver, ACK_CONSUMED, consumed);
			consumed_acked = consumed;
		}
		if (beat) {
			acknowledge(receiver, ACK_BEAT, ++beats);
			beat_ns = now;
		}
		if (verdict != LOG_PARTIAL) {
			partial_ns = 0;
		} else if (partial_ns == 0) {
			partial_ns = now;
		} else if (now - partial_ns > RECEIVER_PARTIAL_NS) {
			say("the log has been damaged at LSN %llu for a second: giving up the "
			    "connection",
				(unsigned long long)receiver->reader.next);
			receiver->broken(receiver->context);
			break;
		}
		if (busy)
			idle_busy(&idle);
		else
			idle_pause(&idle);
	}
	return NULL;
}

int receiver_start(struct receiver *receiver)
{
	atomic_store(&receiver->heard_ns, now_ns());
	int error = thread_start(&receiver->thread, "receiver", run, receiver);
	receiver->running = !error;
	return error;
}

void receiver_progress(struct receiver *receiver)
{
	if (receiver->commit == COMMIT_REPLAYED)
		bell_ring(receiver->provider->bell(receiver->connection));
}

void receiver_stop(struct receiver *receiver)
{
	if (!receiver->running)
		return;
	atomic_store_explicit(&receiver->silent, true, memory_order_relaxed);
	atomic_store_explicit(&receiver->stopping, true, memory_order_release);
	bell_ring(receiver->provider->bell(receiver->connection));
	pthread_join(receiver->thread, NULL);
	receiver->running = false;
}

void receiver_finish(struct receiver *receiver)
{
	enum log_verdict verdict;
	receiver_stop(receiver);
	while (take(receiver, &verdict)) {
		if (receiver->log)
			durable_thread_extend(receiver->log, receiver->reader.next);
		replay_extend(receiver->machine, receiver->reader.next);
	}
	replay_end_log(receiver->machine);
}

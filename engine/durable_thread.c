#include "engine/durable_thread.h"

#include "base/thread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLEEP_NS 100000000u /* every wake-up comes by the bell */

static void publish(struct durable_thread *log, const struct durable *durable)
{
	uint64_t begin = durable_begin(durable);
	if (begin > log->origin.start && atomic_load(&log->begin) == log->origin.start)
		say("the log has dropped its oldest entries: it can be dumped, but no longer "
		    "replayed");
	atomic_store(&log->begin, begin);
	/* P1: the entries' persistence comes before; pairs with P2. */
	atomic_store_explicit(&log->durable, durable_next(durable), memory_order_release);
	if (log->progress)
		bell_ring(log->progress);
}

/* Appends and persists what was received up to `to`; what fits, if not all does. */
static int write_entries(struct durable_thread *log, struct durable *durable, uint64_t to)
{
	uint64_t from = durable_next(durable);
	/* Only a peer that writes over what it was not given back can do that. */
	if (to - from > log->ring_size)
		return fail(
			EPROTO, "the primary has written over entries that were not logged yet");
	int error = durable_append(durable, log->ring + (from & (log->ring_size - 1)), to - from);
	if (durable_next(durable) == from)
		return error;
	int persist_error = durable_persist(durable);
	if (persist_error)
		return persist_error;
	publish(log, durable);
	return error;
}

static int follow(struct durable_thread *log, struct durable *durable)
{
	struct idle idle = {.bell = &log->bell, .longest_ns = SLEEP_NS};
	thread_is_prompt();
	int error = durable_persist(durable);
	while (!error) {
		idle_watch(&idle);
		bool stopping = atomic_load_explicit(&log->stopping, memory_order_acquire);
		/* E1: the ring's bytes come before; pairs with E2. */
		uint64_t received = atomic_load_explicit(&log->received, memory_order_acquire);
		if (received > durable_next(durable)) {
			error = write_entries(log, durable, received);
			idle_busy(&idle);
		} else if (stopping) {
			break;
		} else {
			idle_pause(&idle);
		}
	}
	return error;
}

static void *run(void *argument)
{
	struct durable_thread *log = argument;
	struct durable *durable = NULL;
	int error = durable_create(&durable, log->file, log->keep, &log->origin);
	log->file = NULL;
	atomic_store(&log->is_copied, true);
	log->copied(log->context);
	if (!error)
		error = follow(log, durable);
	if (error) {
		say("the durable log ends at LSN %llu, and nothing waits for it any more: %s",
			(unsigned long long)atomic_load(&log->durable), fail_message());
		atomic_store_explicit(&log->failed, true, memory_order_release);
		if (log->progress)
			bell_ring(log->progress);
	}
	durable_close(durable);
	return NULL;
}

int durable_thread_start(struct durable_thread *log)
{
	atomic_store(&log->received, log->origin.start);
	atomic_store(&log->durable, log->origin.start);
	atomic_store(&log->begin, log->origin.start);
	int error = thread_start(&log->thread, "log", run, log);
	log->running = !error;
	return error;
}

void durable_thread_extend(struct durable_thread *log, uint64_t received)
{
	atomic_store_explicit(&log->received, received, memory_order_release); /* E2 */
	bell_ring(&log->bell);
}

uint64_t durable_thread_done(const struct durable_thread *log)
{
	if (atomic_load_explicit(&log->failed, memory_order_acquire))
		return UINT64_MAX;
	return atomic_load_explicit(&log->durable, memory_order_acquire); /* P2 */
}

void durable_thread_stop(struct durable_thread *log)
{
	if (!log)
		return;
	if (log->running) {
		atomic_store_explicit(&log->stopping, true, memory_order_release);
		bell_ring(&log->bell);
		pthread_join(log->thread, NULL);
	} else if (log->file) {
		log->file->kind->close(log->file);
	}
	free((void *)log->origin.state);
	free(log);
}

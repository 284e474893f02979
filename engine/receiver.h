/*
 * The receiver: the backup's thread that follows the ring, checks each entry, and writes the acks. It
 * never waits for the vCPU, so `received` is as fresh as the network allows.
 */
#pragma once

#include "engine/durable_thread.h"
#include "engine/config.h"
#include "engine/machine.h"
#include "transport/log_reader.h"
#include "transport/transport.h"

/* How long an entry may stay half placed before the connection counts as broken (L2). */
#define RECEIVER_PARTIAL_NS 1000000000u
#define RECEIVER_BEAT_NS 20000000u

struct receiver {
	const struct provider *provider;
	struct connection *connection;
	struct machine *machine; /* follows the log by engine/replay.h */
	struct log_reader reader;
	struct durable_thread *log;    /* NULL: no log is kept */
	enum commit_level commit;      /* what outputs wait for: its acks are written at once */
	void (*broken)(void *context); /* the connection no longer carries a log; any thread */
	void *context;

	bool awaited; /* an output is among the entries taken last; the thread's own */

	pthread_t thread;
	bool running;
	_Atomic bool stopping;
	_Atomic bool silent;                       /* acks are frozen */
	_Atomic uint64_t released[OUTPUT_DEVICES]; /* the primary's outputs up to here have left */
	_Atomic uint64_t heard_ns;                 /* when log was last received */
};

/* Starts the thread. The fields of the first group are set by the caller. */
int receiver_start(struct receiver *receiver) MUST_CHECK;

/* Wakes it: the replay has come further. Any thread. */
void receiver_progress(struct receiver *receiver);

/* Control thread, after the connection is fenced: ends the thread, then takes everything that was
 * placed and is whole (L4), and ends the replay's log there. */
void receiver_finish(struct receiver *receiver);
/* Only ends the thread. */
void receiver_stop(struct receiver *receiver);

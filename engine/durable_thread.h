/*
 * The log thread of a backup with --log: writes a durable log (transport/durable.h) from what the
 * receiver has checked, and makes it persistent.
 *
 *     first state ─▶ the log's file ─▶ `copied`: the guest may run ─▶ persistent
 *     ring, up to what is received ─▶ the log's file ─▶ persistent ─▶ `durable` grows, the receiver
 *                                                                      acknowledges it
 *
 * Ring bytes are given back only when they are durable too (L3). When the log is full or its storage
 * fails, the thread says so, `durable` stays where it is, and nothing waits for it any longer: the ring
 * is given back as if there were no log, and the role logic tells the primary, whose outputs then wait
 * for `received`.
 */
#pragma once

#include "base/idle.h"
#include "transport/durable.h"

#include <pthread.h>

struct durable_thread {
	/* Set by the caller. */
	struct log_file *file; /* owned from the beginning */
	enum durable_keep keep;
	const char *storage; /* what the file lies on, for status */
	struct recording_origin
		origin; /* its memory stands still until `copied`; its state is owned */
	const uint8_t *ring;
	uint64_t ring_size;
	struct bell *progress; /* rung when `durable` has grown; NULL: nobody waits for it */
	void (*copied)(void *context); /* on the log thread, once, also when the log has failed */
	void *context;

	pthread_t thread;
	bool running;
	struct bell bell;
	_Atomic bool stopping;
	_Atomic bool is_copied;
	_Atomic bool failed;       /* for good */
	_Atomic uint64_t received; /* entries up to here are whole (L1) */
	_Atomic uint64_t durable;  /* and up to here persistent */
	_Atomic uint64_t begin;    /* the oldest entry kept */
};

int durable_thread_start(struct durable_thread *log) MUST_CHECK;

/* Any thread, one at a time: more was received. */
void durable_thread_extend(struct durable_thread *log, uint64_t received);

/* Any thread. The ring is not needed below this LSN; UINT64_MAX once the log has failed. */
uint64_t durable_thread_done(const struct durable_thread *log);

/* Control thread: writes what was received, ends the thread and frees `log`. While it runs, the ring
 * and the bells must last. NULL is nothing. */
void durable_thread_stop(struct durable_thread *log);

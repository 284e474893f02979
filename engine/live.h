/*
 * The live source: inputs come from the outside, at the position the guest happens to be at, and each
 * is appended to the log, if there is one, in the same step in which it is applied (D2).
 *
 * Alone, without a log, outputs are sealed as SESSION_ALONE and leave at once; with one, they are
 * sealed with the session and the end of their OUTPUT entry (O1, O2).
 */
#pragma once

#include "engine/lag.h"
#include "engine/machine.h"
#include "engine/queue.h"
#include "engine/resync.h"
#include "transport/log_writer.h"

struct live {
	struct log_writer *log; /* NULL: nothing is logged */
	uint32_t session;
	bool broken; /* the log takes no more; the guest waits until live_alone or the end */
	bool flush_wanted;
	bool output_sealed; /* since the log was last handed over */
	bool acks_ring;     /* who waits for acks is woken by them; set before live_begin_log */
	position told_reached;
	uint64_t told_released[OUTPUT_DEVICES], told_released_ns;

	/* How far behind the backup is; what that costs the guest. */
	struct lag lag;
	uint64_t logged;     /* LSN behind the last input or output */
	uint64_t entered_ns; /* when the guest was last let go on */
	_Atomic uint64_t
		stops; /* times that the guest has stood still for want of room in the log */
	/*
	 * Fairness: for how long the guest may compute without leaving KVM while an interrupt waits, until
	 * it is taken by a resync; alone it is taken at once. 0: for ever. The vCPU thread is alarmed to look.
	 */
	uint64_t wait_ns;
	uint64_t alarm_ns;         /* the next one, unless it is over */
	uint64_t waits_ns;         /* what the thread had run when one was first seen; 0: none waits */
	uint64_t waits_interrupts; /* how many the guest had taken by then */
	uint64_t forgot_ns;        /* guest time: what was changed before is not shipped */
	struct resync_counters resyncs;

	/* The guest's time: guest_ns at host_ns, when it was last asked, and the newest value given out. */
	uint64_t guest_ns, host_ns, newest_ns;
	uint64_t behind_ns; /* what it has yet to be given of a time in which it stood still */

	struct frame_queue frames;
	uint64_t short_since; /* the first of them finds too few buffers; 0: it does not */
	struct byte_queue keys;

	_Atomic uint64_t
		flushed; /* LSN up to which the log has been handed over; any thread reads */
	_Atomic uint64_t entries; /* of that log; any thread reads */
	/* The guest takes merged frames. Said to whoever makes them; of those that are on their way
	 * when it changes, the device drops what it must. */
	_Atomic bool may_merge;
	_Atomic bool beat_wanted; /* somebody wants a sign of life in the log */
	/* Wakes the dataplane: an output may leave now, or its entry has been handed over to a log
	 * whose acks do not ring. */
	void (*outputs_wait)(void *context);
	void *context;
};

extern const struct source live_source;

/* From now on the guest's time is `guest_ns` plus what has passed since `host_ns` of this host. */
void live_set_time(struct live *live, uint64_t guest_ns, uint64_t host_ns);

/* vCPU thread, paused: starts logging into `log` as `session`. */
void live_begin_log(struct machine *m, struct log_writer *log, uint32_t session);
/* vCPU thread, anywhere, after the fence: logs no more. Returns the writer, which the caller owns again. */
struct log_writer *live_end_log(struct machine *m);

/* For engine/resync.c: appends one of its entries, which waits for room like an input. False: there is no log
 * any more, or the machine has ended. */
bool live_append_resync(
	struct machine *m, enum log_kind kind, const void *payload, uint32_t length) MUST_CHECK;

/* vCPU thread: hands over what has gathered, if there is a log, and where the guest is (D6). */
void live_flush(struct machine *m);
/* vCPU thread: an output may leave, or be dropped, now. */
void live_wake_dataplane(struct live *live);

/* Any thread: asks for a MARK in the log soon, whether the guest exits or not. */
void live_beat(struct machine *m);

/* vCPU thread, paused: the machine stops because somebody asked; END goes into the log. */
void live_stop(struct machine *m);

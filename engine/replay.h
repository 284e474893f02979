/*
 * The replay source: inputs come from a log and are applied at exactly the positions it names.
 *
 * On a backup the log grows while it is followed: `limit` says how far it has been received, and
 * nothing beyond it is looked at. When the log has ended (`ended` is set after `limit` had its last
 * value) and all of it is applied, the machine is drained: it says so, though the guest may still be
 * computing towards its next exit, and waits there for a verdict, which is live_source or the end.
 * Offline, the end of the log is the end of the machine.
 *
 * An exit is left when the log shows that the primary has come to another one (D6), so that the guest here
 * never computes beside the primary, and whatever a resync brings is laid over what the primary had, too.
 */
#pragma once

#include "engine/histogram.h"
#include "engine/machine.h"
#include "transport/log_reader.h"

struct replay {
	struct log_reader reader;
	_Atomic uint64_t limit; /* set by the receiver: entries up to here are whole (L1) */
	_Atomic bool ended;     /* set by the control thread: nothing comes behind limit */
	_Atomic uint64_t
		applied; /* entries up to here are applied, digests equal; any thread reads */
	_Atomic bool drained;
	bool offline;
	uint32_t session; /* outputs are kept under it */
	/* Offline: stops before the first entry that lies at this LSN or behind it, or that tells a later
	 * time of the guest, at the position where it would be applied. */
	bool has_until;
	uint64_t until_lsn, until_ns;
	bool is_there;      /* has stopped so */
	position reached;   /* the primary has come to this position (D6) */
	uint64_t time_ns;   /* the newest guest time the log has told */
	uint64_t entries;   /* applied */
	enum log_kind last; /* of the entry applied last */

	/* How long the guest may compute, in processor time, once the primary is known to have come to the next
	 * position, before it is taken for diverged. 0: as long as it likes; so it may behind the log's end,
	 * since there is no other any more. */
	uint64_t patience_ns;
	uint64_t alarm_ns;
	position computing;    /* seen so behind this position, */
	uint64_t computing_ns; /* at this processor time */

	/* How far behind the replay is: an entry is marked when it is received, and the time until it is
	 * applied goes into the histogram; one at a time. */
	_Atomic uint64_t marked_lsn, marked_ns; /* lsn 0: none is marked */
	struct histogram lag;

	void (*progress)(void *context); /* `applied` has grown */
	void (*drained_now)(void *context);
	void *context;
};

extern const struct source replay_source;

/* vCPU thread or before the start: follow `reader` from the machine's present state. */
void replay_begin(struct machine *m, struct replay *replay);

/* Any thread: more of the log may be taken; or it ends here. */
void replay_extend(struct machine *m, uint64_t limit);
void replay_end_log(struct machine *m);

/* vCPU thread, anywhere, when drained: the machine is live from here on (L4). */
void replay_go_live(struct machine *m, uint64_t host_ns);

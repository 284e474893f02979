/*
 * Resync: the primary makes a point between two exits a position, by shipping the state itself. It is how a
 * guest that computes without leaving KVM is interrupted while every input has to have a position.
 *
 * The log is the only channel. A resync is a group of entries (transport/log_format.h):
 *
 *     primary, between the exits E and E+1          backup, at exit E or before
 *     PAGE   a page changed since before E  ──▶     staged; the machine stays as it is
 *     …
 *     COMMIT vCPU, devices, digest          ──▶     pages and state become the machine's
 *     position E+1 begins on both: inputs, the interrupt
 *
 * What makes it exact:
 *
 * - The backup leaves an exit only when the log proves that the primary has reached another (D6), so it is
 *   never beside the primary: while that computes behind E, the backup is at E or before it. To be what the
 *   primary is, it needs what the guest has changed since E, and no page of its own is to be undone.
 * - The primary ships the pages that KVM has noted since some exit before E: more than needed, and all of
 *   them. What devices write they write at exits (D1), and the backup's do the same.
 * - Before COMMIT the backup has changed nothing, so that a log that ends there leaves a machine at E; with
 *   COMMIT there is nothing left to wait for. An output behind a resync waits for an ack that covers it (L1).
 * - The resync counts as an exit: whatever is told of positions holds for it, and inputs that follow are
 *   behind it. The digest is stepped there by each side from what it has itself (D5).
 *
 * Everything belongs to the vCPU thread.
 */
#pragma once

#include "base/fail.h"
#include "transport/log_format.h"

#include <stdatomic.h>
#include <stdbool.h>

struct machine;

/* For status; any thread reads. */
struct resync_counters {
	_Atomic uint64_t count, pages;
	_Atomic uint64_t last_ns, total_ns, longest_ns; /* how long the guest stood still */
};

/*
 * Primary, between two exits, the last instruction finished: appends the group and makes this a position.
 * False: the machine has ended, or nothing is logged any more; either way there is none.
 */
bool resync_send(struct machine *m);

/* The primary has logged all that led to this exit: what was changed before need not be shipped. */
void resync_forget(struct machine *m);

/* Follower. Pages wait here, as they were logged, until their COMMIT. */
struct staging {
	uint8_t *pages; /* struct log_page, one after the other; NULL: there are none */
	size_t size;
	uint64_t count;
	uint64_t hash;
};

/* Takes a PAGE entry. -EPROTO: it cannot be one of this machine's. */
int staging_add(struct machine *m, const struct log_entry *entry) MUST_CHECK;

/* Makes what is staged, and the COMMIT entry's state, the machine's; it stands at the exit before. -EPROTO:
 * they do not fit; then nothing was changed. */
int staging_commit(struct machine *m, const struct log_entry *entry) MUST_CHECK;

/* Nothing is staged any more. */
void staging_drop(struct staging *staging);

/*
 * Lag: how far a backup's replay is behind its primary, and how much slower the primary's guest has to
 * be so that this stays within a bound (Scales et al., section 2.4).
 *
 * The lag is a time: how long ago that was handed over which the backup has not yet finished with, by
 * the ack at the primary. The primary keeps a few samples (LSN, time) of its log for that. What is
 * sampled are inputs and outputs: a guest that computes for long appends nothing but MARKs, which its
 * backup takes only when its own guest leaves.
 *
 * The guest is slowed by sleeping between two entries into it: for a share of the time, up to LAG_MOST,
 * in which it would otherwise have run. A guest that is halted owes nothing, and the guest's time,
 * which is the host's, goes on.
 *
 * The controller has two parts. Its base follows the share that was needed lately (ten times the bound
 * back), so that what remains is the share that a slower backup needs for good; around it the share
 * goes up and down in proportion to how far the backlog is from what makes the lag equal to the bound.
 * The backlog does not count the time slept, so that it answers at once to what the sleep does: the lag
 * itself answers only when the backup comes to what was handed over in slower times. Both answers are
 * smoothed. A backup within the bound, and a primary that was never slowed, has a share of 0.
 *
 * All of it belongs to the vCPU thread, but for what status reads. Times are of one clock, which the
 * caller reads.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LAG_SAMPLES 64u
#define LAG_MOST 0.9 /* of the guest's time, however far behind its backup is */

struct lag {
	uint64_t bound_ns; /* set once, before the first log; 0: the guest is never slowed */

	struct {
		uint64_t from;     /* what lies here and behind was handed over */
		uint64_t ns;       /* not before, */
		uint64_t slept_ns; /* and when so much had been slept */
	} sample[LAG_SAMPLES];
	unsigned first, samples;
	uint64_t noted;     /* the newest LSN that was handed over */
	uint64_t looked_ns; /* when lag_look was last of effect */
	uint64_t slept_ns, looked_slept_ns;
	uint64_t owed_ns;
	double share; /* of the guest's time that is slept */
	double base;  /* its mean */
	double speed; /* the mean share of all time that is not slept */

	/* For status; any thread reads. */
	_Atomic uint64_t shown_lag_ns, shown_slept_ns;
	_Atomic uint32_t shown_percent;
};

/* A log begins at LSN 0. */
void lag_begin(struct lag *lag, uint64_t now);
/* The log ends: nothing is slowed any more. */
void lag_end(struct lag *lag);

/* Inputs and outputs up to this LSN are handed over. */
void lag_note(struct lag *lag, uint64_t lsn, uint64_t now);

/* The backup has finished with everything below this LSN: measures the lag, and decides on the share.
 * To be called often; most calls return at once. */
void lag_look(struct lag *lag, uint64_t finished, uint64_t now);

/* The guest has run for so long: how long it has to sleep now, some milliseconds at most. What is too
 * short for a sleep is owed. */
uint64_t lag_pause(struct lag *lag, uint64_t ran_ns);
/* It has slept. */
void lag_slept(struct lag *lag, uint64_t ns);

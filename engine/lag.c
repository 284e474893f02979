#include "engine/lag.h"

#include <string.h>

#define LOOK_NS 1000000u
#define SAMPLES_PER_BOUND 32u
#define SHORTEST_NS 500000u /* shorter sleeps are mostly the kernel's own slack */
#define LONGEST_NS 10000000u
#define OWED_NS 50000000u /* of a guest that has not left for long */

#define GAIN 1.5
#define SMOOTHING 0.25
#define MEMORY 10.0     /* of the base, in bounds; far more than SMOOTHING makes it stable */
#define NEGLIGIBLE 0.01 /* of the guest's time */

void lag_begin(struct lag *lag, uint64_t now)
{
	lag->first = lag->samples = 0;
	lag->noted = 0;
	lag->looked_ns = now;
	lag->slept_ns = lag->looked_slept_ns = 0;
	lag->owed_ns = 0;
	lag->share = lag->base = 0;
	lag->speed = 1;
	atomic_store_explicit(&lag->shown_lag_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&lag->shown_slept_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&lag->shown_percent, 0, memory_order_relaxed);
}

void lag_end(struct lag *lag)
{
	lag_begin(lag, 0);
}

void lag_note(struct lag *lag, uint64_t lsn, uint64_t now)
{
	if (lsn <= lag->noted)
		return;
	unsigned newest = (lag->first + lag->samples - 1) % LAG_SAMPLES;
	/* The newest sample stands for all behind it. It makes that older than it is: by little, unless
	 * the backup is so far behind that there is room for no more. */
	bool is_close = lag->samples > 0 &&
			now - lag->sample[newest].ns < lag->bound_ns / SAMPLES_PER_BOUND;
	if (!is_close && lag->samples < LAG_SAMPLES) {
		unsigned next = (lag->first + lag->samples++) % LAG_SAMPLES;
		lag->sample[next].from = lag->noted;
		lag->sample[next].ns = now;
		lag->sample[next].slept_ns = lag->slept_ns;
	}
	lag->noted = lsn;
}

static void forget(struct lag *lag, uint64_t finished)
{
	if (finished >= lag->noted)
		lag->samples = 0;
	while (lag->samples > 1 && lag->sample[(lag->first + 1) % LAG_SAMPLES].from <= finished) {
		lag->first = (lag->first + 1) % LAG_SAMPLES;
		lag->samples--;
	}
}

static double limited(double value, double least, double most)
{
	return value < least ? least : value > most ? most : value;
}

/* Where a mean over about `memory_ns` stands after `passed_ns` more of `value`. */
static double mean(double old, double value, double passed_ns, double memory_ns)
{
	return old + (value - old) * limited(passed_ns / memory_ns, 0, 1);
}

static void decide(struct lag *lag, uint64_t backlog_ns, uint64_t passed_ns)
{
	double bound = (double)lag->bound_ns, passed = (double)passed_ns;
	double slept = (double)(lag->slept_ns - lag->looked_slept_ns);
	lag->speed = mean(lag->speed, 1 - limited(slept / passed, 0, 1), passed, MEMORY * bound);
	/* At this speed the lag is `backlog / speed`; its bound is one for the backlog. */
	double off = (double)backlog_ns / bound - lag->speed;
	double wanted = limited(lag->base + GAIN * off, 0, LAG_MOST);
	lag->share = mean(lag->share, wanted, passed, SMOOTHING * bound);
	lag->base = mean(lag->base, lag->share, passed, MEMORY * bound);
	if (wanted == 0 && lag->share < NEGLIGIBLE)
		lag->share = 0;
}

void lag_look(struct lag *lag, uint64_t finished, uint64_t now)
{
	uint64_t passed = now - lag->looked_ns;
	if (passed < LOOK_NS)
		return;
	uint64_t behind = 0, backlog = 0;
	forget(lag, finished);
	if (lag->samples > 0) {
		uint64_t since = lag->sample[lag->first].ns;
		behind = now > since ? now - since : 0; /* `now` may be read before the note */
		uint64_t slept = lag->slept_ns - lag->sample[lag->first].slept_ns;
		backlog = behind > slept ? behind - slept : 0;
	}
	if (lag->bound_ns > 0)
		decide(lag, backlog, passed);
	lag->looked_ns = now;
	lag->looked_slept_ns = lag->slept_ns;
	atomic_store_explicit(&lag->shown_lag_ns, behind, memory_order_relaxed);
	atomic_store_explicit(
		&lag->shown_percent, (uint32_t)(lag->share * 100 + 0.5), memory_order_relaxed);
}

uint64_t lag_pause(struct lag *lag, uint64_t ran_ns)
{
	if (lag->share == 0) {
		lag->owed_ns = 0;
		return 0;
	}
	double owed = (double)lag->owed_ns + (double)ran_ns * lag->share / (1 - lag->share);
	lag->owed_ns = (uint64_t)limited(owed, 0, OWED_NS);
	if (lag->owed_ns < SHORTEST_NS)
		return 0;
	return lag->owed_ns < LONGEST_NS ? lag->owed_ns : LONGEST_NS;
}

void lag_slept(struct lag *lag, uint64_t ns)
{
	lag->slept_ns += ns;
	lag->owed_ns -= ns < lag->owed_ns ? ns : lag->owed_ns;
	atomic_store_explicit(&lag->shown_slept_ns, lag->slept_ns, memory_order_relaxed);
}

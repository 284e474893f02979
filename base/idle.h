/*
 * What a polling thread does when there is nothing to do: decided here and nowhere else.
 *
 * A poller calls idle_busy() after each pass that found work and idle_pause() after each that did not.
 * idle_pause() spins for a few passes, then yields, then sleeps on the poller's bell until somebody
 * rings it or `longest_ns` is over. A bell is a 32-bit futex word that may lie in memory shared by
 * two processes; ringing one that nobody sleeps on costs a fence and a load.
 *
 * No wake-up is lost: the poller reads the bell (idle_watch) before it looks for work, and the sleep
 * refuses to start if the bell was rung since.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct bell {
	_Atomic uint32_t rung;     /* counts rings; the futex word */
	_Atomic uint32_t sleepers; /* threads that may be asleep on it */
};
_Static_assert(sizeof(struct bell) == 8, "shared between processes");

/* Wakes whoever sleeps on the bell. Any thread; call it after the work has been published. */
void bell_ring(struct bell *bell);

/* Sleeps until the bell is rung past `seen`, a signal arrives, or `longest_ns` is over. */
void bell_sleep(struct bell *bell, uint32_t seen, uint64_t longest_ns);

struct idle {
	struct bell *bell; /* may be changed by the poller's own thread between passes */
	uint64_t longest_ns;
	uint32_t seen;
	uint32_t passes;
};

/* Passes that spin and then yield before the first sleep: 20 and 2 if nothing else is said, few, so that a poller never
 * keeps a vCPU from running. For benches and tests, before any thread polls. */
void idle_configure(uint32_t spins, uint32_t yields);

/* Call at the top of a pass, before looking for work. */
static inline void idle_watch(struct idle *idle)
{
	idle->seen = atomic_load_explicit(&idle->bell->rung, memory_order_acquire);
}

static inline void idle_busy(struct idle *idle)
{
	idle->passes = 0;
}

void idle_pause(struct idle *idle);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t now_ns(void);

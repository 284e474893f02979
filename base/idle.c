#include "base/idle.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint32_t spins = 20;
static uint32_t yields = 2;

void idle_configure(uint32_t new_spins, uint32_t new_yields)
{
	spins = new_spins;
	yields = new_yields;
}

void bell_ring(struct bell *bell)
{
	/* B1: the ring is ordered before the look at `sleepers`; pairs with B2. Either the sleeper sees
	 * the new count and does not sleep, or we see the sleeper and wake it. */
	atomic_fetch_add_explicit(&bell->rung, 1, memory_order_seq_cst);
	if (atomic_load_explicit(&bell->sleepers, memory_order_seq_cst) != 0)
		syscall(SYS_futex, &bell->rung, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void bell_sleep(struct bell *bell, uint32_t seen, uint64_t longest_ns)
{
	struct timespec timeout = {.tv_sec = (time_t)(longest_ns / 1000000000u),
		.tv_nsec = (long)(longest_ns % 1000000000u)};
	/* B2: announced before the kernel compares the count; pairs with B1. A process that dies here
	 * leaves the number too high, which only costs needless wakes. */
	atomic_fetch_add_explicit(&bell->sleepers, 1, memory_order_seq_cst);
	syscall(SYS_futex, &bell->rung, FUTEX_WAIT, seen, &timeout, NULL, 0);
	atomic_fetch_sub_explicit(&bell->sleepers, 1, memory_order_relaxed);
}

void idle_pause(struct idle *idle)
{
	idle->passes++;
	if (idle->passes <= spins)
		__builtin_ia32_pause();
	else if (idle->passes <= spins + yields)
		sched_yield();
	else
		bell_sleep(idle->bell, idle->seen, idle->longest_ns);
}

uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * wake: what it costs on this machine to wake a thread that sleeps on a bell (base/idle.h), from the ring to its
 * first instruction: the median of some hundred times, in microseconds. A request's way through a protected guest
 * has more of these than through one alone.
 */
#include "base/idle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TIMES 501u
#define PAUSE_NS 300000 /* so that the sleeper, and its processor, is asleep */

static struct bell bell;
static _Atomic uint64_t rung_ns;
static _Atomic uint32_t woken;
static uint64_t took_ns[TIMES];

static void *sleeper(void *argument)
{
	(void)argument;
	for (uint32_t i = 0; i < TIMES; i++) {
		while (atomic_load(&bell.rung) == i)
			bell_sleep(&bell, i, 1000000000u);
		took_ns[i] = now_ns() - atomic_load(&rung_ns);
		atomic_store(&woken, i + 1);
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

int main(void)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NS};
	pthread_t thread;
	if (pthread_create(&thread, NULL, sleeper, NULL) != 0)
		return 1;
	for (uint32_t i = 0; i < TIMES; i++) {
		while (atomic_load(&woken) != i)
			nanosleep(&pause, NULL);
		nanosleep(&pause, NULL);
		atomic_store(&rung_ns, now_ns());
		bell_ring(&bell);
	}
	pthread_join(thread, NULL);
	qsort(took_ns, TIMES, sizeof took_ns[0], compare);
	printf("%.1f\n", (double)took_ns[TIMES / 2] / 1e3);
	return 0;
}

/*
 * wake: what it costs on this machine to wake three threads, one by the other, from the first ring of a bell
 * (base/idle.h) to the last one's first instruction: the median of some hundred times, in microseconds. So many more
 * there are on a request's way through a protected guest than through one alone. It is not three times what one costs:
 * who is woken on an idle processor waits for that to wake, too, which may take twenty times as long as on a busy one.
 */
#include "base/idle.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define THREADS 3u
#define TIMES 501u
#define PAUSE_NS 300000 /* so that all are asleep, and their processors */

static struct bell bells[THREADS + 1]; /* nobody hears the last */
static _Atomic uint64_t rung_ns;
static _Atomic uint32_t woken;
static uint64_t took_ns[TIMES];

static void *sleeper(void *argument)
{
	struct bell *bell = argument;
	thread_is_prompt();
	for (uint32_t i = 0; i < TIMES; i++) {
		while (atomic_load(&bell->rung) == i)
			bell_sleep(bell, i, 1000000000u);
		if (bell == &bells[THREADS - 1]) {
			took_ns[i] = now_ns() - atomic_load(&rung_ns);
			atomic_store(&woken, i + 1);
		}
		bell_ring(bell + 1);
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
	pthread_t threads[THREADS];
	for (unsigned i = 0; i < THREADS; i++)
		if (thread_start(&threads[i], "sleeper", sleeper, &bells[i])) {
			fprintf(stderr, "wake: %s\n", fail_message());
			return 1;
		}
	for (uint32_t i = 0; i < TIMES; i++) {
		while (atomic_load(&woken) != i)
			nanosleep(&pause, NULL);
		nanosleep(&pause, NULL);
		atomic_store(&rung_ns, now_ns());
		bell_ring(&bells[0]);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	qsort(took_ns, TIMES, sizeof took_ns[0], compare);
	printf("%.1f\n", (double)took_ns[TIMES / 2] / 1e3);
	return 0;
}

#include "tests/unit/broken.h"

#include "base/idle.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>

#define SECOND 1000000000ull
#define HANG_S 60 /* a lost wake-up costs a sleep of LONG, and a few of them end the program */
#define LONG (20 * SECOND)

/* One side publishes numbers and rings; the other must see each, and sleeps in between. */
struct exchange {
	struct bell to, from;
	_Atomic uint32_t sent, seen;
	uint32_t rounds;
	uint64_t longest_wait_ns;
	bool polled;
};

static void await(struct bell *bell, _Atomic uint32_t *number, uint32_t wanted)
{
	for (;;) {
		uint32_t watched = atomic_load(&bell->rung);
		if (atomic_load(number) >= wanted)
			return;
		bell_sleep(bell, watched, LONG);
	}
}

static void await_polling(struct bell *bell, _Atomic uint32_t *number, uint32_t wanted)
{
	struct idle idle = {.bell = bell, .longest_ns = LONG};
	for (;;) {
		idle_watch(&idle);
		if (atomic_load(number) >= wanted)
			return;
		idle_pause(&idle);
	}
}

static void *answer(void *argument)
{
	struct exchange *x = argument;
	for (uint32_t i = 1; i <= x->rounds; i++) {
		(x->polled ? await_polling : await)(&x->to, &x->sent, i);
		atomic_store(&x->seen, i);
		bell_ring(&x->from);
	}
	return NULL;
}

static void run_exchange(struct exchange *x)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, answer, x), 0);
	for (uint32_t i = 1; i <= x->rounds; i++) {
		atomic_store(&x->sent, i);
		bell_ring(&x->to);
		uint64_t began = now_ns();
		(x->polled ? await_polling : await)(&x->from, &x->seen, i);
		uint64_t waited = now_ns() - began;
		if (waited > x->longest_wait_ns)
			x->longest_wait_ns = waited;
	}
	pthread_join(thread, NULL);
	assert_true(x->longest_wait_ns < LONG);
}

static void no_ring_is_lost_between_the_look_and_the_sleep(void **state)
{
	(void)state;
	struct exchange x = {.rounds = 20000};
	run_exchange(&x);
}

static void nor_by_a_poller_that_spins_yields_and_sleeps(void **state)
{
	(void)state;
	struct exchange x = {.rounds = 20000, .polled = true};
	idle_configure(3, 1);
	run_exchange(&x);
	idle_configure(0, 0);
	struct exchange sleeper = {.rounds = 5000, .polled = true};
	run_exchange(&sleeper);
	idle_configure(20, 2);
}

static void a_ring_before_the_sleep_prevents_it(void **state)
{
	(void)state;
	struct bell bell = {0};
	uint32_t watched = atomic_load(&bell.rung);
	bell_ring(&bell);
	uint64_t began = now_ns();
	bell_sleep(&bell, watched, LONG);
	assert_true(now_ns() - began < LONG);
}

static void a_sleep_ends_by_itself(void **state)
{
	(void)state;
	struct bell bell = {0};
	uint64_t began = now_ns();
	bell_sleep(&bell, 0, 2000000);
	assert_true(now_ns() - began >= 2000000);
	assert_int_equal(atomic_load(&bell.sleepers), 0);
}

static void *sleep_long(void *argument)
{
	struct bell *bell = argument;
	uint32_t watched = 0;
	while (atomic_load(&bell->rung) == watched)
		bell_sleep(bell, watched, LONG);
	return NULL;
}

static void one_ring_wakes_every_sleeper(void **state)
{
	(void)state;
	struct bell bell = {0};
	pthread_t threads[4];
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, sleep_long, &bell), 0);
	while (atomic_load(&bell.sleepers) < 4)
		usleep(100);
	uint64_t began = now_ns();
	bell_ring(&bell);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_true(now_ns() - began < LONG);
	assert_int_equal(atomic_load(&bell.sleepers), 0);
}

static void a_bell_wakes_a_sleeper_in_another_process_and_outlives_it(void **state)
{
	(void)state;
	struct bell *bell =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(bell, MAP_FAILED);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		sleep_long(bell);
		_exit(0);
	}
	while (atomic_load(&bell->sleepers) == 0)
		usleep(100);
	bell_ring(bell);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);

	/* One that dies in its sleep leaves itself counted: rings go on to work. */
	uint32_t watched = atomic_load(&bell->rung);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		for (;;)
			bell_sleep(bell, watched, LONG);
	}
	while (atomic_load(&bell->sleepers) == 0)
		usleep(100);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	bell_ring(bell);
	bell_sleep(bell, watched, LONG);
	assert_int_equal(atomic_load(&bell->rung), watched + 1);
	munmap(bell, 4096);
}

static void the_clock_does_not_go_back(void **state)
{
	(void)state;
	uint64_t last = now_ns();
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t now = now_ns();
		assert_true(now >= last);
		last = now;
	}
}

int main(void)
{
	alarm(HANG_S);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_ring_is_lost_between_the_look_and_the_sleep),
		cmocka_unit_test(nor_by_a_poller_that_spins_yields_and_sleeps),
		cmocka_unit_test(a_ring_before_the_sleep_prevents_it),
		cmocka_unit_test(a_sleep_ends_by_itself),
		cmocka_unit_test(one_ring_wakes_every_sleeper),
		cmocka_unit_test(a_bell_wakes_a_sleeper_in_another_process_and_outlives_it),
		cmocka_unit_test(the_clock_does_not_go_back),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

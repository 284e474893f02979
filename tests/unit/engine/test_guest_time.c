/* The guest's time: it goes on, and never leaps. */
#include "tests/unit/engine/tiny_guest.h"

static void the_guests_time_does_not_go_back(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	uint64_t (*const clock)(struct machine * m) = t->machine.source->clock;
	live_set_time(&t->live, 5000000000u, now_ns());
	uint64_t first = clock(&t->machine);
	assert_true(first >= 5000000000u);
	live_set_time(&t->live, 1000, now_ns());
	assert_int_equal(clock(&t->machine), first);
	live_set_time(&t->live, 7000000000u, now_ns());
	assert_true(clock(&t->machine) >= 7000000000u);
	tiny_free(t);
}

/* A leap of seconds is lost on a clock source that has gone round meanwhile (live.c). */
static void after_a_standstill_the_guests_time_catches_up_without_a_leap(void **state)
{
	(void)state;
	NEED_KVM();
	const uint64_t second = 1000000000u;
	struct tiny *t = tiny_new();
	uint64_t (*const clock)(struct machine * m) = t->machine.source->clock;
	uint64_t began = now_ns() - 3 * second / 4;
	live_set_time(&t->live, second, began);
	uint64_t before = now_ns(), time = clock(&t->machine);
	assert_int_equal(time, second + second / 2);
	for (unsigned i = 0; time - second < before - began; i++) {
		assert_true(i < 1000);
		usleep(2000);
		uint64_t was = time, asked = before;
		before = now_ns();
		time = clock(&t->machine);
		uint64_t passed = now_ns() - asked;
		assert_in_range(time - was, 1, 2 * passed);
		assert_in_range(time - second, 0, now_ns() - began);
	}
	tiny_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_guests_time_does_not_go_back),
		cmocka_unit_test(after_a_standstill_the_guests_time_catches_up_without_a_leap),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

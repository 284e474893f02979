#include "perf/link.h"

#include "tests/unit/broken.h"

#define FULL 1514u
#define FULL_NS ((FULL + LINK_FRAME_EXTRA) * 8u) /* at 1 Gbit/s */
#define MS 1000000u

static struct link one;
static uint64_t now;

static int fresh(void **state)
{
	(void)state;
	link_start(&one, 1e9);
	now = 1000 * MS;
	link_rest(&one, now);
	return 0;
}

/* A pass of a client that always has frames: how many go. */
static unsigned pass(uint32_t frame)
{
	unsigned count = 0;
	for (; count < 100000 && link_is_free(&one, now); count++)
		link_take(&one, now, frame);
	return count;
}

static void a_link_carries_its_rate_however_often_it_is_looked_at(void **state)
{
	static const unsigned steps[] = {100, 1000, 77777, 9 * MS};
	for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		unsigned count = 0;
		fresh(state);
		for (uint64_t end = now + 1000 * MS; now < end; now += steps[i])
			count += pass(FULL);
		assert_in_range(count, (1000 * MS - steps[i]) / FULL_NS, 1000 * MS / FULL_NS + 1);
	}
}

static void a_short_frame_takes_as_long_as_the_shortest(void **state)
{
	(void)state;
	link_take(&one, now, 54);
	assert_false(link_is_free(&one, now + 84 * 8 - 1));
	assert_true(link_is_free(&one, now + 84 * 8));
}

static void a_pause_is_made_up_for_as_far_as_the_ring_goes(void **state)
{
	(void)state;
	pass(FULL);
	now += 5 * MS;
	assert_in_range(pass(FULL), 5 * MS / FULL_NS, 5 * MS / FULL_NS + 1);
	now += 500 * MS;
	assert_in_range(pass(FULL), LINK_RING_NS / FULL_NS, LINK_RING_NS / FULL_NS + 1);
}

static void time_without_anything_to_carry_is_lost(void **state)
{
	(void)state;
	pass(FULL);
	now += 5 * MS;
	link_rest(&one, now);
	assert_int_equal(pass(FULL), 1);
}

static void a_link_without_a_rate_is_always_free(void **state)
{
	(void)state;
	link_start(&one, 0);
	assert_int_equal(pass(FULL), 100000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_link_carries_its_rate_however_often_it_is_looked_at),
		cmocka_unit_test_setup(a_short_frame_takes_as_long_as_the_shortest, fresh),
		cmocka_unit_test_setup(a_pause_is_made_up_for_as_far_as_the_ring_goes, fresh),
		cmocka_unit_test_setup(time_without_anything_to_carry_is_lost, fresh),
		cmocka_unit_test_setup(a_link_without_a_rate_is_always_free, fresh),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

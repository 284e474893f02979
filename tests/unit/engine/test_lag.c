/* The controller on a clock that the tests move, against a backup that is a few lines of arithmetic. */
#include "engine/lag.h"

#include "tests/unit/broken.h"

#define MS 1000000ull
#define BOUND (100 * MS)
#define EXIT_NS 100000ull /* the guest leaves as often, while it runs */
#define ACK_NS (20 * MS)
#define BYTES 64u /* of log, at each exit */

struct pair {
	struct lag lag;
	uint64_t now;
	uint64_t head;     /* of the log */
	double replayed;   /* LSN up to which the backup has come */
	uint64_t finished; /* the ack */
	uint64_t acked_ns;
	/* Since the last reset. */
	uint64_t ran_ns, slept_ns, most_lag_ns;
	double least_share, most_share;
};

static void reset(struct pair *pair)
{
	pair->ran_ns = pair->slept_ns = pair->most_lag_ns = 0;
	pair->least_share = 1;
	pair->most_share = 0;
}

static struct pair fresh(void)
{
	struct pair pair = {.lag.bound_ns = BOUND, .now = 7};
	lag_begin(&pair.lag, pair.now);
	reset(&pair);
	return pair;
}

static void look(struct pair *pair)
{
	lag_look(&pair->lag, pair->finished, pair->now);
	uint64_t behind = atomic_load(&pair->lag.shown_lag_ns);
	if (behind > pair->most_lag_ns)
		pair->most_lag_ns = behind;
	if (pair->lag.share > pair->most_share)
		pair->most_share = pair->lag.share;
	if (pair->lag.share < pair->least_share)
		pair->least_share = pair->lag.share;
}

/* Time passes for the backup too, whose speed is 1 when it is as fast as the primary. */
static void pass(struct pair *pair, uint64_t ns, double speed)
{
	pair->now += ns;
	pair->replayed += speed * (double)ns / EXIT_NS * BYTES;
	if (pair->replayed > (double)pair->head)
		pair->replayed = (double)pair->head;
	if (pair->now - pair->acked_ns >= ACK_NS) {
		pair->finished = (uint64_t)pair->replayed;
		pair->acked_ns = pair->now;
	}
}

/* The guest runs and leaves, and sleeps when it has to. */
static void run(struct pair *pair, uint64_t ns, double speed)
{
	uint64_t end = pair->now + ns;
	while (pair->now < end) {
		pass(pair, EXIT_NS, speed);
		pair->ran_ns += EXIT_NS;
		pair->head += BYTES;
		lag_note(&pair->lag, pair->head, pair->now);
		look(pair);
		uint64_t pause = lag_pause(&pair->lag, EXIT_NS);
		pass(pair, pause, speed);
		pair->slept_ns += pause;
		lag_slept(&pair->lag, pause);
	}
}

static double share_slept(const struct pair *pair)
{
	return (double)pair->slept_ns / (double)(pair->ran_ns + pair->slept_ns);
}

static void a_backup_that_keeps_up_costs_nothing(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 10000 * MS, 1);
	assert_int_equal(pair.slept_ns, 0);
	assert_true(pair.most_lag_ns < 2 * ACK_NS);
	run(&pair, 10000 * MS, 1.01);
	assert_int_equal(pair.slept_ns, 0);
	assert_int_equal(atomic_load(&pair.lag.shown_percent), 0);
}

static void a_slower_backup_is_waited_for_within_twice_the_bound(void **state)
{
	(void)state;
	const double speeds[] = {0.95, 0.8, 0.5, 0.3, 0.15};
	for (unsigned i = 0; i < sizeof speeds / sizeof speeds[0]; i++) {
		struct pair pair = fresh();
		run(&pair, 10000 * MS, speeds[i]); /* as long as it takes to settle */
		reset(&pair);
		run(&pair, 10000 * MS, speeds[i]);
		assert_true(pair.most_lag_ns < 2 * BOUND);
		/* As slow as the backup, and no slower. */
		assert_true(share_slept(&pair) > 1 - speeds[i] - 0.05);
		assert_true(share_slept(&pair) < 1 - speeds[i] + 0.05);
	}
}

static void the_share_does_not_swing(void **state)
{
	(void)state;
	const double speeds[] = {0.8, 0.5, 0.2};
	for (unsigned i = 0; i < sizeof speeds / sizeof speeds[0]; i++) {
		struct pair pair = fresh();
		run(&pair, 10000 * MS, speeds[i]);
		reset(&pair);
		run(&pair, 10000 * MS, speeds[i]);
		assert_true(pair.most_share - pair.least_share < 0.2);
	}
}

static void the_share_moves_in_small_steps(void **state)
{
	(void)state;
	struct pair pair = fresh();
	double before = 0;
	for (unsigned i = 0; i < 50000; i++) {
		run(&pair, EXIT_NS, i / 10000 % 2 ? 1.5 : 0.2);
		double step = pair.lag.share - before;
		assert_true(step < 0.1 && step > -0.1);
		before = pair.lag.share;
	}
	assert_true(pair.most_share > 0.5);
}

static void the_first_swing_is_small_too(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 1000 * MS, 1);
	run(&pair, 5000 * MS, 0.5);
	assert_true(pair.most_lag_ns < 3 * BOUND);
	assert_true(pair.most_share < 0.7);
}

static void a_backup_that_catches_up_is_no_longer_waited_for(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 10000 * MS, 0.4);
	run(&pair, 2000 * MS, 1.2);
	reset(&pair);
	run(&pair, 5000 * MS, 1.2);
	assert_int_equal(pair.slept_ns, 0);
	assert_true(pair.lag.share == 0);
	assert_true(pair.most_lag_ns < 2 * ACK_NS);
}

/* A frozen backup does not stop the guest: that is left to the ring, and to whoever finds it dead. */
static void never_is_all_the_time_slept(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 5000 * MS, 0);
	reset(&pair);
	run(&pair, 5000 * MS, 0);
	assert_true(pair.most_share <= LAG_MOST);
	assert_true(share_slept(&pair) > LAG_MOST - 0.01 && share_slept(&pair) < LAG_MOST + 0.01);
	/* Far more log than there are samples for: the lag is still right. */
	assert_true(pair.most_lag_ns > 9000 * MS && pair.most_lag_ns < 11000 * MS);
	assert_int_equal(atomic_load(&pair.lag.shown_percent), 90);
}

static void a_halted_guest_owes_nothing(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 5000 * MS, 0.5);
	assert_true(pair.lag.share > 0);
	uint64_t owed = pair.lag.owed_ns;
	for (unsigned i = 0; i < 100; i++) {
		pass(&pair, MS / 10, 0);
		look(&pair);
		assert_int_equal(lag_pause(&pair.lag, 0), 0);
	}
	assert_int_equal(pair.lag.owed_ns, owed);
}

static void long_runs_are_paid_for_in_parts(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 5000 * MS, 0.5);
	uint64_t pause = lag_pause(&pair.lag, 10000 * MS), paid = 0;
	unsigned parts = 0;
	for (; pause > 0; pause = lag_pause(&pair.lag, 0), parts++) {
		assert_true(pause <= 10 * MS);
		lag_slept(&pair.lag, pause);
		paid += pause;
	}
	assert_true(parts > 1 && paid <= 50 * MS);
}

static void the_lag_is_the_age_of_what_is_not_replayed(void **state)
{
	(void)state;
	struct pair pair = fresh();
	struct lag *lag = &pair.lag;
	uint64_t now = pair.now;
	lag_note(lag, 100, now + 10 * MS);
	lag_note(lag, 200, now + 20 * MS);
	lag_note(lag, 200, now + 25 * MS); /* nothing new */
	lag_note(lag, 300, now + 30 * MS);
	const struct {
		uint64_t finished, behind_ms;
	} looks[] = {
		{0, 30}, {99, 30}, {100, 20}, {199, 20}, {200, 10}, {299, 10}, {300, 0}, {300, 0}};
	for (unsigned i = 0; i < sizeof looks / sizeof looks[0]; i++) {
		/* Each look on the same samples. */
		struct pair copy = pair;
		lag_look(&copy.lag, looks[i].finished, now + 40 * MS);
		assert_int_equal(atomic_load(&copy.lag.shown_lag_ns), looks[i].behind_ms * MS);
	}
	/* And on what the last one has left. */
	for (unsigned i = 0; i < sizeof looks / sizeof looks[0]; i++) {
		lag_look(lag, looks[i].finished, now + (40 + 10 * i) * MS);
		assert_int_equal(atomic_load(&lag->shown_lag_ns),
			looks[i].behind_ms ? (looks[i].behind_ms + 10 * i) * MS : 0);
	}
}

static void a_new_log_begins_without_lag(void **state)
{
	(void)state;
	struct pair pair = fresh();
	run(&pair, 5000 * MS, 0.2);
	assert_true(pair.lag.share > 0);
	lag_end(&pair.lag);
	assert_int_equal(lag_pause(&pair.lag, 100 * MS), 0);
	assert_int_equal(atomic_load(&pair.lag.shown_percent), 0);
	assert_int_equal(atomic_load(&pair.lag.shown_lag_ns), 0);
	lag_begin(&pair.lag, pair.now);
	lag_note(&pair.lag, 64, pair.now);
	lag_look(&pair.lag, 0, pair.now + 20 * MS);
	assert_int_equal(atomic_load(&pair.lag.shown_lag_ns), 20 * MS);
}

static void without_a_bound_nothing_is_slowed(void **state)
{
	(void)state;
	struct pair pair = fresh();
	pair.lag.bound_ns = 0;
	run(&pair, 5000 * MS, 0.2);
	assert_int_equal(pair.slept_ns, 0);
	assert_true(pair.most_lag_ns > 3000 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_backup_that_keeps_up_costs_nothing),
		cmocka_unit_test(a_slower_backup_is_waited_for_within_twice_the_bound),
		cmocka_unit_test(the_share_does_not_swing),
		cmocka_unit_test(the_share_moves_in_small_steps),
		cmocka_unit_test(the_first_swing_is_small_too),
		cmocka_unit_test(a_backup_that_catches_up_is_no_longer_waited_for),
		cmocka_unit_test(never_is_all_the_time_slept),
		cmocka_unit_test(a_halted_guest_owes_nothing),
		cmocka_unit_test(long_runs_are_paid_for_in_parts),
		cmocka_unit_test(the_lag_is_the_age_of_what_is_not_replayed),
		cmocka_unit_test(a_new_log_begins_without_lag),
		cmocka_unit_test(without_a_bound_nothing_is_slowed),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

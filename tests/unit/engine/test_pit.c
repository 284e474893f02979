#include "engine/pit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/engine/device_world.h"

static struct world new_world(void)
{
	struct world world = world_with(IRQ_PIT);
	world.now = 5000000000ull;
	return world;
}

static void program(
	struct pit *pit, struct world *world, unsigned channel, unsigned mode, uint16_t count)
{
	pit_write(pit, &world->env, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	pit_write(pit, &world->env, (uint16_t)(0x40 + channel), (uint8_t)count);
	pit_write(pit, &world->env, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t read_word(struct pit *pit, struct world *world, unsigned channel)
{
	uint16_t port = (uint16_t)(0x40 + channel);
	uint8_t low = pit_read(pit, &world->env, port);
	return (uint16_t)(low | pit_read(pit, &world->env, port) << 8);
}

static uint16_t latch_and_read(struct pit *pit, struct world *world, unsigned channel)
{
	pit_write(pit, &world->env, 0x43, (uint8_t)(channel << 6));
	return read_word(pit, world, channel);
}

/* The first nanosecond at which so many clocks are complete. */
static uint64_t ns_of(uint64_t clocks)
{
	return (uint64_t)(((unsigned __int128)clocks * 1000000000u + PIT_HZ - 1) / PIT_HZ);
}

static void a_fresh_timer_has_no_deadline(void **state)
{
	(void)state;
	struct pit pit;
	pit_reset(&pit);
	assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
	assert_int_equal(pit_due(&pit, UINT64_MAX), 0);
}

static void deadlines_do_not_drift(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 11932);
	uint64_t start = world.now;
	for (uint64_t n = 1; n <= 100000; n++) {
		uint64_t deadline = pit_deadline(&pit);
		assert_true(deadline == start + ns_of(n * 11932));
		assert_int_equal(pit_due(&pit, deadline - 1), 0);
		assert_int_equal(pit_due(&pit, deadline), 1);
		pit_tick(&pit, &world.env, 1);
		pit_acknowledged(&pit, &world.env);
	}
	assert_int_equal(world.rises, 100000);
	assert_int_equal(pit.backlog, 0);
}

static void a_count_of_zero_is_65536(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 3, 0);
	assert_true(pit_deadline(&pit) == world.now + ns_of(65536));
}

static void a_year_at_full_speed_does_not_overflow(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 2);
	uint64_t later = world.now + 365ull * 86400 * 1000000000;
	assert_int_equal(pit_due(&pit, later), PIT_BACKLOG_MAX);
	program(&pit, &world, 0, 2, 0);
	uint64_t clocks = 36000ull * PIT_HZ;
	assert_int_equal(pit_due(&pit, world.now + 36000ull * 1000000000), clocks / 65536);
	program(&pit, &world, 0, 2, 2);
	pit.channel[0].ticked = 1ull << 44;
	assert_true(pit_deadline(&pit) == world.now + ns_of(((1ull << 44) + 1) * 2));
	pit.channel[0].ticked = UINT64_MAX;
	pit.channel[0].reload = 65536;
	assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
}

static void lost_ticks_come_one_at_a_time(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 1193);
	world.now += ns_of(1193 * 5);
	assert_int_equal(pit_due(&pit, world.now), 5);
	pit_tick(&pit, &world.env, 5);
	assert_int_equal(pit_due(&pit, world.now), 0);
	for (unsigned taken = 1; taken <= 5; taken++) {
		assert_int_equal(world.rises, taken);
		assert_true(world.line);
		pit_acknowledged(&pit, &world.env);
	}
	assert_int_equal(world.rises, 5);
}

static void ticks_that_nobody_takes_are_kept_up_to_a_bound(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 100);
	pit_tick(&pit, &world.env, 1);
	assert_int_equal(pit.backlog, 0);
	pit_tick(&pit, &world.env, 1);
	assert_int_equal(pit.backlog, 1);
	/* The line pulses each time: a PIC that was set up meanwhile has forgotten the first edge.
	 */
	assert_int_equal(world.rises, 2);
	pit_tick(&pit, &world.env, PIT_BACKLOG_MAX);
	pit_tick(&pit, &world.env, UINT32_MAX);
	assert_int_equal(pit.backlog, PIT_BACKLOG_MAX);
	pit_acknowledged(&pit, &world.env);
	assert_int_equal(pit.backlog, PIT_BACKLOG_MAX - 1);
	pit_tick(&pit, &world.env, 0);
	assert_int_equal(pit.backlog, PIT_BACKLOG_MAX - 1);
}

static void reprogramming_forgets_the_backlog(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 100);
	pit_tick(&pit, &world.env, 10);
	program(&pit, &world, 0, 4, 500);
	pit_acknowledged(&pit, &world.env);
	assert_int_equal(world.rises, 1);
}

static void a_one_shot_expires_once(void **state)
{
	(void)state;
	for (unsigned mode = 0; mode <= 4; mode += 4) {
		struct world world = new_world();
		struct pit pit;
		pit_reset(&pit);
		program(&pit, &world, 0, mode, 1000);
		assert_false(world.line);
		assert_true(pit_deadline(&pit) == world.now + ns_of(1000));
		world.now += ns_of(1000000);
		assert_int_equal(pit_due(&pit, world.now), 1);
		pit_tick(&pit, &world.env, 1);
		assert_true(world.line);
		assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
		assert_int_equal(pit_due(&pit, UINT64_MAX), 0);
		/* A new count without a control word starts it again. */
		pit_write(&pit, &world.env, 0x40, 0x10);
		pit_write(&pit, &world.env, 0x40, 0x00);
		assert_true(pit_deadline(&pit) == world.now + ns_of(16));
		assert_int_equal(world.line, mode == 4);
		pit_tick(&pit, &world.env, 1);
		assert_int_equal(pit.backlog, 0);
	}
}

static void modes_started_by_the_gate_never_start_on_channel_0(void **state)
{
	(void)state;
	for (unsigned mode = 1; mode <= 5; mode += 4) {
		struct world world = new_world();
		struct pit pit;
		pit_reset(&pit);
		program(&pit, &world, 0, mode, 1000);
		assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
	}
}

static void the_counter_counts_down(void **state)
{
	(void)state;
	static const struct {
		unsigned mode;
		uint16_t reload;
		uint64_t clocks;
		uint16_t shown;
	} cases[] = {
		{0, 1000, 0, 1000},
		{0, 1000, 999, 1},
		{0, 1000, 1000, 0},
		{0, 1000, 1001, 65535},
		{0, 1000, 66536, 0},
		{2, 1000, 0, 1000},
		{2, 1000, 1, 999},
		{2, 1000, 999, 1},
		{2, 1000, 1000, 1000},
		{2, 1000, 123456789, 211},
		{2, 0, 0, 0},
		{2, 0, 1, 65535},
		{3, 1000, 0, 1000},
		{3, 1000, 1, 998},
		{3, 1000, 499, 2},
		{3, 1000, 500, 1000},
		{3, 1001, 500, 0},
		{3, 1001, 501, 1000},
		{3, 1, 5, 0},
		{4, 1000, 1001, 65535},
		{6, 1000, 1, 999},
		{7, 1000, 1, 998},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct world world = new_world();
		struct pit pit;
		pit_reset(&pit);
		program(&pit, &world, 0, cases[i].mode, cases[i].reload);
		world.now += ns_of(cases[i].clocks);
		assert_int_equal(read_word(&pit, &world, 0), cases[i].shown);
		assert_int_equal(latch_and_read(&pit, &world, 0), cases[i].shown);
	}
}

static void a_latched_count_stands_still_until_it_is_read(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 10000);
	world.now += ns_of(1000);
	pit_write(&pit, &world.env, 0x43, 0x00);
	world.now += ns_of(1000);
	pit_write(&pit, &world.env, 0x43, 0x00); /* the second latch is ignored */
	unsigned asked = world.asked;
	assert_int_equal(read_word(&pit, &world, 0), 9000);
	assert_int_equal(world.asked, asked);
	assert_in_range(read_word(&pit, &world, 0), 7998, 8000);
}

static void one_byte_access_modes_read_and_write_that_byte(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x43, 0x14); /* low, mode 2 */
	pit_write(&pit, &world.env, 0x40, 200);
	assert_int_equal(pit.channel[0].reload, 200);
	assert_int_equal(pit_read(&pit, &world.env, 0x40), 200);
	pit_write(&pit, &world.env, 0x43, 0x00);
	assert_int_equal(pit_read(&pit, &world.env, 0x40), 200);
	assert_int_equal(pit.channel[0].count_latched, 0);
	pit_write(&pit, &world.env, 0x43, 0x24); /* high, mode 2 */
	pit_write(&pit, &world.env, 0x40, 0x12);
	assert_int_equal(pit.channel[0].reload, 0x1200);
	assert_int_equal(pit_read(&pit, &world.env, 0x40), 0x12);
}

static void bcd_counts_in_decimal(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x43, 0x35);
	pit_write(&pit, &world.env, 0x40, 0x34);
	pit_write(&pit, &world.env, 0x40, 0x12);
	assert_int_equal(pit.channel[0].reload, 1234);
	world.now += ns_of(1);
	assert_int_equal(read_word(&pit, &world, 0), 0x1233);
	pit_write(&pit, &world.env, 0x40, 0x00);
	pit_write(&pit, &world.env, 0x40, 0x00);
	assert_int_equal(pit.channel[0].reload, 10000);
	assert_int_equal(read_word(&pit, &world, 0), 0x0000);
}

static void read_back_latches_status_before_count(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, 1000);
	pit_write(&pit, &world.env, 0x43, 0x90); /* channel 2: low byte, mode 0, no count yet */
	world.now += ns_of(10);
	unsigned asked = world.asked;
	pit_write(&pit, &world.env, 0x43, 0xca); /* both of channels 0 and 2 */
	assert_int_equal(world.asked, asked + 1);
	world.now += ns_of(10);
	pit_write(&pit, &world.env, 0x43, 0xc2); /* already latched: ignored */
	assert_int_equal(pit_read(&pit, &world.env, 0x40), 0x80 | 0x34);
	assert_int_equal(read_word(&pit, &world, 0), 990);
	assert_int_equal(pit_read(&pit, &world.env, 0x42), 0x40 | 0x10);
	assert_int_equal(pit_read(&pit, &world.env, 0x42), 0);
	pit_write(&pit, &world.env, 0x43, 0xe2); /* status only */
	assert_int_equal(pit_read(&pit, &world.env, 0x40), 0x80 | 0x34);
	assert_int_equal(pit.channel[0].count_latched, 0);
	pit_write(&pit, &world.env, 0x43, 0xd2); /* count only */
	assert_int_equal(pit.channel[0].status_latched, 0);
	assert_in_range(read_word(&pit, &world, 0), 979, 980);
}

/* Linux' one-shot timer: mode 4, a new count for each event, without another control word. */
static void a_timer_set_again_and_again_expires_once_each_time(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x43, 0x38);
	assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
	for (unsigned i = 1; i <= 100; i++) {
		uint16_t delta = (uint16_t)(i * 327);
		pit_write(&pit, &world.env, 0x40, (uint8_t)delta);
		pit_write(&pit, &world.env, 0x40, (uint8_t)(delta >> 8));
		if (i % 5 == 0) { /* set again before it came */
			world.now += ns_of(delta) - 1;
			assert_int_equal(pit_due(&pit, world.now), 0);
			continue;
		}
		uint64_t deadline = world.now + ns_of(delta);
		assert_true(pit_deadline(&pit) == deadline);
		world.now = deadline + i;
		assert_int_equal(pit_due(&pit, world.now), 1);
		pit_tick(&pit, &world.env, 1);
		pit_acknowledged(&pit, &world.env);
		assert_int_equal(pit.backlog, 0);
		assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
	}
	assert_int_equal(world.rises, 80);
}

/* Its clock: the count of mode 2, latched, never 0 and never above the reload, and the ticks. */
static void a_clock_made_of_counts_and_ticks_does_not_go_back(void **state)
{
	(void)state;
	enum { LATCH = 4773 }; /* 250 Hz */
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 0, 2, LATCH);
	uint64_t ticks = 0, before = 0, start = world.now;
	for (unsigned i = 0; i < 20000; i++) {
		world.now += 1 + i * 7919 % 5000;
		uint32_t due = pit_due(&pit, world.now);
		assert_in_range(due, 0, 1);
		ticks += due;
		pit_tick(&pit, &world.env, due);
		if (due)
			pit_acknowledged(&pit, &world.env);
		uint16_t count = latch_and_read(&pit, &world, 0);
		assert_in_range(count, 1, LATCH);
		uint64_t clocks = ticks * LATCH + (LATCH - count);
		assert_true(clocks >= before);
		assert_true(world.now - start >= ns_of(clocks) &&
			    world.now - start < ns_of(clocks + 1));
		before = clocks;
	}
}

/* Linux' decompressor takes the timer's bits for its dice, and waits until they are there. */
static void a_fresh_timer_counts(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x43, 0xc2);
	assert_int_equal(pit_read(&pit, &world.env, 0x40) & 0x40, 0);
	uint16_t first = read_word(&pit, &world, 0);
	world.now += ns_of(100);
	pit_write(&pit, &world.env, 0x43, 0xc2);
	pit_read(&pit, &world.env, 0x40);
	assert_in_range((uint16_t)(first - read_word(&pit, &world, 0)), 99, 101);
	assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
}

static bool speaker_out(struct pit *pit, struct world *world)
{
	return pit_read(pit, &world->env, 0x61) & 0x20;
}

/* How a kernel measures its processor's speed. */
static void channel_2_rises_at_its_terminal_count(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x61, 0x01);
	assert_int_equal(pit_read(&pit, &world.env, 0x61) & 3, 1);
	program(&pit, &world, 2, 0, 59659);
	assert_false(speaker_out(&pit, &world));
	world.now += ns_of(59659) - 1;
	assert_false(speaker_out(&pit, &world));
	world.now++;
	assert_true(speaker_out(&pit, &world));
	world.now += 1000000000;
	assert_true(speaker_out(&pit, &world));
	pit_write(&pit, &world.env, 0x42, 0); /* the first byte of a new count stops it */
	assert_false(speaker_out(&pit, &world));
	assert_true(pit_deadline(&pit) == PIT_NO_DEADLINE);
	assert_int_equal(world.rises, 0);
}

static void the_gate_holds_and_restarts_channel_2(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	program(&pit, &world, 2, 0, 1000); /* with the gate low it waits */
	world.now += ns_of(5000);
	assert_int_equal(latch_and_read(&pit, &world, 2), 1000);
	pit_write(&pit, &world.env, 0x61, 0x01);
	world.now += ns_of(400);
	pit_write(&pit, &world.env, 0x61, 0x00);
	world.now += ns_of(7000);
	assert_int_equal(latch_and_read(&pit, &world, 2), 600);
	pit_write(&pit, &world.env, 0x61, 0x03);
	world.now += ns_of(600);
	assert_true(speaker_out(&pit, &world));

	program(&pit, &world, 2, 3, 1000);
	world.now += ns_of(600);
	assert_false(speaker_out(&pit, &world));
	pit_write(&pit, &world.env, 0x61, 0x00);
	assert_true(speaker_out(&pit, &world));
	world.now += ns_of(300);
	pit_write(&pit, &world.env, 0x61, 0x01);
	assert_int_equal(latch_and_read(&pit, &world, 2), 1000);
}

static void the_gate_s_edge_starts_modes_1_and_5(void **state)
{
	(void)state;
	for (unsigned mode = 1; mode <= 5; mode += 4) {
		struct world world = new_world();
		struct pit pit;
		pit_reset(&pit);
		program(&pit, &world, 2, mode, 1000);
		world.now += ns_of(5000);
		assert_true(speaker_out(&pit, &world));
		pit_write(&pit, &world.env, 0x61, 0x01);
		world.now += ns_of(400);
		assert_int_equal(speaker_out(&pit, &world), mode == 5);
		pit_write(&pit, &world.env, 0x61, 0x00); /* it goes on */
		world.now += ns_of(600);
		assert_int_equal(speaker_out(&pit, &world), mode == 1);
		world.now += ns_of(1);
		assert_true(speaker_out(&pit, &world));
		pit_write(&pit, &world.env, 0x61, 0x01); /* and starts again */
		assert_int_equal(latch_and_read(&pit, &world, 2), 1000);
	}
}

static void mode_2_is_low_for_the_last_clock(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x61, 0x01);
	program(&pit, &world, 2, 2, 100);
	uint64_t start = world.now;
	for (unsigned clock = 0; clock < 300; clock++) {
		world.now = start + ns_of(clock);
		assert_int_equal(speaker_out(&pit, &world), clock % 100 != 99);
	}
}

static void the_clock_is_asked_only_when_time_matters(void **state)
{
	(void)state;
	struct world world = new_world();
	struct pit pit;
	pit_reset(&pit);
	pit_write(&pit, &world.env, 0x61, 0x03);
	pit_read(&pit, &world.env, 0x61);
	pit_write(&pit, &world.env, 0x43, 0x34);
	pit_write(&pit, &world.env, 0x40, 0x00);
	pit_read(&pit, &world.env, 0x40);
	pit_read(&pit, &world.env, 0x43);
	assert_int_equal(world.asked, 0);
	pit_write(&pit, &world.env, 0x40, 0x10);
	assert_int_equal(world.asked, 1);
}

/* Also under the sanitizers: no bytes loaded and no write leads anywhere but into the struct. */
static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	static const uint16_t ports[] = {0x40, 0x41, 0x42, 0x43, 0x43, 0x61};
	unsigned seed = 1;
	for (unsigned round = 0; round < 400; round++) {
		struct world world_a = new_world(), world_b = new_world();
		struct pit a, b;
		memset(&a, 0, sizeof a);
		memset(&b, 0xff, sizeof b);
		pit_reset(&a);
		pit_reset(&b);
		for (size_t i = 0; round % 2 && i < sizeof a; i++)
			((uint8_t *)&a)[i] = ((uint8_t *)&b)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 200; step++) {
			uint16_t port = ports[(unsigned)rand_r(&seed) % 6];
			uint8_t value = (uint8_t)rand_r(&seed);
			world_a.now = world_b.now += (unsigned)rand_r(&seed) % 1000000;
			switch (rand_r(&seed) % 4) {
			case 0:
				pit_write(&a, &world_a.env, port, value);
				pit_write(&b, &world_b.env, port, value);
				break;
			case 1:
				assert_int_equal(pit_read(&a, &world_a.env, port),
					pit_read(&b, &world_b.env, port));
				break;
			case 2:
				assert_true(pit_deadline(&a) == pit_deadline(&b));
				pit_tick(&a, &world_a.env, pit_due(&a, world_a.now));
				pit_tick(&b, &world_b.env, pit_due(&b, world_b.now));
				break;
			default:
				pit_acknowledged(&a, &world_a.env);
				pit_acknowledged(&b, &world_b.env);
			}
		}
		assert_memory_equal(&a, &b, sizeof a);
		assert_int_equal(world_a.rises, world_b.rises);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fresh_timer_has_no_deadline),
		cmocka_unit_test(deadlines_do_not_drift),
		cmocka_unit_test(a_count_of_zero_is_65536),
		cmocka_unit_test(a_year_at_full_speed_does_not_overflow),
		cmocka_unit_test(lost_ticks_come_one_at_a_time),
		cmocka_unit_test(ticks_that_nobody_takes_are_kept_up_to_a_bound),
		cmocka_unit_test(reprogramming_forgets_the_backlog),
		cmocka_unit_test(a_one_shot_expires_once),
		cmocka_unit_test(modes_started_by_the_gate_never_start_on_channel_0),
		cmocka_unit_test(the_counter_counts_down),
		cmocka_unit_test(a_latched_count_stands_still_until_it_is_read),
		cmocka_unit_test(one_byte_access_modes_read_and_write_that_byte),
		cmocka_unit_test(bcd_counts_in_decimal),
		cmocka_unit_test(read_back_latches_status_before_count),
		cmocka_unit_test(a_timer_set_again_and_again_expires_once_each_time),
		cmocka_unit_test(a_clock_made_of_counts_and_ticks_does_not_go_back),
		cmocka_unit_test(a_fresh_timer_counts),
		cmocka_unit_test(channel_2_rises_at_its_terminal_count),
		cmocka_unit_test(the_gate_holds_and_restarts_channel_2),
		cmocka_unit_test(the_gate_s_edge_starts_modes_1_and_5),
		cmocka_unit_test(mode_2_is_low_for_the_last_clock),
		cmocka_unit_test(the_clock_is_asked_only_when_time_matters),
		cmocka_unit_test(equal_inputs_leave_equal_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

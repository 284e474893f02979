#include "engine/cmos.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/unit/engine/device_world.h"

#define SECOND 1000000000ull
#define MADE 1700000000ull /* Tuesday, 2023-11-14 22:13:20 */

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	A,
	B,
	C,
	D,
	CENTURY = 0x32,
};
enum { SET = 0x80, AIE = 0x20, UIE = 0x10, BINARY = 0x04, HOURS_24 = 0x02 };

static struct world world;
static struct cmos cmos;

static int set_up(void **state)
{
	(void)state;
	world = world_with(IRQ_CMOS);
	cmos_reset(&cmos);
	cmos_set_time(&cmos, MADE);
	return 0;
}

static uint8_t get(unsigned reg)
{
	cmos_write(&cmos, &world.env, 0x70, (uint8_t)reg);
	return cmos_read(&cmos, &world.env, 0x71);
}

static void put(unsigned reg, uint8_t value)
{
	cmos_write(&cmos, &world.env, 0x70, (uint8_t)reg);
	cmos_write(&cmos, &world.env, 0x71, value);
}

static unsigned from_bcd(uint8_t byte)
{
	assert_true((byte & 15) < 10 && byte < 0xa0);
	return (byte >> 4) * 10u + (byte & 15u);
}

/* What the registers say, as the C library counts it. */
static int64_t shown(void)
{
	struct tm tm = {.tm_sec = (int)from_bcd(get(SECONDS)),
		.tm_min = (int)from_bcd(get(MINUTES)),
		.tm_hour = (int)from_bcd(get(HOURS)),
		.tm_mday = (int)from_bcd(get(DAY)),
		.tm_mon = (int)from_bcd(get(MONTH)) - 1,
		.tm_year = (int)(from_bcd(get(CENTURY)) * 100 + from_bcd(get(YEAR))) - 1900};
	int weekday = get(WEEKDAY) - 1;
	int64_t seconds = timegm(&tm);
	assert_int_equal(tm.tm_wday, weekday);
	return seconds;
}

static void show_is(int64_t seconds)
{
	assert_int_equal(shown(), seconds);
}

/* As Linux sets it: stop, write, go. */
static void set_time(time_t seconds)
{
	struct tm tm;
	gmtime_r(&seconds, &tm);
	unsigned year = (unsigned)tm.tm_year + 1900;
	const struct {
		unsigned reg, value;
	} all[] = {{SECONDS, (unsigned)tm.tm_sec}, {MINUTES, (unsigned)tm.tm_min},
		{HOURS, (unsigned)tm.tm_hour}, {DAY, (unsigned)tm.tm_mday},
		{MONTH, (unsigned)tm.tm_mon + 1}, {YEAR, year % 100}, {CENTURY, year / 100}};
	uint8_t control = get(B);
	put(B, control | SET);
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		put(all[i].reg, (uint8_t)(all[i].value / 10 << 4 | all[i].value % 10));
	put(B, control);
}

static void its_time_is_the_machines_beginning_plus_the_guests_time(void **state)
{
	(void)state;
	assert_int_equal(get(HOURS), 0x22);
	assert_int_equal(get(MINUTES), 0x13);
	assert_int_equal(get(SECONDS), 0x20);
	assert_int_equal(get(WEEKDAY), 3);
	assert_int_equal(get(DAY), 0x14);
	assert_int_equal(get(MONTH), 0x11);
	assert_int_equal(get(YEAR), 0x23);
	assert_int_equal(get(CENTURY), 0x20);
	world.now = SECOND - 1;
	show_is(MADE);
	world.now = SECOND;
	show_is(MADE + 1);
	world.now = 86400 * SECOND;
	show_is(MADE + 86400);
}

static void every_day_of_its_range_is_the_calendars(void **state)
{
	(void)state;
	for (int64_t day = 0; day < 584 * 365; day++) {
		cmos_set_time(&cmos, (uint64_t)day * 86400 + (uint64_t)(day * 7919 % 86400));
		show_is(day * 86400 + day * 7919 % 86400);
	}
}

static void it_is_binary_if_the_guest_wants_it(void **state)
{
	(void)state;
	put(B, HOURS_24 | BINARY);
	assert_int_equal(get(HOURS), 22);
	assert_int_equal(get(MINUTES), 13);
	assert_int_equal(get(YEAR), 23);
	assert_int_equal(get(CENTURY), 20);
	put(B, 0); /* twelve hours there are not */
	assert_int_equal(get(B), HOURS_24);
	assert_int_equal(get(HOURS), 0x22);
}

static void a_guest_sets_it_and_it_goes_on_half_a_second_later(void **state)
{
	(void)state;
	world.now = 5 * SECOND + 123;
	set_time(951782400 + 3600); /* 2000-02-29 01:00 */
	show_is(951782400 + 3600);
	world.now += SECOND / 2 - 1;
	show_is(951782400 + 3600);
	world.now++;
	show_is(951782400 + 3601);
	world.now += 86400 * SECOND;
	show_is(951782400 + 3601 + 86400);
}

static void while_it_is_set_it_stands_and_asks_no_clock(void **state)
{
	(void)state;
	put(B, HOURS_24 | SET);
	world.now = 1000 * SECOND;
	unsigned asked = world.asked;
	show_is(MADE);
	put(SECONDS, 0x59);
	assert_int_equal(get(SECONDS), 0x59);
	assert_int_equal(world.asked, asked);
	put(B, HOURS_24);
	assert_int_equal(get(SECONDS), 0x59);
	assert_int_equal(get(MINUTES), 0x13);
}

static void a_byte_written_while_it_goes_changes_only_that(void **state)
{
	(void)state;
	world.now = SECOND * 3 / 4;
	put(MINUTES, 0x14);
	show_is(MADE + 60);
	world.now = SECOND;
	show_is(MADE + 61);
}

static void only_the_time_asks_the_clock(void **state)
{
	(void)state;
	for (unsigned reg = 0; reg < 128; reg++) {
		unsigned asked = world.asked;
		bool is_time = reg == SECONDS || reg == MINUTES || reg == HOURS ||
			       (reg >= WEEKDAY && reg <= YEAR) || reg == CENTURY;
		get(reg);
		assert_int_equal(world.asked - asked, is_time);
	}
	assert_int_equal(cmos_read(&cmos, &world.env, 0x70), 0xff);
}

/* What Linux looks at before it believes in the clock. */
static void no_update_is_ever_under_way_and_the_battery_is_good(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2000; i++, world.now += SECOND / 1000)
		assert_int_equal(get(A) & 0x80, 0);
	put(A, 0xff);
	assert_int_equal(get(A), 0x7f);
	assert_int_equal(get(D), 0x80);
	put(D, 0);
	put(C, 0xff);
	assert_int_equal(get(D), 0x80);
	assert_int_equal(get(C), 0);
}

static void the_other_bytes_are_kept(void **state)
{
	(void)state;
	for (unsigned reg = 14; reg < 128; reg++)
		if (reg != CENTURY)
			put(reg | 0x80, (uint8_t)(reg * 3)); /* bit 7 of the index is not its */
	for (unsigned reg = 14; reg < 128; reg++)
		if (reg != CENTURY)
			assert_int_equal(get(reg), (uint8_t)(reg * 3));
}

static void an_alarm_rings_at_its_time_and_again_a_day_later(void **state)
{
	(void)state;
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
	world.now = SECOND / 4;
	put(HOURS_ALARM, 0x22);
	put(MINUTES_ALARM, 0x14);
	put(SECONDS_ALARM, 0x05);
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
	put(B, HOURS_24 | AIE);
	assert_true(cmos_deadline(&cmos) == 45 * SECOND);
	assert_false(world.line);
	cmos_tick(&cmos, &world.env, 45 * SECOND + 7);
	assert_true(world.line);
	assert_true(cmos_deadline(&cmos) == (45 + 86400) * SECOND);
	assert_int_equal(get(C), 0x80 | 0x20);
	assert_false(world.line);
	assert_int_equal(get(C), 0);
	put(B, HOURS_24);
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
}

static void an_alarm_moves_with_what_the_guest_writes(void **state)
{
	(void)state;
	put(HOURS_ALARM, 0xff);
	put(MINUTES_ALARM, 0xc0);
	put(SECONDS_ALARM, 0x20);
	put(B, HOURS_24 | AIE); /* every minute; this very second has begun and does not count */
	assert_true(cmos_deadline(&cmos) == 60 * SECOND);
	put(SECONDS_ALARM, 0xff);
	assert_true(cmos_deadline(&cmos) == SECOND);
	put(SECONDS_ALARM, 0x61); /* no second is called so */
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
	put(SECONDS_ALARM, 0x30);
	assert_true(cmos_deadline(&cmos) == 10 * SECOND);
	set_time(MADE + 8);
	assert_true(cmos_deadline(&cmos) == SECOND * 3 / 2);
	put(B, HOURS_24 | AIE | SET); /* a clock that stands rings for nobody */
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
}

static void an_update_interrupt_comes_each_second_and_missed_ones_merge(void **state)
{
	(void)state;
	world.now = SECOND / 3;
	put(B, HOURS_24 | UIE);
	for (unsigned i = 1; i <= 5; i++) {
		assert_true(cmos_deadline(&cmos) == i * SECOND);
		cmos_tick(&cmos, &world.env, i * SECOND);
		assert_int_equal(get(C), 0x80 | 0x10);
	}
	cmos_tick(&cmos, &world.env, 100 * SECOND + 1);
	assert_int_equal(world.rises, 6);
	assert_true(cmos_deadline(&cmos) == 101 * SECOND);
	/* Switched off without having been read away: the line falls, the flag stays. */
	put(B, HOURS_24);
	assert_false(world.line);
	assert_int_equal(get(C), 0x10);
}

static void no_periodic_interrupt_is_promised(void **state)
{
	(void)state;
	put(B, HOURS_24 | 0x40 | 0x01);
	assert_int_equal(get(B), HOURS_24);
	assert_true(cmos_deadline(&cmos) == CMOS_NO_DEADLINE);
}

/* Also under the sanitizers: no bytes loaded and no write leads anywhere but into the struct. */
static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	static struct world other;
	static struct cmos twin;
	unsigned seed = 1;
	for (unsigned round = 0; round < 400; round++) {
		set_up(NULL);
		other = world;
		memset(&twin, 0xff, sizeof twin);
		cmos_reset(&twin);
		cmos_set_time(&twin, MADE);
		for (size_t i = 0; round % 2 && i < sizeof cmos; i++)
			((uint8_t *)&cmos)[i] = ((uint8_t *)&twin)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 500; step++) {
			uint16_t port = rand_r(&seed) % 2 ? 0x71 : 0x70;
			uint8_t value =
				(uint8_t)(port == 0x70 && rand_r(&seed) % 4 ? rand_r(&seed) % 16
									    : rand_r(&seed));
			world.now = other.now += (uint64_t)rand_r(&seed) << rand_r(&seed) % 30;
			switch (rand_r(&seed) % 4) {
			case 0:
			case 1:
				cmos_write(&cmos, &world.env, port, value);
				cmos_write(&twin, &other.env, port, value);
				break;
			case 2:
				assert_int_equal(cmos_read(&cmos, &world.env, port),
					cmos_read(&twin, &other.env, port));
				break;
			default:
				assert_true(cmos_deadline(&cmos) == cmos_deadline(&twin));
				cmos_tick(&cmos, &world.env, world.now);
				cmos_tick(&twin, &other.env, other.now);
			}
		}
		assert_memory_equal(&cmos, &twin, sizeof cmos);
		assert_memory_equal(&world, &other, sizeof world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(
			its_time_is_the_machines_beginning_plus_the_guests_time, set_up),
		cmocka_unit_test_setup(every_day_of_its_range_is_the_calendars, set_up),
		cmocka_unit_test_setup(it_is_binary_if_the_guest_wants_it, set_up),
		cmocka_unit_test_setup(a_guest_sets_it_and_it_goes_on_half_a_second_later, set_up),
		cmocka_unit_test_setup(while_it_is_set_it_stands_and_asks_no_clock, set_up),
		cmocka_unit_test_setup(a_byte_written_while_it_goes_changes_only_that, set_up),
		cmocka_unit_test_setup(only_the_time_asks_the_clock, set_up),
		cmocka_unit_test_setup(no_update_is_ever_under_way_and_the_battery_is_good, set_up),
		cmocka_unit_test_setup(the_other_bytes_are_kept, set_up),
		cmocka_unit_test_setup(an_alarm_rings_at_its_time_and_again_a_day_later, set_up),
		cmocka_unit_test_setup(an_alarm_moves_with_what_the_guest_writes, set_up),
		cmocka_unit_test_setup(
			an_update_interrupt_comes_each_second_and_missed_ones_merge, set_up),
		cmocka_unit_test_setup(no_periodic_interrupt_is_promised, set_up),
		cmocka_unit_test_setup(equal_inputs_leave_equal_bytes, set_up),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

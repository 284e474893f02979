#include "engine/pic.h"

#include "engine/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MASTER = 0x20, SLAVE = 0xa0 };

/* As a PC's firmware or kernel does it. */
static void initialise(struct pic *pic, uint8_t master_icw4, uint8_t slave_icw4)
{
	pic_write(pic, MASTER, 0x11);
	pic_write(pic, MASTER + 1, 0x30);
	pic_write(pic, MASTER + 1, 0x04);
	pic_write(pic, MASTER + 1, master_icw4);
	pic_write(pic, SLAVE, 0x11);
	pic_write(pic, SLAVE + 1, 0x38);
	pic_write(pic, SLAVE + 1, 0x02);
	pic_write(pic, SLAVE + 1, slave_icw4);
}

static struct pic ready_pic(void)
{
	struct pic pic;
	pic_reset(&pic);
	initialise(&pic, 0x01, 0x01);
	return pic;
}

static void raise_edge(struct pic *pic, unsigned line)
{
	pic_set_line(pic, line, false);
	pic_set_line(pic, line, true);
}

static uint8_t read_isr(struct pic *pic, uint16_t port)
{
	pic_write(pic, port, 0x0b);
	return pic_read(pic, port);
}

static uint8_t read_irr(struct pic *pic, uint16_t port)
{
	pic_write(pic, port, 0x0a);
	return pic_read(pic, port);
}

static void nothing_is_asked_for_before_the_chip_is_initialised(void **state)
{
	(void)state;
	struct pic pic;
	pic_reset(&pic);
	raise_edge(&pic, 0);
	assert_false(pic_pending(&pic));
	pic_write(&pic, MASTER, 0x11);
	pic_write(&pic, MASTER + 1, 0x30);
	raise_edge(&pic, 0);
	assert_false(pic_pending(&pic));
	initialise(&pic, 0x01, 0x01);
	assert_false(pic_pending(&pic));
	raise_edge(&pic, 0);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x30);
}

static void a_single_chip_and_one_without_icw4_need_fewer_words(void **state)
{
	(void)state;
	struct pic pic;
	pic_reset(&pic);
	pic_write(&pic, MASTER, 0x12);
	pic_write(&pic, MASTER + 1, 0x47);
	raise_edge(&pic, 3);
	assert_int_equal(pic_acknowledge(&pic), 0x43);
	pic_write(&pic, MASTER + 1, 0xf0);
	assert_int_equal(pic_read(&pic, MASTER + 1), 0xf0);
	pic_write(&pic, MASTER, 0x13);
	pic_write(&pic, MASTER + 1, 0x50);
	pic_write(&pic, MASTER + 1, 0x03);
	raise_edge(&pic, 4);
	assert_int_equal(pic_acknowledge(&pic), 0x54);
	assert_int_equal(read_isr(&pic, MASTER), 0);
}

static void an_edge_is_taken_once(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_set_line(&pic, 4, true);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	pic_write(&pic, MASTER, 0x20);
	assert_false(pic_pending(&pic));
	pic_set_line(&pic, 4, true);
	assert_false(pic_pending(&pic));
	raise_edge(&pic, 4);
	assert_true(pic_pending(&pic));
}

static void a_level_asks_again_until_it_falls(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_set_line(&pic, IRQ_NET, true);
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	assert_false(pic_pending(&pic));
	pic_write(&pic, MASTER, 0x20);
	assert_true(pic_pending(&pic));
	assert_int_equal(pic_acknowledge(&pic), 0x35);
	pic_set_line(&pic, IRQ_NET, false);
	pic_write(&pic, MASTER, 0x20);
	assert_false(pic_pending(&pic));
}

static void a_falling_line_takes_its_request_back(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	for (unsigned line = 0; line < 16; line++) {
		if (line == 2)
			continue;
		pic_set_line(&pic, line, true);
		assert_true(pic_pending(&pic));
		pic_set_line(&pic, line, false);
		assert_false(pic_pending(&pic));
	}
}

static void a_masked_request_waits(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_write(&pic, MASTER + 1, 0x10);
	pic_set_line(&pic, 4, true);
	assert_false(pic_pending(&pic));
	assert_int_equal(read_irr(&pic, MASTER), 0x10);
	pic_write(&pic, MASTER + 1, 0x00);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
}

static void a_lower_line_waits_for_the_end_of_a_higher_one(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	raise_edge(&pic, 4);
	raise_edge(&pic, 1);
	raise_edge(&pic, 6);
	assert_int_equal(pic_acknowledge(&pic), 0x31);
	assert_false(pic_pending(&pic));
	raise_edge(&pic, 0);
	assert_int_equal(pic_acknowledge(&pic), 0x30);
	assert_int_equal(read_isr(&pic, MASTER), 0x03);
	pic_write(&pic, MASTER, 0x20);
	assert_int_equal(read_isr(&pic, MASTER), 0x02);
	assert_false(pic_pending(&pic));
	pic_write(&pic, MASTER, 0x61);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	pic_write(&pic, MASTER, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x36);
}

static void a_line_of_the_second_chip_goes_through_the_first(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	raise_edge(&pic, 12);
	raise_edge(&pic, 8);
	assert_int_equal(pic_acknowledge(&pic), 0x38);
	assert_int_equal(read_isr(&pic, MASTER), 0x04);
	assert_int_equal(read_isr(&pic, SLAVE), 0x01);
	pic_write(&pic, MASTER, 0x20);
	assert_false(pic_pending(&pic));
	pic_write(&pic, SLAVE, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	/* In the other order, too, no request is lost. */
	raise_edge(&pic, 9);
	pic_write(&pic, SLAVE, 0x20);
	assert_false(pic_pending(&pic));
	pic_write(&pic, MASTER, 0x20);
	assert_int_equal(pic_acknowledge(&pic), 0x39);
}

static void special_fully_nested_lets_the_second_chip_interrupt_itself(void **state)
{
	(void)state;
	struct pic pic;
	pic_reset(&pic);
	initialise(&pic, 0x11, 0x01);
	raise_edge(&pic, 12);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	raise_edge(&pic, 13);
	assert_false(pic_pending(&pic));
	raise_edge(&pic, 8);
	assert_int_equal(pic_acknowledge(&pic), 0x38);
}

static void masking_on_the_second_chip_leaves_no_request_on_the_first(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	raise_edge(&pic, 10);
	assert_true(pic_pending(&pic));
	pic_write(&pic, SLAVE + 1, 0x04);
	assert_false(pic_pending(&pic));
	pic_write(&pic, SLAVE + 1, 0x00);
	assert_int_equal(pic_acknowledge(&pic), 0x3a);
}

static void automatic_end_leaves_nothing_in_service(void **state)
{
	(void)state;
	struct pic pic;
	pic_reset(&pic);
	initialise(&pic, 0x03, 0x03);
	raise_edge(&pic, 12);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	assert_int_equal(read_isr(&pic, MASTER), 0);
	assert_int_equal(read_isr(&pic, SLAVE), 0);
	/* The second chip's pin never stays up: each of its requests is an edge for the first. */
	raise_edge(&pic, 14);
	raise_edge(&pic, 15);
	assert_int_equal(pic_acknowledge(&pic), 0x3e);
	assert_int_equal(pic_acknowledge(&pic), 0x3f);
	assert_false(pic_pending(&pic));
	/* With rotation the line served becomes the lowest. */
	pic_write(&pic, MASTER, 0x80);
	raise_edge(&pic, 3);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
	raise_edge(&pic, 3);
	raise_edge(&pic, 4);
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	pic_write(&pic, MASTER, 0x00);
	assert_int_equal(pic_acknowledge(&pic), 0x33);
}

static void priorities_rotate(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_write(&pic, MASTER, 0xc0 | 4); /* 4 is the lowest: 5 the highest */
	raise_edge(&pic, 4);
	raise_edge(&pic, 0);
	raise_edge(&pic, 6);
	assert_int_equal(pic_acknowledge(&pic), 0x36);
	pic_write(&pic, MASTER, 0xa0); /* end and rotate: 6 is the lowest */
	raise_edge(&pic, 6);
	assert_int_equal(pic_acknowledge(&pic), 0x30);
	pic_write(&pic, MASTER, 0xe0); /* end 0 and make it the lowest */
	assert_int_equal(pic_acknowledge(&pic), 0x34);
	pic_write(&pic, MASTER, 0x40); /* nothing at all */
	pic_write(&pic, MASTER, 0x64);
	assert_int_equal(pic_acknowledge(&pic), 0x36);
}

static void special_mask_lets_lower_lines_through(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	raise_edge(&pic, 1);
	assert_int_equal(pic_acknowledge(&pic), 0x31);
	raise_edge(&pic, 6);
	pic_write(&pic, MASTER + 1, 0x02);
	assert_false(pic_pending(&pic));
	pic_write(&pic, MASTER, 0x68);
	assert_int_equal(pic_acknowledge(&pic), 0x36);
	pic_write(&pic, MASTER, 0x20); /* ends 6: the masked 1 must be named */
	assert_int_equal(read_isr(&pic, MASTER), 0x02);
	pic_write(&pic, MASTER, 0x20);
	assert_int_equal(read_isr(&pic, MASTER), 0x02);
	pic_write(&pic, MASTER, 0x61);
	assert_int_equal(read_isr(&pic, MASTER), 0x00);
	pic_write(&pic, MASTER, 0x48);
	assert_int_equal(pic.chip[0].special_mask, 0);
}

static void a_poll_acknowledges(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_write(&pic, MASTER, 0x0c);
	assert_int_equal(pic_read(&pic, MASTER), 0x00);
	raise_edge(&pic, 14);
	pic_write(&pic, MASTER, 0x0c);
	assert_int_equal(pic_read(&pic, MASTER), 0x82);
	pic_write(&pic, SLAVE, 0x0c);
	assert_int_equal(pic_read(&pic, SLAVE), 0x86);
	assert_int_equal(read_isr(&pic, MASTER), 0x04);
	assert_int_equal(read_isr(&pic, SLAVE), 0x40);
	assert_int_equal(pic_read(&pic, SLAVE + 1), 0x00);
}

static void an_acknowledge_without_a_request_is_spurious(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	assert_int_equal(pic_acknowledge(&pic), 0x37);
	assert_int_equal(read_isr(&pic, MASTER), 0x00);
	pic.chip[0].irr = 0x04; /* the second chip's pin was up a moment ago */
	assert_int_equal(pic_acknowledge(&pic), 0x3f);
	assert_int_equal(read_isr(&pic, MASTER), 0x04);
	assert_int_equal(read_isr(&pic, SLAVE), 0x00);
}

static void level_control_spares_the_board_s_own_lines(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	assert_int_equal(pic_read(&pic, 0x4d0), 1u << IRQ_NET);
	assert_int_equal(pic_read(&pic, 0x4d1), 1u << (IRQ_CONSOLE - 8) | 1u << (IRQ_RNG - 8));
	pic_write(&pic, 0x4d0, 0xff);
	pic_write(&pic, 0x4d1, 0xff);
	assert_int_equal(pic_read(&pic, 0x4d0), 0xf8);
	assert_int_equal(pic_read(&pic, 0x4d1), 0xde);
	pic_set_line(&pic, 12, true);
	assert_int_equal(pic_acknowledge(&pic), 0x3c);
	initialise(&pic, 0x01, 0x01);
	assert_int_equal(pic_read(&pic, 0x4d1), 0xde);
	assert_int_equal(pic_acknowledge(&pic), 0x3c); /* the level is still there */
	pic_write(&pic, SLAVE, 0x20);
	pic_write(&pic, MASTER, 0x20);
	pic_write(&pic, 0x4d1, 0x00);
	assert_false(pic_pending(&pic));
}

static void a_line_that_is_wired_as_a_level_stays_one(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_write(&pic, 0x4d0, 0x00);
	pic_write(&pic, 0x4d1, 0x02); /* as Linux does for its SCI */
	assert_int_equal(pic_read(&pic, 0x4d0), 1u << IRQ_NET);
	assert_int_equal(
		pic_read(&pic, 0x4d1), 0x02 | 1u << (IRQ_CONSOLE - 8) | 1u << (IRQ_RNG - 8));
	pic_set_line(&pic, IRQ_NET, true);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pic_acknowledge(&pic), 0x30 + IRQ_NET);
		pic_write(&pic, MASTER, 0x60 + IRQ_NET);
	}
	pic_set_line(&pic, IRQ_NET, false);
	assert_false(pic_pending(&pic));
}

/* Linux probes for the chip before it has initialised it, then serves each line in these steps. */
static void a_kernel_that_masks_and_acknowledges_sees_each_edge_once(void **state)
{
	(void)state;
	struct pic pic;
	pic_reset(&pic);
	pic_write(&pic, SLAVE + 1, 0xff);
	pic_write(&pic, MASTER + 1, 0xfb);
	assert_int_equal(pic_read(&pic, MASTER + 1), 0xfb);
	pic_write(&pic, MASTER + 1, 0xff);
	initialise(&pic, 0x01, 0x01);
	pic_write(&pic, MASTER + 1, 0xfa);
	pic_write(&pic, SLAVE + 1, 0xfe); /* the clock's line, 8 */
	for (unsigned i = 0; i < 3; i++) {
		raise_edge(&pic, 0);
		assert_int_equal(pic_acknowledge(&pic), 0x30);
		assert_int_equal(pic_read(&pic, MASTER + 1), 0xfa);
		pic_write(&pic, MASTER + 1, 0xfb);
		pic_write(&pic, MASTER, 0x60);
		assert_int_equal(read_isr(&pic, MASTER), 0);
		raise_edge(&pic, 0); /* masked: it waits */
		assert_false(pic_pending(&pic));
		pic_write(&pic, MASTER + 1, 0xfa);
		assert_int_equal(pic_acknowledge(&pic), 0x30);
		pic_write(&pic, MASTER, 0x60);
		assert_false(pic_pending(&pic));

		raise_edge(&pic, 8);
		assert_int_equal(pic_acknowledge(&pic), 0x38);
		pic_write(&pic, SLAVE + 1, 0xff);
		pic_write(&pic, SLAVE, 0x60);
		pic_write(&pic, MASTER, 0x62);
		pic_write(&pic, SLAVE + 1, 0xfe);
		assert_false(pic_pending(&pic));
	}
}

static void initialising_forgets_edges_masks_and_service(void **state)
{
	(void)state;
	struct pic pic = ready_pic();
	pic_write(&pic, MASTER + 1, 0x55);
	raise_edge(&pic, 3);
	pic_acknowledge(&pic);
	raise_edge(&pic, 1);
	initialise(&pic, 0x01, 0x01);
	assert_int_equal(pic_read(&pic, MASTER + 1), 0);
	assert_int_equal(read_isr(&pic, MASTER), 0);
	assert_int_equal(read_irr(&pic, MASTER), 0);
}

/* Also under the sanitizers: no bytes loaded and no write leads anywhere but into the struct. */
static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
	unsigned seed = 1;
	for (unsigned round = 0; round < 200; round++) {
		struct pic a, b;
		memset(&a, 0, sizeof a);
		memset(&b, 0xff, sizeof b);
		pic_reset(&a);
		pic_reset(&b);
		for (size_t i = 0; round % 2 && i < sizeof a; i++)
			((uint8_t *)&a)[i] = ((uint8_t *)&b)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 200; step++) {
			uint16_t port = ports[(unsigned)rand_r(&seed) % 6];
			unsigned value = (unsigned)rand_r(&seed);
			bool level = value & 0x100;
			switch (rand_r(&seed) % 4) {
			case 0:
				pic_write(&a, port, (uint8_t)value);
				pic_write(&b, port, (uint8_t)value);
				break;
			case 1:
				assert_int_equal(pic_read(&a, port), pic_read(&b, port));
				break;
			case 2:
				pic_set_line(&a, value % 18, level);
				pic_set_line(&b, value % 18, level);
				break;
			default:
				assert_int_equal(pic_pending(&a), pic_pending(&b));
				assert_int_equal(pic_acknowledge(&a), pic_acknowledge(&b));
			}
		}
		assert_memory_equal(&a, &b, sizeof a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_asked_for_before_the_chip_is_initialised),
		cmocka_unit_test(a_single_chip_and_one_without_icw4_need_fewer_words),
		cmocka_unit_test(an_edge_is_taken_once),
		cmocka_unit_test(a_level_asks_again_until_it_falls),
		cmocka_unit_test(a_falling_line_takes_its_request_back),
		cmocka_unit_test(a_masked_request_waits),
		cmocka_unit_test(a_lower_line_waits_for_the_end_of_a_higher_one),
		cmocka_unit_test(a_line_of_the_second_chip_goes_through_the_first),
		cmocka_unit_test(special_fully_nested_lets_the_second_chip_interrupt_itself),
		cmocka_unit_test(masking_on_the_second_chip_leaves_no_request_on_the_first),
		cmocka_unit_test(automatic_end_leaves_nothing_in_service),
		cmocka_unit_test(priorities_rotate),
		cmocka_unit_test(special_mask_lets_lower_lines_through),
		cmocka_unit_test(a_poll_acknowledges),
		cmocka_unit_test(an_acknowledge_without_a_request_is_spurious),
		cmocka_unit_test(level_control_spares_the_board_s_own_lines),
		cmocka_unit_test(a_line_that_is_wired_as_a_level_stays_one),
		cmocka_unit_test(a_kernel_that_masks_and_acknowledges_sees_each_edge_once),
		cmocka_unit_test(initialising_forgets_edges_masks_and_service),
		cmocka_unit_test(equal_inputs_leave_equal_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "engine/board.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

/* A board and what it asks of the world. */
struct world {
	struct device_env env; /* first: the calls get it */
	struct guest_memory memory;
	struct board board;
	uint64_t time_ns;
	unsigned clock_reads;
	char text[16];
	size_t length;
};

static struct world *w;

static uint64_t read_clock(struct device_env *env)
{
	struct world *world = (struct world *)env;
	world->clock_reads++;
	return world->time_ns;
}

static void take_output(
	struct device_env *env, enum output_device device, const void *bytes, size_t length)
{
	struct world *world = (struct world *)env;
	assert_int_equal(device, OUTPUT_CONSOLE);
	assert_true(world->length + length <= sizeof world->text);
	memcpy(world->text + world->length, bytes, length);
	world->length += length;
}

static void set_line(struct device_env *env, unsigned line, bool level)
{
	pic_set_line(&((struct world *)env)->board.pic, line, level);
}

static int set_up(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
	(void)state;
	w = calloc(1, sizeof *w);
	assert_non_null(w);
	assert_int_equal(memory_create(&w->memory, GUEST_MEMORY_MIN), 0);
	w->env = (struct device_env){
		.memory = &w->memory, .clock = read_clock, .output = take_output, .irq = set_line};
	board_reset(&w->board, mac);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	memory_destroy(&w->memory);
	free(w);
	return 0;
}

static uint32_t in(uint16_t port, unsigned size)
{
	return board_port_read(&w->board, &w->env, port, size);
}

static void out(uint16_t port, unsigned size, uint32_t value)
{
	board_port_write(&w->board, &w->env, port, size, value);
}

static uint64_t load(uint64_t address, unsigned size)
{
	uint8_t bytes[8] = {0};
	uint64_t value = 0;
	board_mmio_read(&w->board, &w->env, address, size, bytes);
	memcpy(&value, bytes, size);
	return value;
}

static void store(uint64_t address, unsigned size, uint64_t value)
{
	uint8_t bytes[8];
	memcpy(bytes, &value, sizeof bytes);
	board_mmio_write(&w->board, &w->env, address, size, bytes);
}

static void where_nothing_is_all_bits_read_one_and_writes_do_nothing(void **state)
{
	(void)state;
	struct board before = w->board;
	static const uint16_t ports[] = {
		0x00, 0x22, 0x44, 0x60, 0x62, 0x80, 0x2f8, 0x3f7, 0x400, 0x603, 0x605, 0xfffc};
	for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++) {
		assert_int_equal(in(ports[i], 1), 0xff);
		out(ports[i], 1, 0);
	}
	assert_int_equal(in(0x80, 2), 0xffff);
	assert_int_equal(in(0x80, 4), 0xffffffff);
	static const uint64_t addresses[] = {0xc0000000, MMIO_NET - 8, MMIO_RNG + MMIO_VIRTIO_SIZE,
		MMIO_CLOCK - 8, MMIO_CLOCK + 8, 0xfee00000, UINT64_MAX - 7};
	for (unsigned i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		for (unsigned size = 1; size <= 8; size *= 2) {
			assert_int_equal(load(addresses[i], size), UINT64_MAX >> (64 - 8 * size));
			store(addresses[i], size, 0);
		}
	}
	assert_memory_equal(&w->board, &before, sizeof before);
	assert_int_equal(w->clock_reads, 0);
}

static void a_wide_access_is_one_to_each_of_the_ports_that_follow(void **state)
{
	(void)state;
	out(0x3fb, 1, 0x80); /* the divisor's latch: ports 0x3f8 and 0x3f9 */
	out(0x3f8, 2, 0x1234);
	assert_int_equal(in(0x3f8, 1), 0x34);
	assert_int_equal(in(0x3f9, 1), 0x12);
	assert_int_equal(in(0x3f8, 2), 0x1234);
	out(0x3ff, 1, 0x5a); /* the scratch register is the last; nothing is behind it */
	assert_int_equal(in(0x3ff, 4), 0xffffff5a);
	/* At the end of all ports it begins again at 0, where nothing is. */
	assert_int_equal(in(0xffff, 4), 0xffffffff);
}

static void a_byte_on_the_serial_line_is_an_output(void **state)
{
	(void)state;
	out(0x3f8, 1, 'h');
	out(0x3f8, 1, 'i');
	assert_int_equal(w->length, 2);
	assert_memory_equal(w->text, "hi", 2);
}

static void the_machine_is_switched_off_by_a_wide_write_only(void **state)
{
	(void)state;
	out(PORT_POWER, 1, 3);
	out(PORT_POWER - 2, 4, 3);
	assert_false(w->board.power_off);
	out(PORT_POWER, 2, 0xabcd1234);
	assert_true(w->board.power_off);
	assert_int_equal(w->board.power_value, 0x1234);
	out(PORT_POWER, 4, 0xabcd1234);
	assert_int_equal(w->board.power_value, 0xabcd1234);
}

static void sleep_type_5_switches_the_machine_off(void **state)
{
	(void)state;
	assert_int_equal(in(PORT_ACPI_CONTROL, 2), 1);
	out(PORT_ACPI_CONTROL, 2, 5 << 10);
	assert_false(w->board.power_off);
	out(PORT_ACPI_CONTROL, 2, 5 << 10 | 1 << 13);
	assert_true(w->board.power_off);
	assert_int_equal(w->board.power_value, 0);
	assert_false(w->board.restart);
}

static void a_restart_is_asked_for_by_a_byte_to_either_port(void **state)
{
	(void)state;
	struct board before = w->board;
	out(PORT_RESET, 1, 0x02);
	out(PORT_RESET - 1, 4, 0x80000600); /* an address for PCI, which a PC has there */
	out(PORT_RESET, 2, 0x0606);
	out(PORT_KEYBOARD, 1, 0xaa);
	out(PORT_KEYBOARD, 2, 0xfefe);
	out(PORT_KEYBOARD - 4, 1, 0xfe);
	assert_memory_equal(&w->board, &before, sizeof before);
	out(PORT_RESET, 1, 0x06);
	assert_true(w->board.restart);
	w->board = before;
	out(PORT_KEYBOARD, 1, 0xfe);
	assert_true(w->board.restart);
	assert_false(w->board.power_off);
}

/* Whoever looks for a keyboard finds a buffer that never runs empty, and one that is free for a command. */
static void there_is_no_keyboard(void **state)
{
	(void)state;
	assert_int_equal(in(PORT_KEYBOARD, 1), 0xfd);
	assert_int_equal(in(0x60, 1), 0xff);
}

static void the_acpi_timer_is_read_whole_and_asks_the_clock_once(void **state)
{
	(void)state;
	w->time_ns = 1000000000;
	assert_int_equal(in(PORT_ACPI_TIMER, 4), 3579545);
	assert_int_equal(w->clock_reads, 1);
	assert_int_equal(in(PORT_ACPI_TIMER, 2), 0xffff);
	assert_int_equal(in(PORT_ACPI_TIMER + 1, 4), 0xffffffff);
	out(PORT_ACPI_TIMER, 4, 0);
	assert_int_equal(
		in(PORT_ACPI_EVENT + 4, 4), 0xffff0001); /* nothing behind the control block */
	assert_int_equal(w->clock_reads, 1);
}

static void the_cmos_clock_answers_at_its_ports(void **state)
{
	(void)state;
	cmos_set_time(&w->board.cmos, 59);
	out(0x70, 2, 0x5a38); /* the index, then the byte */
	assert_int_equal(in(0x71, 1), 0x5a);
	out(0x70, 1, 0x00);
	assert_int_equal(in(0x70, 2), 0x59ff);
	assert_int_equal(w->clock_reads, 1);
}

/* Everything at once, of every size, on a board that was loaded with rubbish: under the sanitizers. */
static void no_access_leads_out_of_the_board(void **state)
{
	(void)state;
	static const uint16_t bases[] = {
		0x1e, 0x3e, 0x5f, 0x6e, 0x9e, 0x3f6, 0x4ce, 0x602, 0x61e, 0x626, 0xcf7};
	unsigned seed = 1;
	for (unsigned round = 0; round < 200; round++) {
		for (size_t i = 0; round % 2 && i < sizeof w->board.cmos; i++)
			((uint8_t *)&w->board.cmos)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 500; step++) {
			uint16_t port = (uint16_t)(bases[(unsigned)rand_r(&seed) %
							   (sizeof bases / sizeof bases[0])] +
						   (unsigned)rand_r(&seed) % 12);
			unsigned size = 1u << (unsigned)rand_r(&seed) % 3;
			w->time_ns += (unsigned)rand_r(&seed);
			w->length = 0;
			if (rand_r(&seed) % 2)
				out(port, size, (uint32_t)rand_r(&seed) * 3u);
			else
				in(port, size);
			cmos_tick(&w->board.cmos, &w->env, w->time_ns);
			if (pic_pending(&w->board.pic))
				board_acknowledge(&w->board, &w->env);
		}
	}
}

/* D3: what a device knows of the time is what the log will say. */
static void every_read_of_the_clock_asks_for_it_once(void **state)
{
	(void)state;
	w->time_ns = 0x1122334455667788;
	assert_int_equal(load(MMIO_CLOCK, 8), 0x1122334455667788);
	assert_int_equal(load(MMIO_CLOCK, 4), 0x55667788);
	assert_int_equal(load(MMIO_CLOCK + 4, 4), 0x11223344);
	assert_int_equal(w->clock_reads, 3);
	/* Not aligned, or of another size: nothing is there. */
	assert_int_equal(load(MMIO_CLOCK + 1, 4), 0xffffffff);
	assert_int_equal(load(MMIO_CLOCK, 2), 0xffff);
	assert_int_equal(load(MMIO_CLOCK + 4, 8), UINT64_MAX);
	assert_int_equal(w->clock_reads, 3);
	store(MMIO_CLOCK, 8, 0);
	assert_int_equal(load(MMIO_CLOCK, 8), 0x1122334455667788);
}

static void the_card_ends_where_its_registers_do(void **state)
{
	(void)state;
	assert_int_equal(load(MMIO_NET, 4), 0x74726976);
	assert_int_equal(load(MMIO_NET + 8, 4), 1);
	assert_int_equal(load(MMIO_NET + 0x100, 1), 2); /* its address */
	assert_int_equal(load(MMIO_NET + 0x105, 1), 9);
	assert_int_equal(load(MMIO_NET + MMIO_VIRTIO_SIZE - 4, 8), UINT64_MAX); /* half outside */
}

static void every_virtio_device_is_where_the_guest_is_told(void **state)
{
	(void)state;
	static const uint32_t ids[BOARD_VIRTIO] = {1, 3, 4};
	for (unsigned i = 0; i < BOARD_VIRTIO; i++) {
		uint64_t at = board_virtio[i].address;
		assert_int_equal(load(at, 4), 0x74726976);
		assert_int_equal(load(at + 8, 4), ids[i]);
		assert_int_equal(load(at + board_virtio[i].size - 4, 8), UINT64_MAX);
		assert_int_equal(w->board.pic.chip[board_virtio[i].line >> 3].elcr >>
						 (board_virtio[i].line & 7) &
					 1,
			1);
		/* A broken queue is the one thing that pulls its line without a driver. */
		store(at + 0x70, 4, 3);
		store(at + 0x24, 4, 1);
		store(at + 0x20, 4, 1);
		store(at + 0x70, 4, 0xb);
		store(at + 0x70, 4, 0xf);
		store(at + 0x44, 4, 1);
		assert_int_equal(w->board.pic.chip[board_virtio[i].line >> 3].irr >>
						 (board_virtio[i].line & 7) &
					 1,
			1);
		store(at + 0x70, 4, 0);
		assert_int_equal(w->board.pic.chip[board_virtio[i].line >> 3].irr, 0);
	}
}

#define RINGS 0x1000u /* receive: descriptors, driver, device; transmit 0x10000 further */

/* What a driver of the virtio console does, with one receive buffer of 4 bytes at 0x8000. */
static void set_up_console(void)
{
	uint8_t *memory = w->memory.base;
	static const uint32_t words[][2] = {{0x70, 3}, {0x24, 1}, {0x20, 1}, {0x70, 0xb}};
	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
		store(MMIO_CONSOLE + words[i][0], 4, words[i][1]);
	memset(memory + RINGS, 0, 0x20000);
	for (uint32_t queue = 0; queue < 2; queue++) {
		uint32_t at = RINGS + queue * 0x10000;
		store(MMIO_CONSOLE + 0x30, 4, queue);
		store(MMIO_CONSOLE + 0x38, 4, 8);
		store(MMIO_CONSOLE + 0x80, 4, at);
		store(MMIO_CONSOLE + 0x90, 4, at + 0x1000);
		store(MMIO_CONSOLE + 0xa0, 4, at + 0x2000);
		store(MMIO_CONSOLE + 0x44, 4, 1);
		const uint64_t descriptor[2] = {
			0x8000 + queue * 0x100, 4 | (queue ? 0 : 2ull) << 32};
		memcpy(memory + at, descriptor, sizeof descriptor);
		memory[at + 0x1002] = 1; /* one is offered */
	}
	store(MMIO_CONSOLE + 0x70, 4, 0xf);
}

static void typed_bytes_go_to_the_virtio_console_once_it_has_spoken(void **state)
{
	(void)state;
	uint8_t *memory = w->memory.base;
	board_keys(&w->board, &w->env, (const uint8_t *)"a", 1);
	assert_int_equal(w->board.uart.rx_count, 1);
	set_up_console();
	memcpy(memory + 0x8100, "hvc0", 4);
	/* Only there: the reader is at the UART. */
	assert_int_equal(board_keys_room(&w->board, &w->env, 256), 256);
	board_keys(&w->board, &w->env, (const uint8_t *)"b", 1);
	assert_int_equal(w->board.uart.rx_count, 2);
	store(MMIO_CONSOLE + 0x50, 4, 1);
	assert_memory_equal(w->text, "hvc0", 4);
	assert_int_equal(board_keys_room(&w->board, &w->env, 256), 4);
	assert_int_equal(board_keys_room(&w->board, &w->env, 3), 3);
	board_keys(&w->board, &w->env, (const uint8_t *)"xyz", 3);
	assert_memory_equal(memory + 0x8000, "xyz", 3);
	assert_int_equal(w->board.uart.rx_count, 2);
	/* Without a buffer they wait; without its driver they are the UART's again. */
	assert_int_equal(board_keys_room(&w->board, &w->env, 256), 0);
	store(MMIO_CONSOLE + 0x70, 4, 0);
	assert_int_equal(board_keys_room(&w->board, &w->env, 256), 256);
	set_up_console();
	board_keys(&w->board, &w->env, (const uint8_t *)"c", 1);
	assert_int_equal(w->board.uart.rx_count, 3);
}

static void set_up_pic(void)
{
	static const uint8_t words[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4}, {0x21, 1},
		{0x21, 0}, {0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 1}, {0xa1, 0}};
	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
		out(words[i][0], 1, words[i][1]);
}

static void ticks_that_were_late_are_caught_up_one_interrupt_at_a_time(void **state)
{
	(void)state;
	set_up_pic();
	out(0x43, 1, 0x34);
	out(0x40, 1, 0xa9);
	out(0x40, 1, 0x04);
	assert_false(pic_pending(&w->board.pic));
	pit_tick(&w->board.pit, &w->env, 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(pic_pending(&w->board.pic));
		assert_int_equal(board_acknowledge(&w->board, &w->env), 0x20);
		assert_false(pic_pending(&w->board.pic)); /* in service */
		out(0x20, 1, 0x20);
	}
	assert_false(pic_pending(&w->board.pic));
}

static void another_lines_interrupt_does_not_count_as_the_timers(void **state)
{
	(void)state;
	set_up_pic();
	out(0x43, 1, 0x34);
	out(0x40, 1, 0xa9);
	out(0x40, 1, 0x04);
	out(0x21, 1, 0x01); /* the timer's line is masked */
	pit_tick(&w->board.pit, &w->env, 2);
	pic_set_line(&w->board.pic, IRQ_UART, true);
	assert_int_equal(board_acknowledge(&w->board, &w->env), 0x20 + IRQ_UART);
	pic_set_line(&w->board.pic, IRQ_UART, false);
	out(0x20, 1, 0x20);
	out(0x21, 1, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(board_acknowledge(&w->board, &w->env), 0x20);
		out(0x20, 1, 0x20);
	}
	assert_false(pic_pending(&w->board.pic));
	/* With nothing pending the chip answers with its last line, and the timer is not asked. */
	assert_int_equal(board_acknowledge(&w->board, &w->env), 0x27);
	assert_false(pic_pending(&w->board.pic));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			where_nothing_is_all_bits_read_one_and_writes_do_nothing, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(
			a_wide_access_is_one_to_each_of_the_ports_that_follow, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_byte_on_the_serial_line_is_an_output, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_machine_is_switched_off_by_a_wide_write_only, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			sleep_type_5_switches_the_machine_off, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_restart_is_asked_for_by_a_byte_to_either_port, set_up, tear_down),
		cmocka_unit_test_setup_teardown(there_is_no_keyboard, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_acpi_timer_is_read_whole_and_asks_the_clock_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_cmos_clock_answers_at_its_ports, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			no_access_leads_out_of_the_board, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			every_read_of_the_clock_asks_for_it_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_card_ends_where_its_registers_do, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			every_virtio_device_is_where_the_guest_is_told, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			typed_bytes_go_to_the_virtio_console_once_it_has_spoken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			ticks_that_were_late_are_caught_up_one_interrupt_at_a_time, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(
			another_lines_interrupt_does_not_count_as_the_timers, set_up, tear_down),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "engine/uart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/engine/device_world.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH, FCR = IIR };

static uint8_t sent[4096];
static size_t sent_count;

static void fake_output(
	struct device_env *env, enum output_device device, const void *bytes, size_t length)
{
	(void)env;
	assert_int_equal(device, OUTPUT_CONSOLE);
	assert_int_equal(length, 1);
	sent[sent_count++ % sizeof sent] = *(const uint8_t *)bytes;
}

static struct world world;
static struct uart uart;

static int set_up(void **state)
{
	(void)state;
	world = world_with(IRQ_UART);
	world.env.output = fake_output;
	memset(sent, 0, sizeof sent);
	sent_count = 0;
	uart_reset(&uart);
	return 0;
}

static uint8_t get(unsigned reg)
{
	return uart_read(&uart, &world.env, reg);
}

static void put(unsigned reg, uint8_t value)
{
	uart_write(&uart, &world.env, reg, value);
}

static void type(const char *text)
{
	uart_receive(&uart, &world.env, (const uint8_t *)text, strlen(text));
}

static void each_byte_written_leaves_at_once(void **state)
{
	(void)state;
	for (const char *at = "hello"; *at; at++) {
		assert_int_equal(get(LSR), 0x60);
		put(DATA, (uint8_t)*at);
	}
	assert_int_equal(sent_count, 5);
	assert_memory_equal(sent, "hello", 5);
	assert_int_equal(world.rises, 0);
}

static void the_divisor_hides_data_and_interrupt_enable(void **state)
{
	(void)state;
	put(IER, 0x05);
	put(LCR, 0x83);
	put(DATA, 0x34);
	put(IER, 0x12);
	assert_int_equal(sent_count, 0);
	assert_int_equal(get(DATA), 0x34);
	assert_int_equal(get(IER), 0x12);
	put(LCR, 0x03);
	assert_int_equal(get(LCR), 0x03);
	assert_int_equal(get(IER), 0x05);
	put(SCRATCH, 0xa5);
	assert_int_equal(get(SCRATCH), 0xa5);
}

static void an_empty_transmitter_is_a_reason_once(void **state)
{
	(void)state;
	put(IER, 0x02);
	assert_true(world.line);
	assert_int_equal(get(IIR), 0x02);
	assert_false(world.line);
	assert_int_equal(get(IIR), 0x01);
	put(DATA, 'x');
	assert_true(world.line);
	unsigned rises = world.rises;
	put(DATA, 'y'); /* falls and rises */
	assert_int_equal(world.rises, rises + 1);
	put(IER, 0x00);
	assert_false(world.line);
	put(IER, 0x02); /* asking again is a reason again: drivers test for it */
	assert_int_equal(get(IIR), 0x02);
	put(IER, 0x02);
	assert_int_equal(get(IIR), 0x01);
}

static void received_bytes_raise_the_line_until_they_are_read(void **state)
{
	(void)state;
	type("ab");
	assert_false(world.line);
	put(IER, 0x01);
	assert_true(world.line);
	assert_int_equal(get(IIR), 0x04);
	assert_int_equal(get(LSR), 0x61);
	assert_int_equal(get(DATA), 'a');
	assert_true(world.line);
	assert_int_equal(get(DATA), 'b');
	assert_false(world.line);
	assert_int_equal(get(LSR), 0x60);
	assert_int_equal(get(DATA), 0);
}

static void fewer_bytes_than_the_trigger_are_a_timeout(void **state)
{
	(void)state;
	put(FCR, 0x81);
	put(IER, 0x01);
	type("1234567");
	assert_int_equal(get(IIR), 0xcc);
	type("8");
	assert_int_equal(get(IIR), 0xc4);
	get(DATA);
	assert_int_equal(get(IIR), 0xcc);
}

static void reasons_have_priorities(void **state)
{
	(void)state;
	put(IER, 0x0f);
	put(MCR, 0x10); /* into loopback: the modem lines change */
	put(MCR, 0x00);
	type("x");
	uart.rx_overrun = 1;
	assert_int_equal(get(IIR), 0x06);
	assert_int_equal(get(LSR), 0x63);
	assert_int_equal(get(IIR), 0x04);
	assert_int_equal(get(DATA), 'x');
	assert_int_equal(get(IIR), 0x02);
	assert_int_equal(get(IIR), 0x00);
	assert_int_equal(get(MSR), 0xbb);
	assert_int_equal(get(IIR), 0x01);
	assert_int_equal(get(MSR), 0xb0);
	assert_false(world.line);
}

static void loopback_returns_what_is_sent(void **state)
{
	(void)state;
	put(MCR, 0x10 | 0x0a);
	assert_int_equal(get(MSR) & 0xf0, 0x90);
	put(MCR, 0x10 | 0x05);
	assert_int_equal(get(MSR) & 0xf0, 0x60);
	assert_int_equal(uart_room(&uart), 0);
	put(DATA, 'q');
	assert_int_equal(sent_count, 0);
	assert_int_equal(get(LSR), 0x61);
	assert_int_equal(get(DATA), 'q');
	put(MCR, 0x0b);
	assert_int_equal(get(MCR), 0x0b);
	assert_int_equal(get(MSR) & 0xf4, 0xb4); /* RI has ended */
	put(DATA, 'r');
	assert_int_equal(sent_count, 1);
}

static void the_line_keeps_what_the_fifo_cannot(void **state)
{
	(void)state;
	uint8_t bytes[UART_RX_QUEUE + 10];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 256);
	size_t written = 0, read = 0;
	/* Several times around, in pieces that do not divide the queue. */
	while (read < 5 * sizeof bytes) {
		size_t at = written % sizeof bytes, piece = sizeof bytes - at;
		if (piece > 1000)
			piece = 1000;
		if (piece > uart_room(&uart))
			piece = uart_room(&uart);
		uart_receive(&uart, &world.env, bytes + at, piece);
		written += piece;
		for (unsigned i = 0; i < 700 && (get(LSR) & 1); i++)
			assert_int_equal(get(DATA), bytes[read++ % sizeof bytes]);
	}
	assert_int_equal(get(LSR) & 2, 0);
	uart_receive(&uart, &world.env, bytes, sizeof bytes);
	assert_int_equal(uart_room(&uart), 0);
	assert_int_equal(get(LSR) & 2, 2);
	assert_int_equal(get(LSR) & 2, 0);
}

static void clearing_the_fifo_drops_what_is_in_it(void **state)
{
	(void)state;
	put(FCR, 0x01);
	type("0123456789abcdefrest");
	put(FCR, 0x03);
	assert_int_equal(get(DATA), 'r');
	put(FCR, 0x05); /* the transmitter's only */
	assert_int_equal(get(DATA), 'e');
	put(FCR, 0x00);
	assert_int_equal(get(IIR), 0x01);
	assert_int_equal(get(LSR), 0x60);
	type("xy");
	put(FCR, 0x02); /* without the enable bit nothing else counts */
	assert_int_equal(get(DATA), 'x');
}

/* What Linux' 8250 driver asks before it believes in a port, in its order. */
static void a_driver_that_looks_closely_finds_a_16550a(void **state)
{
	(void)state;
	put(IER, 0x00);
	assert_int_equal(get(IER), 0x00);
	put(IER, 0x0f);
	assert_int_equal(get(IER), 0x0f);
	put(IER, 0x00);
	put(MCR, 0x1a);
	assert_int_equal(get(MSR) & 0xf0, 0x90);
	put(MCR, 0x00);
	put(LCR, 0xbf); /* a 16650 has other registers behind this */
	put(FCR, 0x00);
	put(LCR, 0x00);
	put(FCR, 0x01);
	assert_int_equal(get(IIR) >> 6, 3);
	put(LCR, 0x80);
	assert_true(get(IIR) != 0);
	put(LCR, 0xbf);
	assert_true(get(IIR) != 0);
	put(LCR, 0xe0); /* a National one has its MCR's loopback bit here */
	uint8_t plain = get(IIR);
	put(LCR, 0x00);
	put(MCR, 0x10);
	put(LCR, 0xe0);
	assert_int_equal((get(IIR) ^ plain) & 0x10, 0);
	put(LCR, 0x00);
	put(MCR, 0x00);
	put(FCR, 0x01);
	assert_int_equal(get(IIR) >> 5, 6);
	put(FCR, 0x21); /* a 16750 has 64 bytes then */
	assert_int_equal(get(IIR) >> 5, 6);
	put(LCR, 0x80);
	put(FCR, 0x21);
	assert_int_equal(get(IIR) >> 5, 6);
	put(LCR, 0x00);
	put(IER, 0x40); /* the enable bit of an XScale's */
	assert_int_equal(get(IER), 0x00);
}

/* Its tests for transmitters that do not say that they are empty, and for interrupts that get lost. */
static void a_driver_that_trusts_no_transmitter_finds_nothing_to_work_around(void **state)
{
	(void)state;
	put(FCR, 0x01);
	for (unsigned i = 0; i < 2; i++) {
		put(IER, 0x02);
		assert_int_equal(get(IIR), 0xc2);
		put(IER, 0x00);
	}
	put(IER, 0x02);
	assert_int_equal(get(LSR), 0x60);
	assert_int_equal(get(IIR) & 1, 0);
	put(IER, 0x00);
	assert_false(world.line);
	/* A full FIFO of output in one interrupt, and the line is an edge again behind it. */
	put(IER, 0x05);
	put(IER, 0x07);
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(get(IIR), 0xc2);
		assert_false(world.line);
		for (unsigned i = 0; i < UART_FIFO; i++)
			put(DATA, 'a');
		assert_true(world.line);
	}
	put(IER, 0x05);
	assert_false(world.line);
	assert_int_equal(get(IIR), 0xc1);
}

/* Also under the sanitizers: no bytes loaded and no write leads anywhere but into the struct. */
static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	static struct world other;
	static struct uart twin;
	unsigned seed = 1;
	for (unsigned round = 0; round < 50; round++) {
		set_up(NULL);
		other = world;
		memset(&twin, 0xff, sizeof twin);
		uart_reset(&twin);
		for (size_t i = 0; round % 2 && i < sizeof uart; i++)
			((uint8_t *)&uart)[i] = ((uint8_t *)&twin)[i] = (uint8_t)rand_r(&seed);
		for (unsigned step = 0; step < 1000; step++) {
			unsigned reg = (unsigned)rand_r(&seed) % 9;
			uint8_t bytes[100];
			memset(bytes, rand_r(&seed), sizeof bytes);
			switch (rand_r(&seed) % 3) {
			case 0:
				put(reg, bytes[0]);
				uart_write(&twin, &other.env, reg, bytes[0]);
				break;
			case 1:
				assert_int_equal(get(reg), uart_read(&twin, &other.env, reg));
				break;
			default:
				uart_receive(&uart, &world.env, bytes, bytes[0] % sizeof bytes);
				uart_receive(&twin, &other.env, bytes, bytes[0] % sizeof bytes);
			}
			assert_true(uart_room(&uart) <= UART_RX_QUEUE);
		}
		assert_memory_equal(&uart, &twin, sizeof uart);
		assert_memory_equal(&world, &other, sizeof world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(each_byte_written_leaves_at_once, set_up),
		cmocka_unit_test_setup(the_divisor_hides_data_and_interrupt_enable, set_up),
		cmocka_unit_test_setup(an_empty_transmitter_is_a_reason_once, set_up),
		cmocka_unit_test_setup(received_bytes_raise_the_line_until_they_are_read, set_up),
		cmocka_unit_test_setup(fewer_bytes_than_the_trigger_are_a_timeout, set_up),
		cmocka_unit_test_setup(reasons_have_priorities, set_up),
		cmocka_unit_test_setup(loopback_returns_what_is_sent, set_up),
		cmocka_unit_test_setup(the_line_keeps_what_the_fifo_cannot, set_up),
		cmocka_unit_test_setup(clearing_the_fifo_drops_what_is_in_it, set_up),
		cmocka_unit_test_setup(a_driver_that_looks_closely_finds_a_16550a, set_up),
		cmocka_unit_test_setup(
			a_driver_that_trusts_no_transmitter_finds_nothing_to_work_around, set_up),
		cmocka_unit_test_setup(equal_inputs_leave_equal_bytes, set_up),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

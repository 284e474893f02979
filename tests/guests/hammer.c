/*
 * hammer: a guest that makes replay hard, and shows whether it was exact.
 *
 * It does what is easy to get wrong when a machine is to repeat itself (operations.c), while a
 * timer interrupts it about a thousand times a second, and folds all that it sees into a digest:
 * values read, clock values, and for each interrupt the vector and every register of what it cut
 * into. Two runs with the same inputs at the same positions print the same digests; one instruction
 * between them, and all later digests differ.
 *
 * Command line: ticks=N, ends after N timer interrupts (20000); seconds=N, ends after N seconds of
 * the machine's clock instead, or at whichever comes first when both are given; seed=N, another
 * sequence of operations. It prints `hammer: ticks=N digest=...` now and then and at the end, and
 * powers off with exit code 0.
 */
#include "tests/guests/hammer.h"

#include "tests/guests/runtime.h"
#include "tests/guests/text.h"

#include <stdatomic.h>

#define TIMER_HZ 1000u
#define TICKS_DEFAULT 20000u
#define TICKS_BETWEEN_LINES 1000u
#define OPERATIONS_BETWEEN_LOOKS 64u

#define DEPTH_MAX 3u /* of interrupts within interrupts */

static uint64_t digest;

/* Owned by on_interrupt; others look at it with interrupts off. */
static uint64_t interrupt_digest;
static unsigned depth;
static _Atomic uint64_t ticks;

static uint64_t fold(uint64_t sum, uint64_t value)
{
	sum = (sum ^ value) * 0x9fb21c651e98df25u; /* odd, so that nothing is lost */
	return sum ^ sum >> 32;
}

void see(uint64_t value)
{
	digest = fold(digest, value);
}

static void see_interrupt(uint64_t value)
{
	interrupt_digest = fold(interrupt_digest, value);
}

/* Serves the UART until it asks for nothing more: its line is edge-triggered. */
static void serve_uart(void)
{
	uint8_t cause;
	while (!((cause = in8(PORT_UART + 2)) & 1)) {
		see_interrupt(cause);
		if (cause & 4)
			see_interrupt(in8(PORT_UART)); /* a byte from the console */
	}
}

/* Says to the PIC that the interrupt is over, in one of its two ways. */
static void end_interrupt(unsigned line)
{
	if (interrupt_digest & 1)
		pic_end(line);
	else
		out8(PORT_PIC, (uint8_t)(0x60 | line));
}

void on_interrupt(unsigned line, const struct registers *interrupted)
{
	const uint64_t *word = (const uint64_t *)interrupted;
	for (unsigned i = 0; i < sizeof *interrupted / sizeof *word; i++)
		see_interrupt(word[i]);
	if (line == LINE_PIT)
		atomic_store_explicit(&ticks,
			atomic_load_explicit(&ticks, memory_order_relaxed) + 1,
			memory_order_relaxed);
	else if (line == LINE_UART)
		serve_uart();
	if ((interrupt_digest >> 8) % 4 == 0)
		see_interrupt(clock_ns());
	end_interrupt(line);
	/* Now and then the next interrupt may come before this one has returned. */
	if ((interrupt_digest >> 16) % 4 == 0 && depth < DEPTH_MAX) {
		depth++;
		interrupts_on();
		out8(PORT_UART + 7, (uint8_t)depth);
		interrupts_off();
		depth--;
	}
}

static void print_digest(void)
{
	char line[128];
	struct text text = text_into(line, sizeof line);
	interrupts_off();
	uint64_t count = atomic_load_explicit(&ticks, memory_order_relaxed);
	uint64_t sum = fold(digest, interrupt_digest);
	interrupts_on();
	text_put(&text, "hammer: ticks=");
	text_put_unsigned(&text, count);
	text_put(&text, " digest=");
	text_put_hex(&text, sum, 16);
	text_put(&text, "\n");
	uart_write(line, text.length);
}

int guest_main(uint64_t memory_size, const char *command_line)
{
	uint64_t seconds = option_unsigned(command_line, "seconds", 0);
	uint64_t last_tick =
		option_unsigned(command_line, "ticks", seconds ? UINT64_MAX : TICKS_DEFAULT);
	uint64_t deadline = seconds ? clock_ns() + seconds * 1000000000 : UINT64_MAX;
	uint64_t next_line = TICKS_BETWEEN_LINES;
	see(memory_size);
	operations_start(option_unsigned(command_line, "seed", 1));
	uart_start();
	out8(PORT_UART + 1, 3); /* interrupts for what comes in, and for having sent all */
	pic_start(1 << LINE_PIT | 1 << LINE_UART, false);
	pit_start(PIT_HZ / TIMER_HZ);
	interrupts_on();
	uint64_t now = 0;
	for (unsigned i = 1; now < last_tick; i++) {
		operation_run();
		if (deadline != UINT64_MAX && i % OPERATIONS_BETWEEN_LOOKS == 0 &&
			clock_ns() >= deadline)
			break;
		now = atomic_load_explicit(&ticks, memory_order_relaxed);
		see(now);
		if (now >= next_line) {
			print_digest();
			next_line += TICKS_BETWEEN_LINES;
		}
	}
	print_digest();
	return 0;
}

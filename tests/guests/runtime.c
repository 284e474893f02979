#include "tests/guests/runtime.h"

#include "tests/guests/text.h"

#define VECTORS (VECTOR_LINES + 16)

struct gate {
	uint16_t offset_low, selector;
	uint8_t stack, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};
_Static_assert(sizeof(struct gate) == 16, "as the CPU reads it");

/* Called by start.S only. */
void interrupts_start(void);
void interrupt(const struct registers *interrupted);
extern const uint8_t interrupt_stubs[VECTORS][16];

static struct gate idt[VECTORS];

void interrupt_gate(unsigned vector, void (*entry)(void))
{
	uint64_t address = (uint64_t)entry;
	idt[vector] = (struct gate){.offset_low = (uint16_t)address,
		.offset_middle = (uint16_t)(address >> 16),
		.offset_high = (uint32_t)(address >> 32),
		.selector = 0x10,
		.type = 0x8e};
}

void interrupts_start(void)
{
	for (unsigned i = 0; i < VECTORS; i++)
		interrupt_gate(i, (void (*)(void))(uint64_t)interrupt_stubs[i]);
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof idt - 1, (uint64_t)idt};
	__asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

static _Noreturn void exception(const struct registers *interrupted)
{
	char line[128];
	uint64_t address;
	__asm__ volatile("movq %%cr2, %0" : "=r"(address));
	struct text text = text_into(line, sizeof line);
	text_put(&text, "exception ");
	text_put_unsigned(&text, interrupted->vector);
	text_put(&text, " at 0x");
	text_put_hex(&text, interrupted->rip, 16);
	text_put(&text, " error 0x");
	text_put_hex(&text, interrupted->error, 16);
	text_put(&text, " address 0x");
	text_put_hex(&text, address, 16);
	text_put(&text, "\n");
	uart_write(line, text.length);
	power_off(255);
}

void interrupt(const struct registers *interrupted)
{
	if (interrupted->vector < VECTOR_LINES)
		exception(interrupted);
	on_interrupt((unsigned)(interrupted->vector - VECTOR_LINES), interrupted);
}

void power_off(uint32_t code)
{
	interrupts_off();
	out32(PORT_POWER, code);
	for (;;)
		__asm__ volatile("hlt");
}

void pic_start(uint16_t lines, bool auto_eoi)
{
	const uint8_t icw4 = auto_eoi ? 3 : 1;
	out8(PORT_PIC, 0x11); /* ICW1: edge, cascade, ICW4 follows */
	out8(PORT_PIC + 1, VECTOR_LINES);
	out8(PORT_PIC + 1, 1 << 2); /* the second chip is behind line 2 */
	out8(PORT_PIC + 1, icw4);
	out8(PORT_PIC2, 0x11);
	out8(PORT_PIC2 + 1, VECTOR_LINES + 8);
	out8(PORT_PIC2 + 1, 2);
	out8(PORT_PIC2 + 1, icw4);
	out8(PORT_ELCR, 1 << LINE_NET);
	out8(PORT_ELCR + 1, 0);
	if (lines >> 8)
		lines |= 1 << 2;
	out8(PORT_PIC + 1, (uint8_t)~lines);
	out8(PORT_PIC2 + 1, (uint8_t)(~lines >> 8));
}

void pic_end(unsigned line)
{
	if (line >= 8)
		out8(PORT_PIC2, 0x20);
	out8(PORT_PIC, 0x20);
}

void pit_start(uint16_t divisor)
{
	out8(PORT_PIT + 3, 0x34); /* channel 0, low byte then high byte, mode 2 */
	out8(PORT_PIT, (uint8_t)divisor);
	out8(PORT_PIT, (uint8_t)(divisor >> 8));
}

void uart_start(void)
{
	out8(PORT_UART + 1, 0);    /* no interrupts */
	out8(PORT_UART + 3, 0x80); /* the divisor: 115,200 baud */
	out8(PORT_UART + 0, 1);
	out8(PORT_UART + 1, 0);
	out8(PORT_UART + 3, 3);    /* 8 bits, no parity, one stop bit */
	out8(PORT_UART + 2, 7);    /* FIFOs on and empty */
	out8(PORT_UART + 4, 0x0b); /* DTR, RTS, and OUT2, which lets its interrupts through */
}

void uart_write(const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		/* Empty means that the whole FIFO of 16 is free: one look serves 16 bytes. */
		if (i % 16 == 0)
			while (!(in8(PORT_UART + 5) & 0x20))
				;
		out8(PORT_UART, (uint8_t)bytes[i]);
	}
}

void print(const char *line)
{
	size_t length = 0;
	while (line[length])
		length++;
	uart_write(line, length);
	uart_write("\n", 1);
}

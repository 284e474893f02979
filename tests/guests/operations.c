/*
 * What hammer does to the machine. Each operation is a few lines that are known to be easy to get
 * wrong: accesses of every size, one instruction that leaves several times, a look at something
 * that runs on by itself, and interrupts that may come only at odd moments.
 */
#include "tests/guests/hammer.h"

#include "tests/guests/board.h"

#include <stdbool.h>

#define PORT_NOWHERE 0x300 /* 32 ports with nothing behind them */
#define MMIO_NOWHERE 0xd0003000ul
#define PAGE 4096u
#define MMIO_NOWHERE_END (MMIO_NOWHERE + PAGE) /* nothing beyond, either */

#define PORT_SCRATCH (PORT_UART + 7)
#define STRING_MAX 12u

static uint64_t sequence;

/* Memory that computing and string instructions change, so that a sweep has something to find. */
static _Alignas(PAGE) uint64_t scratch[16 * PAGE / 8];

static uint64_t choose(void)
{
	/* splitmix64: every step is an addition, so the sequence has the full period. */
	uint64_t value = sequence += 0x9e3779b97f4a7c15u;
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
	value = (value ^ value >> 27) * 0x94d049bb133111ebu;
	return value ^ value >> 31;
}

static uint32_t below(uint32_t limit)
{
	return (uint32_t)((choose() & 0xffffffff) * limit >> 32);
}

static void compute(void)
{
	uint64_t a = choose(), b = a * 3, c = a ^ b;
	for (uint32_t i = below(300); i; i--) {
		a += b << 7 ^ c;
		b = b * 5 + i;
		c ^= a >> 11;
		scratch[a % (sizeof scratch / 8)] += c;
	}
	see(a ^ b ^ c);
}

static void access_port(void)
{
	uint16_t port = (uint16_t)(PORT_NOWHERE + below(28));
	uint64_t value = choose();
	switch (below(6)) {
	case 0:
		out8(port, (uint8_t)value);
		break;
	case 1:
		out16(port, (uint16_t)value);
		break;
	case 2:
		out32(port, (uint32_t)value);
		break;
	case 3:
		see(in8(port));
		break;
	case 4:
		see(in16(port));
		break;
	default:
		see(in32(port));
		break;
	}
}

static void access_scratch_register(void)
{
	out8(PORT_SCRATCH, (uint8_t)choose());
	see(in8(PORT_SCRATCH));
}

/* A place for up to STRING_MAX words that as a rule lies across the end of a page. */
static uint8_t *string_place(void)
{
	uint32_t page = 1 + below(sizeof scratch / PAGE - 2);
	return (uint8_t *)scratch + page * PAGE - below(4 * STRING_MAX);
}

static void access_port_string(void)
{
	uint8_t *at = string_place();
	uint16_t port = below(2) ? PORT_SCRATCH : PORT_NOWHERE;
	uint64_t count = below(STRING_MAX + 1); /* 0 too: then no access at all */
	switch (below(6)) {
	case 0:
		__asm__ volatile("rep outsb" : "+S"(at), "+c"(count) : "d"(port) : "memory");
		break;
	case 1:
		__asm__ volatile("rep outsw"
				 : "+S"(at), "+c"(count)
				 : "d"(PORT_NOWHERE)
				 : "memory");
		break;
	case 2:
		__asm__ volatile("rep outsl"
				 : "+S"(at), "+c"(count)
				 : "d"(PORT_NOWHERE)
				 : "memory");
		break;
	case 3:
		__asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(port) : "memory");
		break;
	case 4:
		__asm__ volatile("rep insw" : "+D"(at), "+c"(count) : "d"(PORT_NOWHERE) : "memory");
		break;
	default:
		__asm__ volatile("rep insl" : "+D"(at), "+c"(count) : "d"(PORT_NOWHERE) : "memory");
		break;
	}
	see((uint64_t)at);
	see(at[-1]);
	see(count);
}

/* The same towards lower addresses. */
static void access_port_string_down(void)
{
	uint8_t *at = string_place();
	uint64_t count = below(STRING_MAX + 1);
	if (below(2))
		__asm__ volatile("std; rep outsb; cld"
				 : "+S"(at), "+c"(count)
				 : "d"(PORT_SCRATCH)
				 : "memory");
	else
		__asm__ volatile("std; rep insb; cld"
				 : "+D"(at), "+c"(count)
				 : "d"(PORT_SCRATCH)
				 : "memory");
	see((uint64_t)at);
	see(at[1]);
}

static void access_mmio_at(uint64_t address, uint32_t size, bool write)
{
	uint64_t value = write ? choose() : 0;
	if (write && size == 1)
		mmio_write8(address, (uint8_t)value);
	else if (write && size == 2)
		mmio_write16(address, (uint16_t)value);
	else if (write && size == 4)
		mmio_write32(address, (uint32_t)value);
	else if (write)
		mmio_write64(address, value);
	else if (size == 1)
		see(mmio_read8(address));
	else if (size == 2)
		see(mmio_read16(address));
	else if (size == 4)
		see(mmio_read32(address));
	else
		see(mmio_read64(address));
}

static void access_mmio(void)
{
	access_mmio_at(MMIO_NOWHERE + below(PAGE - 8), 1u << below(4), below(2));
}

/* One instruction, two pages, two exits. */
static void access_mmio_across(void)
{
	uint32_t size = 2u << below(3);
	access_mmio_at(MMIO_NOWHERE_END - 1 - below(size - 1), size, below(2));
}

/* One instruction that reads and writes, and string instructions, which leave once a word. */
static void access_mmio_many(void)
{
	uint64_t at = MMIO_NOWHERE + below(PAGE - 8 * STRING_MAX), count = below(STRING_MAX + 1);
	uint8_t *place = string_place();
	switch (below(4)) {
	case 0:
		__asm__ volatile("addl %k1, (%0)" : : "r"(at), "r"(count) : "memory", "cc");
		break;
	case 1:
		__asm__ volatile("rep movsl" : "+D"(place), "+S"(at), "+c"(count) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsb" : "+D"(at), "+S"(place), "+c"(count) : : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(at) : "memory");
		break;
	}
	see(at);
	see((uint64_t)place);
	see(place[-1]);
}

static void look_at_clock(void)
{
	switch (below(4)) {
	case 0:
		see(mmio_read32(MMIO_CLOCK));
		see(mmio_read32(MMIO_CLOCK + 4));
		break;
	case 1:
		see(mmio_read64(MMIO_CLOCK - 4)); /* from the end of another page into it */
		break;
	case 2:
		mmio_write64(MMIO_CLOCK, choose());
		break;
	default:
		see(clock_ns());
		break;
	}
}

static void look_at_timer(void)
{
	bool with_status = below(2) != 0;
	out8(PORT_PIT + 3, with_status ? 0xc2 : 0x00); /* read back, or latch the count */
	if (with_status)
		see(in8(PORT_PIT));
	see(in8(PORT_PIT));
	see(in8(PORT_PIT));
}

/* What is asked for and what is being served; the handler never selects, so the choice stays. */
static void look_at_pic(void)
{
	out8(PORT_PIC, below(2) ? 0x0a : 0x0b);
	see(in8(PORT_PIC));
	see(in8(PORT_PIC + 1));
	see(in8(PORT_ELCR));
}

static void look_at_net(void)
{
	uint64_t offset = below(2) ? 4 * below(0x20) : 0x100 + below(16);
	access_mmio_at(MMIO_NET + offset, 1u << below(4), false);
}

/* Another pace, near the first: the timer is loaded while it runs. */
static void change_timer(void)
{
	uint32_t divisor;
	if (below(32))
		return;
	divisor = 1000 + below(400);
	out8(PORT_PIT + 3, 0x34);
	out8(PORT_PIT, (uint8_t)divisor);
	out8(PORT_PIT, (uint8_t)(divisor >> 8));
}

typedef void operation(void);

/* None of these changes the interrupt flag. */
static operation *const plain[] = {compute, compute, compute, compute, access_port,
	access_scratch_register, access_port_string, access_port_string_down, access_mmio,
	access_mmio_across, access_mmio_many, look_at_clock, look_at_timer, look_at_pic,
	look_at_net, change_timer};

static void run_plain(void)
{
	plain[below(sizeof plain / sizeof *plain)]();
}

static void quiet(void)
{
	interrupts_off();
	for (uint32_t i = below(4); i; i--)
		run_plain();
	interrupts_on();
}

static void quiet_by_flags(void)
{
	uint64_t flags;
	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	interrupts_off();
	run_plain();
	/* Unlike STI, POPF lets an interrupt in right behind it. */
	__asm__ volatile("pushq %0; popfq" : : "r"(flags) : "memory", "cc");
	see(flags);
}

/* Interrupts on for one exit only, which is in STI's shadow. */
static void narrow_window(void)
{
	uint8_t value;
	interrupts_off();
	for (uint32_t i = 1 + below(3); i; i--) {
		run_plain();
		__asm__ volatile("sti; inb %w1, %0; cli"
				 : "=a"(value)
				 : "d"(PORT_SCRATCH)
				 : "memory");
		see(value);
	}
	interrupts_on();
}

/* No exit between on and off: nothing can come in on a machine that injects at exits only. */
static void closed_window(void)
{
	interrupts_off();
	run_plain();
	__asm__ volatile("sti; nop; nop; cli" : : : "memory");
	run_plain();
	interrupts_on();
}

/* Loading SS holds interrupts off for one instruction: here, for one exit. */
static void stack_shadow(void)
{
	uint64_t selector;
	uint8_t value;
	__asm__ volatile("movl %%ss, %k0; movl %k0, %%ss; inb %w2, %1"
			 : "=&r"(selector), "=&a"(value)
			 : "d"(PORT_SCRATCH)
			 : "memory");
	see(value);
}

static void halt(void)
{
	if (below(2))
		return;
	if (below(2))
		interrupts_off();
	wait_for_interrupt();
}

static operation *const switching[] = {
	quiet, quiet_by_flags, narrow_window, closed_window, stack_shadow, halt};

void operations_start(uint64_t seed)
{
	sequence = seed;
}

void operation_run(void)
{
	if (below(3))
		run_plain();
	else
		switching[below(sizeof switching / sizeof *switching)]();
}

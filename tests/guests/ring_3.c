#include "tests/guests/ring_3.h"

#include "tests/guests/runtime.h"

/* Selectors that no process of a host has: tests/user_kvm/ has to notice when they are loaded. */
#define USER_CODE 0x83u
#define USER_DATA 0x8bu
#define TASK 0x90u
#define PROTECTION_FAULT 13u

#define PRESENT 1u
#define USER 4u
#define LARGE 0x80u
#define ADDRESS 0x000ffffffffff000ull

/* gates.S */
extern void ring_3_faults(void), ring_3_wakes(void);

struct __attribute__((packed)) task {
	uint32_t reserved;
	uint64_t stack[3];
	uint64_t more[8], most;
	uint16_t unused, ports;
};
_Static_assert(sizeof(struct task) == 0x68, "as the CPU reads it");

static _Alignas(16) uint8_t kernel_stack[4096], user_stack[65536];
static struct task task = {
	.stack = {(uint64_t)(kernel_stack + sizeof kernel_stack)}, .ports = sizeof task}; /* none */
static uint64_t gdt[TASK / 8 + 2] = {[2] = 0x00af9b000000ffff,
	[3] = 0x00cf93000000ffff, /* as in start.S */
	[USER_CODE / 8] = 0x00affb000000ffff,
	[USER_DATA / 8] = 0x00cff3000000ffff};

/* The boot's tables map 4 GiB by large pages. */
static void open_pages(uint64_t *table)
{
	for (unsigned i = 0; i < 512; i++) {
		if (!(table[i] & PRESENT))
			continue;
		if (!(table[i] & (USER | LARGE)))
			open_pages((uint64_t *)(table[i] & ADDRESS));
		table[i] |= USER;
	}
}

static void load_tables(void)
{
	uint64_t base = (uint64_t)&task;
	gdt[TASK / 8] = (sizeof task - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
			(base >> 24 & 0xff) << 56;
	gdt[TASK / 8 + 1] = base >> 32;
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof gdt - 1, (uint64_t)gdt};
	__asm__ volatile("lgdt %0" : : "m"(pointer) : "memory");
	__asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");
}

void ring_3_sleep(void)
{
	__asm__ volatile("hlt" : : : "memory");
}

void ring_3_run(void (*program)(void))
{
	uint64_t tables;
	interrupts_off();
	__asm__ volatile("movq %%cr3, %0" : "=r"(tables));
	open_pages((uint64_t *)(tables & ADDRESS));
	__asm__ volatile("movq %0, %%cr3" : : "r"(tables) : "memory");
	load_tables();
	interrupt_gate(PROTECTION_FAULT, ring_3_faults);
	interrupt_gate(VECTOR_LINES + LINE_NET, ring_3_wakes);
	pic_start(1 << LINE_NET, true);
	/* As if called: the stack is 8 off a multiple of 16. */
	__asm__ volatile("movl %0, %%ds; movl %0, %%es; pushq %q0; pushq %1; pushq $2; pushq %q2; "
			 "pushq %3; iretq"
			 :
			 : "r"(USER_DATA), "r"(user_stack + sizeof user_stack - 8), "r"(USER_CODE),
			 "r"(program)
			 : "memory");
	__builtin_unreachable();
}

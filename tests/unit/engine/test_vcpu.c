/* A guest in ring 3, where processors and software KVM alike run it by what they have learned from its page
 * tables: they are many, and change behind its back. */
#include "tests/unit/broken.h"

#include "engine/memory.h"
#include "engine/vcpu.h"
#include "tests/unit/engine/kvm.h"
#include "tests/unit/engine/ring_3.h"

#include <errno.h>
#include <stdlib.h>

#define MEMORY (64u << 20)
#define ENTRY 0x10000u
#define GDT_POINTER 0x9800u
#define TASK 0xa000u
#define TABLES 0x100000u /* of what the guest reads, a page each */
#define FIRST 0x200000u  /* what it reads, at 1 GiB */
#define PAGES ((MEMORY - FIRST) / 4096)

/* clang-format off */
__asm__(".pushsection .rodata\n"
	".globl reader_begin, reader_end\n"
	"reader_begin:\n"
	"	movl $0x20000, %esp\n"
	"	lgdt 0x9800\n"
	"	movl $0x30, %eax\n"
	"	ltr %ax\n"
	"	leaq 1f(%rip), %rax\n"
	"	pushq $0x2b\n"
	"	pushq $0x20000\n"
	"	pushq $2\n"
	"	pushq $0x23\n"
	"	pushq %rax\n"
	"	iretq\n"
	"1:	xorl %ebx, %ebx\n"
	"	movl $0x40000000, %esi\n"
	"2:	imull $33, %ebx\n"
	"	addl (%rsi), %ebx\n"
	"	addq $4096, %rsi\n"
	"	cmpl %edi, %esi\n"
	"	jb 2b\n"
	"	outb %al, $0x80\n"
	"	jmp 1b\n"
	"reader_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t reader_begin[], reader_end[];

static struct guest_memory memory;
static struct vcpu vcpu;

static void put64(uint64_t address, uint64_t value)
{
	write64(memory.base, address, value);
}

/* The guest's page `i` is page `place` of what it reads. */
static void map(uint32_t i, uint32_t place)
{
	put64(TABLES + 8ull * i, (FIRST + 4096ull * place) | 7);
}

static void make_guest(void)
{
	make_ring_3(memory.base, GDT_POINTER, TASK, 0x20000);
	put64(BOOT_PAGE_TABLES + 0x1008, (BOOT_PAGE_TABLES + 0x3000) | 7);
	for (uint32_t i = 0; i < (PAGES + 511) / 512; i++)
		put64(BOOT_PAGE_TABLES + 0x3000 + 8 * i, (TABLES + 4096 * i) | 7);
	for (uint32_t i = 0; i < PAGES; i++) {
		map(i, i);
		memcpy(memory.base + FIRST + 4096ull * i, &i, sizeof i);
	}
	memcpy(memory.base + ENTRY, reader_begin, (size_t)(reader_end - reader_begin));
	assert_int_equal(vcpu_boot(&vcpu, ENTRY, 0x40000000 + PAGES * 4096), 0);
}

static uint32_t read_all(void)
{
	int reason;
	do
		reason = vcpu_run(&vcpu);
	while (reason == -EINTR);
	assert_int_equal(reason, KVM_EXIT_IO);
	return (uint32_t)vcpu.run->s.regs.regs.rbx;
}

static uint32_t expected(const uint32_t *places)
{
	uint32_t sum = 0;
	for (uint32_t i = 0; i < PAGES; i++)
		sum = sum * 33 + places[i];
	return sum;
}

static void no_page_table_is_remembered_that_was_changed_behind_the_guests_back(void **state)
{
	(void)state;
	NEED_KVM();
	uint32_t *places = malloc(PAGES * sizeof *places);
	assert_int_equal(memory_create(&memory, MEMORY), 0);
	assert_int_equal(vcpu_create(&vcpu, &memory), 0);
	assert_int_equal(vcpu_bind(&vcpu), 0);
	make_guest();
	for (uint32_t i = 0; i < PAGES; i++)
		places[i] = i;
	assert_int_equal(read_all(), expected(places));
	for (uint32_t turn = 1; turn < 4; turn++) {
		for (uint32_t i = 0; i < PAGES; i++)
			map(i, places[i] = (i * 7919 + turn) % PAGES);
		assert_int_equal(vcpu_forget(&vcpu), 0);
		assert_int_equal(read_all(), expected(places));
	}
	vcpu_unbind(&vcpu);
	vcpu_destroy(&vcpu);
	memory_destroy(&memory);
	free(places);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			no_page_table_is_remembered_that_was_changed_behind_the_guests_back),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

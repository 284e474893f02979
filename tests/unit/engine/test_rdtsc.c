/* RDTSC taken out of a kernel and kept from its programs, and the counter that stands in for it. */
#include "tests/unit/engine/tiny_guest.h"

#include "engine/rdtsc.h"

#include <sys/ioctl.h>

static void each_becomes_an_exit_of_the_same_length(void **state)
{
	(void)state;
	/* lfence; rdtsc; shl $32, %rdx; or %rdx, %rax; rdtsc; ret */
	uint8_t code[] = {0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0,
		0x0f, 0x31, 0xc3};
	const uint8_t after[] = {0x0f, 0xae, 0xe8, 0xe5, PORT_TSC, 0x48, 0xc1, 0xe2, 0x20, 0x48,
		0x09, 0xd0, 0xe5, PORT_TSC, 0xc3};
	assert_int_equal(rdtsc_replace(code, sizeof code), 2);
	assert_memory_equal(code, after, sizeof code);
	assert_int_equal(rdtsc_replace(code, sizeof code), 0);
}

static void the_same_bytes_inside_another_instruction_stay(void **state)
{
	(void)state;
	/* mov $0x310f310f, %eax; movabs; lea 0x310f(%rip); rdtscp; rdmsr */
	uint8_t code[] = {0xb8, 0x0f, 0x31, 0x0f, 0x31, 0x48, 0xb8, 0x0f, 0x31, 0x0f, 0x31, 0x0f,
		0x31, 0x0f, 0x31, 0x48, 0x8d, 0x05, 0x0f, 0x31, 0x00, 0x00, 0x0f, 0x01, 0xf9, 0x0f,
		0x32};
	uint8_t before[sizeof code];
	memcpy(before, code, sizeof code);
	assert_int_equal(rdtsc_replace(code, sizeof code), 0);
	assert_memory_equal(code, before, sizeof code);
}

static void code_goes_on_behind_what_cannot_be_decoded(void **state)
{
	(void)state;
	uint8_t code[] = {0x06, 0x0e, 0x0f, 0x31, 0x0f};
	assert_int_equal(rdtsc_replace(code, sizeof code), 1);
	assert_int_equal(code[2], 0xe5);
	/* The last byte begins an instruction that is not there. */
	assert_int_equal(code[4], 0x0f);
	assert_int_equal(rdtsc_replace(code, 0), 0);
}

static void the_counter_only_grows(void **state)
{
	(void)state;
	assert_true(tsc_at(1) > tsc_at(0));
	assert_true(tsc_at(1ull << 40) > tsc_at((1ull << 40) - 1));
}

/* ---- the handler of #GP ---- */

static void a_handler_exits_first_where_it_had_room(void **state)
{
	(void)state;
	/* nop; nop; nop; cld; call …: and endbr64; call …; and push */
	uint8_t handler[] = {0x90, 0x90, 0x90, 0xfc, 0xe8},
		marked[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xe8};
	uint8_t push[] = {0x50, 0x53, 0x51, 0x52}, cut[] = {0x90};
	assert_true(rdtsc_trap(handler, sizeof handler));
	assert_memory_equal(handler, ((uint8_t[]){0xe6, PORT_TSC, 0x90, 0xfc, 0xe8}), 5);
	assert_true(rdtsc_trap(marked, sizeof marked));
	assert_memory_equal(marked, ((uint8_t[]){0xe6, PORT_TSC, 0x90, 0x90, 0xe8}), 5);
	assert_false(rdtsc_trap(push, sizeof push));
	assert_int_equal(push[0], 0x50);
	assert_false(rdtsc_trap(cut, sizeof cut));
	assert_int_equal(cut[0], 0x90);
}

static void the_handler_is_found_in_linuxs_list(void **state)
{
	(void)state;
	uint8_t list[] = {0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0x10, 0, 0, 0, 0, 0x8e, 0, 0, 0, 0,
		0, 0, 0x20, 0x0b, 0xc0, 0x81, 0xff, 0xff, 0xff, 0xff};
	assert_int_equal(rdtsc_find_handler(list, sizeof list), 0xffffffff81c00b20);
	assert_int_equal(rdtsc_find_handler(list, sizeof list - 1), 0);
	assert_int_equal(rdtsc_find_handler(list, 0), 0);
	list[8] = 14;
	assert_int_equal(rdtsc_find_handler(list, sizeof list), 0);
}

/* ---- a program's RDTSC ---- */

#define TASK 0xa000u
#define POINTERS 0x9800u
#define GATES 0xb000u
#define UPPER 0xffffff8000000000ull /* where memory is a second time */
#define TSD 4ull                    /* in CR4 */

/*
 * A kernel that has a program in ring 3, and a handler of #GP as it has been made to begin. The program asks the
 * handler itself, by HLT, which it may not do: a host that ignores CR4.TSD has faults all the same. What is behind
 * HLT is RDTSC's second byte, so that the handler sees either. The program's IOPL is 3, since QEMU's AMD-V takes no
 * notice of a bitmap that allows ports.
 */
/* clang-format off */
__asm__(".pushsection .rodata\n"
	".globl tsc_begin, tsc_handler, tsc_program, tsc_end\n"
	"tsc_begin:\n"
	"	movl $0x20000, %esp\n"
	"	lgdt 0x9800\n"
	"	lidt 0x9810\n"
	"	movl $0x30, %eax\n"
	"	ltr %ax\n"
	"	pushq $0x2b\n"
	"	pushq $0x20000\n"
	"	pushq $0x3002\n"
	"	pushq $0x23\n"
	"	leaq tsc_program(%rip), %rax\n"
	"	pushq %rax\n"
	"	iretq\n"
	"tsc_program:\n"
	"	movl $1, %eax\n"
	"	movl $1, %edx\n"
	"	hlt\n"
	"	nop\n"
	"	outb %al, $0x80\n"
	"	jmp tsc_program\n"
	"tsc_handler:\n"
	"	outb %al, $0xe0\n"
	"	nop\n"
	"	outb %al, $0x81\n"
	"	addq $8, %rsp\n"
	"	addq $2, (%rsp)\n"
	"	iretq\n"
	"tsc_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t tsc_begin[], tsc_handler[], tsc_program[], tsc_end[];

static struct guest_memory memory;
static struct vcpu vcpu;

static void make_guest(uint8_t *base)
{
	uint64_t handler = ENTRY + (uint64_t)(tsc_handler - tsc_begin);
	make_ring_3(base, POINTERS, TASK, 0x30000);
	write64(base, BOOT_PAGE_TABLES + 511 * 8, (BOOT_PAGE_TABLES + 0x1000) | 7);
	write64(base, POINTERS + 0x10, 0xfffull | UPPER << 16 | (uint64_t)GATES << 16);
	write64(base, POINTERS + 0x18, UPPER >> 48);
	write64(base, GATES + 13 * 16,
		(handler & 0xffff) | (uint64_t)BOOT_CODE_SELECTOR << 16 | 0x8eull << 40 |
			(handler >> 16) << 48);
	memcpy(base + ENTRY, tsc_begin, (size_t)(tsc_end - tsc_begin));
}

static const struct kvm_regs *run_to(struct vcpu *cpu, unsigned port)
{
	int reason;
	do
		reason = vcpu_run(cpu);
	while (reason == -EINTR);
	assert_int_equal(reason, KVM_EXIT_IO);
	assert_int_equal(cpu->run->io.port, port);
	return &cpu->run->s.regs.regs;
}

static void serve(uint64_t tsc)
{
	assert_true(rdtsc_is_exit(vcpu.run));
	rdtsc_serve(&vcpu, &memory, tsc);
}

/* The byte with which the program's instruction begins, put there when its fault has happened. */
static uint8_t *begins(void)
{
	return memory.base + ENTRY + (tsc_program - tsc_begin) + 10;
}

static void a_program_gets_an_answer_of_which_its_kernel_does_not_hear(void **state)
{
	(void)state;
	NEED_KVM();
	assert_int_equal(memory_create(&memory, 4 << 20), 0);
	assert_int_equal(vcpu_create(&vcpu, &memory), 0);
	assert_int_equal(vcpu_bind(&vcpu), 0);
	make_guest(memory.base);
	assert_int_equal(vcpu_boot(&vcpu, ENTRY, 4 << 20), 0);

	/* Where the handler exits, TSD stays set. Another fault is the kernel's. */
	run_to(&vcpu, PORT_TSC);
	assert_false(vcpu.run->s.regs.sregs.cr4 & TSD);
	assert_int_equal(rdtsc_keep_trapped(&vcpu, &memory), 0);
	assert_true(vcpu.run->s.regs.sregs.cr4 & TSD);
	serve(77);
	run_to(&vcpu, 0x81);
	assert_true(vcpu.run->s.regs.sregs.cr4 & TSD);
	assert_int_equal(rdtsc_keep_trapped(&vcpu, &memory), 0);
	const struct kvm_regs *regs = run_to(&vcpu, 0x80);
	assert_int_equal(regs->rax, 1);
	assert_int_equal(regs->rdx, 1);

	/* RDTSC is not. */
	run_to(&vcpu, PORT_TSC);
	begins()[0] = 0x0f, begins()[1] = 0x31;
	struct kvm_regs before = vcpu.run->s.regs.regs;
	uint64_t frame[3];
	memcpy(frame, memory.base + before.rsp, sizeof frame);
	vcpu.run->s.regs.sregs.cs.selector |= 3; /* a program that pretends to be the handler */
	serve(5);
	assert_memory_equal(&before, &vcpu.run->s.regs.regs, sizeof before);
	assert_memory_equal(memory.base + before.rsp, frame, sizeof frame);
	vcpu.run->s.regs.sregs.cs.selector = BOOT_CODE_SELECTOR;
	serve(0x1234567890abcdef);
	begins()[0] = 0xf4, begins()[1] = 0xf4; /* behind both, or there will be faults */
	regs = run_to(&vcpu, 0x80);
	assert_int_equal(regs->rax, 0x90abcdef);
	assert_int_equal(regs->rdx, 0x12345678);
	assert_int_equal(regs->rsp, 0x20000);

	begins()[1] = 0x90;

	/* Nor is one whose kernel has nowhere to return from, or a stack that is not there. */
	run_to(&vcpu, PORT_TSC);
	begins()[0] = 0x0f, begins()[1] = 0x31;
	uint64_t iret = (uint64_t)(tsc_end - tsc_begin) - 2;
	assert_memory_equal(memory.base + ENTRY + iret, "\x48\xcf", 2);
	memory.base[ENTRY + iret] = 0x90;
	before = vcpu.run->s.regs.regs;
	serve(5);
	assert_memory_equal(&before, &vcpu.run->s.regs.regs, sizeof before);
	memory.base[ENTRY + iret] = 0x48;
	vcpu.run->s.regs.sregs.cr4 &= ~TSD;
	vcpu.run->s.regs.sregs.idt.base = GATES; /* where no Linux has them */
	assert_int_equal(rdtsc_keep_trapped(&vcpu, &memory), 0);
	vcpu.run->s.regs.sregs.idt.base = UPPER + GATES;
	memory.base[ENTRY + (tsc_handler - tsc_begin)] = 0x90;
	assert_int_equal(rdtsc_keep_trapped(&vcpu, &memory), 0);
	vcpu.run->s.regs.sregs.idt.base = UPPER + (1ull << 30);
	assert_int_equal(rdtsc_keep_trapped(&vcpu, &memory), 0);
	assert_false(vcpu.run->s.regs.sregs.cr4 & TSD);
	for (uint64_t rsp = 0x2fffd8; rsp != 0; rsp = rsp == 0x2fffd8 ? 1ull << 40 : 0) {
		vcpu.run->s.regs.regs.rsp = rsp;
		serve(5);
		assert_int_equal(vcpu.run->s.regs.regs.rsp, rsp);
	}

	vcpu_unbind(&vcpu);
	vcpu_destroy(&vcpu);
	memory_destroy(&memory);
}

/* Linux may clear TSD and leave no more for long. */
static void it_is_kept_trapped_at_a_resync_too(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct vcpu *cpu = &t->machine.vcpu;
	make_guest(t->machine.memory.base);
	assert_int_equal(vcpu_bind(cpu), 0);
	assert_int_equal(vcpu_boot(cpu, ENTRY, MEMORY), 0);
	run_to(cpu, PORT_TSC);
	assert_int_equal(vcpu_finish(cpu), -EINTR);
	assert_false(cpu->run->s.regs.sregs.cr4 & TSD);
	tiny_record(t, 1u << 20);
	assert_true(resync_send(&t->machine));
	struct kvm_sregs sregs;
	assert_int_equal(ioctl(cpu->fd, KVM_GET_SREGS, &sregs), 0);
	assert_true(sregs.cr4 & TSD);
	vcpu_unbind(cpu);
	tiny_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_becomes_an_exit_of_the_same_length),
		cmocka_unit_test(the_same_bytes_inside_another_instruction_stay),
		cmocka_unit_test(code_goes_on_behind_what_cannot_be_decoded),
		cmocka_unit_test(the_counter_only_grows),
		cmocka_unit_test(a_handler_exits_first_where_it_had_room),
		cmocka_unit_test(the_handler_is_found_in_linuxs_list),
		cmocka_unit_test(a_program_gets_an_answer_of_which_its_kernel_does_not_hear),
		cmocka_unit_test(it_is_kept_trapped_at_a_resync_too),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

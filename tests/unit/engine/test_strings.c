/* Strings read from ports, by a program: instructions that leave several times, stop between two elements to be
 * interrupted, and fill memory with whatever a device has for each element. */
#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 60u /* ticks that the guest wants */
#define RING (1u << 20)

/* clang-format off */
__asm__(".pushsection .rodata\n"
	/* Reads in ring 3, across a page's end, and computes a while, until it has seen its ticks. */
	".globl strings_begin, strings_timer, strings_end\n"
	"strings_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	lgdt 0x9810\n"
	"	movl $0x30, %eax\n"
	"	ltr %ax\n"
	"	leaq 1f(%rip), %rax\n"
	"	pushq $0x2b\n"
	"	pushq $0x18000\n"
	"	pushq $0x3202\n" /* interrupts on, ports allowed */
	"	pushq $0x23\n"
	"	pushq %rax\n"
	"	iretq\n"
	"1:	incl %ebx\n"
	"	leaq 7f(%rip), %rsi\n"
	"2:	movzwl (%rsi), %edx\n"
	"	testl %edx, %edx\n"
	"	jz 3f\n"
	"	addq $2, %rsi\n"
	"	movl $0x80ffd, %edi\n"
	"	movl %ebx, %ecx\n"
	"	andl $63, %ecx\n"
	"	rep insl\n"
	"	movl $0x81ffd, %edi\n"
	"	movl %ebx, %ecx\n"
	"	andl $31, %ecx\n"
	"	rep insw\n"
	"	jmp 2b\n"
	"3:	movl $0x400000, %ecx\n"
	"4:	decl %ecx\n"
	"	jnz 4b\n"
	UNTIL_TICKED("1b")
	SWITCH_OFF
	"	jmp 1b\n"
	"7:	.word 0x80, 0x628, 0xe0, 0x61, 0x3fd, 0\n"
	"strings_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"strings_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t strings_begin[], strings_timer[], strings_end[];

static struct tiny *tiny_strings(void)
{
	struct tiny *t = tiny_ticking(strings_begin, strings_timer, strings_end, ROUNDS);
	tiny_ring_3(t);
	t->live.wait_ns = 500000;
	return t;
}

static void who_follows_from_the_middle_reads_the_same_strings(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_strings(), *twin = tiny_new();
	tiny_start(t);
	while (atomic_load(&t->machine.exits_shown) < 10)
		usleep(100);
	tiny_protect(t, twin, RING);
	tiny_join(t);
	assert_powered_off(t);
	print_message("%llu resyncs among %llu exits\n", (unsigned long long)t->live.resyncs.count,
		(unsigned long long)t->machine.exits);
	tiny_assert_replays(t, twin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(
			who_follows_from_the_middle_reads_the_same_strings, tiny_set_up),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

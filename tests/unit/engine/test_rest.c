/* The rest of an instruction, when it exits once more between two looks for inputs. */
#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 12u /* ticks that the guest wants */
#define RING (1u << 20)
#define WAIT_NS 2000000u
#define RARE_NS 28000000u /* 32,768 periods of the PIT's clock, and a little more */
#define CROSSING "0xd0001ffc"
#define NOWHERE "0xd0003000"

/* clang-format off */
__asm__(".pushsection .rodata\n"
	/* Reads across a page's end, where nothing is, until it has seen its ticks: two exits of one instruction. */
	".globl crossing_begin, crossing_timer, crossing_end\n"
	"crossing_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	sti\n"
	"	movl $" CROSSING ", %edi\n"
	"1:	movq (%rdi), %rcx\n"
	"	incq %rbx\n"
	UNTIL_TICKED("1b")
	SWITCH_OFF
	"	jmp 1b\n"
	"crossing_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"crossing_end:\n"
	/* Writes to the UART what it reads where nothing is, by one instruction, so that it asks for interrupts; and takes
	 * that back. It counts them, until it has seen its ticks. */
	".globl asking_begin, asking_timer, asking_uart, asking_end\n"
	"asking_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	sti\n"
	"1:	movl $" NOWHERE ", %esi\n"
	"	movw $0x3f9, %dx\n"
	"	outsb\n"
	"	incq %rbx\n"
	"	xorl %eax, %eax\n"
	"	outb %al, %dx\n"
	UNTIL_TICKED("1b")
	SWITCH_OFF
	"	jmp 1b\n"
	"asking_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"asking_uart:\n"
	"	movq %rbx, 0x30040\n"
	"	incl 0x30024\n"
	"	iretq\n"
	"asking_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t crossing_begin[], crossing_timer[], crossing_end[];
extern const uint8_t asking_begin[], asking_timer[], asking_uart[], asking_end[];

static uint64_t kicked_at;

/* Twice, while an instruction's access to `kicked_at` is served and its second exit has yet to come: computes until a
 * tick waits, and is kicked. */
static void leave_kicked(struct machine *m)
{
	static position at;
	static unsigned kicks;
	const struct kvm_run *run = m->vcpu.run;
	live_source.leave(m);
	if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != kicked_at)
		return;
	if (m->exits != at)
		kicks = 0;
	at = m->exits;
	if (kicks++ == 2)
		return;
	for (uint64_t until = now_ns() + RARE_NS; now_ns() < until;)
		;
	atomic_store(&m->vcpu.kicked, true);
}

/* With ticks so rare that none waits already when the first exit is served. */
static void assert_replays_kicked(struct tiny *t, const char *address)
{
	struct source kicking = live_source;
	kicking.leave = leave_kicked;
	kicked_at = strtoull(address, NULL, 16);
	t->live.wait_ns = WAIT_NS;
	pit_write(&t->machine.board.pit, &t->machine.env, 0x40, 0);
	pit_write(&t->machine.board.pit, &t->machine.env, 0x40, 0x80);
	struct tiny *twin = tiny_twin(t);
	t->machine.source = &kicking;
	tiny_record(t, RING);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	tiny_assert_replays(t, twin);
}

/* Between two exits is no position, and the exit that the rest of an instruction makes is one to which whoever
 * follows comes in another way: with the instruction unfinished. */
static void no_input_is_taken_where_the_rest_of_an_instruction_exits(void **state)
{
	(void)state;
	NEED_KVM();
	assert_replays_kicked(
		tiny_ticking(crossing_begin, crossing_timer, crossing_end, ROUNDS), CROSSING);
}

static void an_interrupt_that_the_rest_of_an_instruction_asks_for_comes_there(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_ticking(asking_begin, asking_timer, asking_end, ROUNDS);
	tiny_gate(t, 0x24, asking_begin, asking_uart);
	pic_write(&t->machine.board.pic, 0x21, 0xee);
	assert_replays_kicked(t, NOWHERE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_input_is_taken_where_the_rest_of_an_instruction_exits),
		cmocka_unit_test(an_interrupt_that_the_rest_of_an_instruction_asks_for_comes_there),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

#include "tests/unit/engine/tiny_guest.h"

/* clang-format off */
__asm__(".pushsection .rodata\n"
	/* Steps onto a HLT: the trap behind it wakes it. */
	".globl stepping_begin, stepping_timer, stepping_trap, stepping_end\n"
	"stepping_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	sti\n"
	"1:	pushfq\n"
	"	orl $0x100, (%rsp)\n"
	"	popfq\n"
	"	hlt\n"
	UNTIL_TICKED("1b")
	SWITCH_OFF
	"	jmp 1b\n"
	"stepping_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"stepping_trap:\n"
	"	incl 0x30024\n"
	"	andl $~0x100, 16(%rsp)\n"
	"	iretq\n"
	"stepping_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t stepping_begin[], stepping_timer[], stepping_trap[], stepping_end[];

#define ROUNDS 60u
#define PAUSED_ROUNDS 240u
#define LOST_NS 10000000000u

static void a_guest_runs_until_it_switches_its_machine_off(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	tiny_run_disturbed(t);
	assert_powered_off(t);
	assert_printed(t, ROUNDS);
	assert_true(tiny_get32(t, GUEST_TICKS) > 0);
	assert_true(tiny_get32(t, GUEST_KEYS) > 0);
	assert_true(tiny_get32(t, GUEST_FRAMES) > 0);
	tiny_free(t);
}

static void a_halt_with_interrupts_off_and_a_triple_fault_end_it(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	tiny_load(t, dead_begin, dead_end);
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_ENDED);
	assert_int_equal(t->machine.end_reason, LOG_END_HALT);
	tiny_free(t);

	t = tiny_new();
	tiny_load(t, faulting_begin, faulting_end);
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_ENDED);
	assert_int_equal(t->machine.end_reason, LOG_END_SHUTDOWN);
	tiny_free(t);
}

static void a_restart_ends_it_in_order(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	tiny_load(t, restarting_begin, restarting_end);
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_ENDED);
	assert_int_equal(t->machine.end_reason, LOG_END_RESTART);
	assert_int_equal(t->machine.end_value, 0);
	tiny_free(t);
}

static void a_trap_behind_a_halt_ends_it(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_ticking(stepping_begin, stepping_timer, stepping_end, 4);
	tiny_gate(t, 1, stepping_begin, stepping_trap);
	t->live.wait_ns = 2000000; /* its only exit is one before a trap: no interrupt comes first there */
	struct tiny *twin = tiny_twin(t);
	tiny_record(t, 1u << 20);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_true(tiny_get32(t, 0x30024) > 0);
	tiny_assert_replays(t, twin);
}

struct asked {
	pthread_t thread;
	unsigned times;
};

static void note_thread(struct machine *m, void *argument)
{
	(void)m;
	struct asked *asked = argument;
	asked->thread = pthread_self();
	asked->times++;
}

static void a_call_runs_on_the_vcpu_thread_even_if_the_guest_never_leaves(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct asked asked = {0};
	tiny_load(t, computing_begin, computing_end);
	machine_call(&t->machine, MACHINE_PAUSED, note_thread, &asked);
	assert_true(pthread_equal(asked.thread, pthread_self())); /* there is no other yet */
	tiny_start(t);
	pthread_t vcpu = t->machine.thread;
	for (unsigned i = 0; i < 100; i++) {
		machine_call(&t->machine, i % 2 ? MACHINE_PAUSED : MACHINE_ANYWHERE, note_thread,
			&asked);
		assert_true(pthread_equal(asked.thread, vcpu));
	}
	tiny_end(t);
	machine_call(&t->machine, MACHINE_PAUSED, note_thread, &asked);
	assert_true(pthread_equal(asked.thread, pthread_self()));
	assert_int_equal(asked.times, 102);
	tiny_free(t);
}

static void a_call_as_the_machine_ends_is_answered_once(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned i = 0; i < 10; i++) {
		struct tiny *t = tiny_new();
		struct asked asked = {0};
		tiny_load(t, dead_begin, dead_end);
		tiny_start(t);
		usleep(i * 150);
		machine_call(&t->machine, MACHINE_ANYWHERE, note_thread, &asked);
		assert_int_equal(asked.times, 1);
		tiny_join(t);
		tiny_free(t);
	}
}

struct pause {
	struct tiny *from, *to;
	bool taken;
};

static void copy_if_running(struct machine *m, void *argument)
{
	struct pause *pause = argument;
	if (machine_ended(m))
		return;
	assert_false(m->unfinished);
	tiny_release(pause->from);
	tiny_copy(pause->to, pause->from);
	memcpy(pause->to->text, pause->from->text, pause->from->length);
	pause->to->length = pause->from->length;
	pause->taken = true;
}

static void a_machine_saved_at_any_pause_goes_on_elsewhere(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(PAUSED_ROUNDS);
	struct pause pauses[4];
	for (unsigned i = 0; i < 4; i++)
		pauses[i] = (struct pause){.from = t, .to = tiny_new()};
	tiny_start(t);
	for (unsigned i = 0; i < 4; i++) {
		machine_call(&t->machine, MACHINE_PAUSED, copy_if_running, &pauses[i]);
		usleep(1500 + i * 331);
	}
	tiny_join(t);
	assert_printed(t, PAUSED_ROUNDS);
	assert_true(pauses[0].taken);
	for (unsigned i = 0; i < 4; i++) {
		struct tiny *copy = pauses[i].to;
		if (pauses[i].taken) {
			live_set_time(&copy->live, copy->live.newest_ns, now_ns());
			tiny_start(copy);
			tiny_join(copy);
			assert_powered_off(copy);
			assert_printed(copy, PAUSED_ROUNDS);
		}
		tiny_free(copy);
	}
	tiny_free(t);
}

static void the_first_verdict_stays(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	machine_end(&t->machine, MACHINE_DIVERGED, "at %d", 7);
	machine_end(&t->machine, MACHINE_STOPPED, "later");
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_string_equal(t->machine.message, "at 7");
	tiny_free(t);
}

static struct bell interruptions;

static bool count_interruption(struct machine *m)
{
	(void)m;
	bell_ring(&interruptions);
	return false;
}

static void take_nothing(struct machine *m)
{
	(void)m;
}

static bool stay(struct machine *m)
{
	(void)m;
	return false;
}

static void end_at_once(struct machine *m, enum log_end reason, uint32_t value)
{
	(void)reason, (void)value;
	machine_end(m, MACHINE_ENDED, NULL);
}

static uint64_t no_clock(struct machine *m)
{
	(void)m;
	return 0;
}

static void no_output(
	struct machine *m, enum output_device device, const struct output_group *group)
{
	(void)m, (void)device, (void)group;
}

static void no_room(struct machine *m, enum output_device device)
{
	(void)m, (void)device;
}

static const struct source counting_source = {
	.clock = no_clock,
	.output = no_output,
	.inputs = take_nothing,
	.held_up = no_room,
	.interrupted = count_interruption,
	.ended = end_at_once,
};

/* One kick, and no other comes to help: it must show. */
static void kick_many_times(const uint8_t *begin, const uint8_t *end, unsigned kicks)
{
	struct tiny *t = tiny_new();
	tiny_load(t, begin, end);
	t->machine.source = &counting_source;
	tiny_start(t);
	uint32_t random = 1;
	for (unsigned i = 0; i < kicks; i++) {
		uint32_t before = atomic_load(&interruptions.rung);
		vcpu_kick(&t->machine.vcpu, t->machine.thread);
		uint64_t began = now_ns();
		while (atomic_load(&interruptions.rung) == before && now_ns() - began < LOST_NS)
			bell_sleep(&interruptions, before, LOST_NS);
		assert_true(atomic_load(&interruptions.rung) != before);
		random = random * 1664525u + 1013904223u;
		for (uint32_t spin = random >> 20; spin > 0; spin--)
			__builtin_ia32_pause();
	}
	tiny_end(t);
	tiny_free(t);
}

static void no_kick_is_lost_while_the_guest_computes(void **state)
{
	(void)state;
	NEED_KVM();
	kick_many_times(computing_begin, computing_end, 800);
}

static void nor_while_it_leaves_again_and_again(void **state)
{
	(void)state;
	NEED_KVM();
	kick_many_times(leaving_begin, leaving_end, 1500);
}

static void a_kick_before_the_thread_runs_does_no_harm(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned i = 0; i < 20; i++) {
		struct tiny *t = tiny_new();
		tiny_load(t, computing_begin, computing_end);
		signal(VCPU_KICK_SIGNAL, SIG_DFL);
		struct tiny *other = tiny_new(); /* making a machine makes kicks harmless */
		tiny_start(t);
		vcpu_kick(&t->machine.vcpu, t->machine.thread);
		tiny_end(t);
		tiny_free(other);
		tiny_free(t);
	}
}

static struct output_group groups[8];
static unsigned group_count;

static void note_group(
	struct machine *m, enum output_device device, const struct output_group *group)
{
	groups[group_count++ % 8] = *group;
	hold_seal(m->hold[device], SESSION_ALONE, 0);
}

static unsigned flushes;
static struct tiny *flushed_guest;

static void flush_and_release(struct machine *m, enum output_device device)
{
	(void)m, (void)device;
	flushes++;
	tiny_release(flushed_guest);
}

static const struct source grouping_source = {
	.clock = no_clock,
	.output = note_group,
	.inputs = take_nothing,
	.held_up = flush_and_release,
	.interrupted = stay,
	.ended = end_at_once,
};

static void an_output_operation_closes_at_bounds_that_do_not_depend_on_the_host(void **state)
{
	(void)state;
	NEED_KVM();
	static uint8_t large[40000];
	struct tiny *t = flushed_guest = tiny_new();
	struct device_env *env = &t->machine.env;
	t->machine.source = &grouping_source;
	group_count = 0;
	for (unsigned i = 0; i < OUTPUT_GROUP_COUNT; i++) {
		assert_int_equal(group_count, 0);
		env->output(env, OUTPUT_CONSOLE, "x", 1);
	}
	assert_int_equal(group_count, 1);
	assert_int_equal(groups[0].count, OUTPUT_GROUP_COUNT);
	assert_int_equal(groups[0].bytes, OUTPUT_GROUP_COUNT);
	env->output(env, OUTPUT_NET, large, sizeof large);
	assert_int_equal(group_count, 1);
	env->output(env, OUTPUT_NET, large, sizeof large);
	assert_int_equal(group_count, 2);
	assert_int_equal(groups[1].count, 2);
	tiny_free(t);
}

static void a_groups_digest_depends_on_every_byte_and_its_order(void **state)
{
	(void)state;
	NEED_KVM();
	static const char *const texts[] = {"ab", "ba", "a", "aa"};
	struct tiny *t = flushed_guest = tiny_new();
	struct device_env *env = &t->machine.env;
	uint64_t digests[4];
	for (unsigned i = 0; i < 4; i++) {
		t->machine.group[OUTPUT_CONSOLE] = (struct output_group){0};
		for (const char *c = texts[i]; *c; c++)
			env->output(env, OUTPUT_CONSOLE, c, 1);
		digests[i] = t->machine.group[OUTPUT_CONSOLE].digest;
		for (unsigned j = 0; j < i; j++)
			assert_true(digests[i] != digests[j]);
	}
	tiny_free(t);
}

static void a_full_hold_makes_the_vcpu_wait_and_nothing_is_half_put(void **state)
{
	(void)state;
	NEED_KVM();
	static uint8_t large[40000];
	struct tiny *t = flushed_guest = tiny_new();
	struct device_env *env = &t->machine.env;
	t->machine.source = &grouping_source;
	flushes = 0;
	for (unsigned i = 0; i < 60; i++)
		env->output(env, OUTPUT_NET, large, sizeof large);
	assert_true(flushes > 0); /* 2.4 MB through a hold of one */
	tiny_release(t);
	assert_int_equal(t->frames, 60);
	tiny_free(t);
}

static void output_too_much(void *argument)
{
	struct tiny *t = tiny_new();
	uint8_t *bytes = calloc(1, OUTPUT_MAX + 1);
	(void)argument;
	t->machine.env.output(&t->machine.env, OUTPUT_NET, bytes, OUTPUT_MAX + 1);
}

static void an_output_larger_than_any_frame_breaks_D3(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("D3", output_too_much, NULL);
}

static void save_half_an_instruction(void *argument)
{
	struct tiny *t = tiny_new();
	(void)argument;
	t->machine.unfinished = true;
	if (machine_save(&t->machine, malloc(machine_state_size())) != 0)
		_exit(1);
}

static void saving_in_the_middle_of_an_instruction_breaks_D1(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("D1", save_half_an_instruction, NULL);
}

static void a_state_of_another_version_or_size_is_refused(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	size_t size = machine_state_size();
	uint8_t *blob = malloc(size);
	assert_int_equal(machine_save(&t->machine, blob), 0);
	assert_int_equal(machine_load(&t->machine, blob, size), 0);
	assert_int_equal(machine_load(&t->machine, blob, size - 1), -EPROTO);
	blob[0] ^= 1;
	assert_int_equal(machine_load(&t->machine, blob, size), -EPROTO);
	free(blob);
	tiny_free(t);
}

static void a_saved_state_carries_cr8(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new(), *twin = tiny_new();
	struct vcpu_state cpu;
	tiny_load(t, computing_begin, computing_end);
	assert_int_equal(vcpu_save(&t->machine.vcpu, &cpu), 0);
	cpu.sregs.cr8 = 5;
	assert_int_equal(vcpu_load(&t->machine.vcpu, &cpu), 0);
	tiny_copy(twin, t);
	twin->machine.source = &counting_source;
	tiny_start(twin);
	while (atomic_load(&twin->machine.exits_shown) == 0)
		usleep(100);
	tiny_end(twin);
	assert_int_equal(twin->machine.vcpu.run->s.regs.sregs.cr8, 5);
	tiny_free(twin);
	tiny_free(t);
}

static void what_is_loaded_counts_as_kvm_has_taken_it(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct vcpu_state cpu;
	tiny_load(t, computing_begin, computing_end);
	assert_int_equal(vcpu_save(&t->machine.vcpu, &cpu), 0);
	cpu.regs.rflags = 0; /* no processor has them without bit 1 */
	assert_int_equal(vcpu_load(&t->machine.vcpu, &cpu), 0);
	assert_int_equal(t->machine.vcpu.run->s.regs.regs.rflags, 2);
	tiny_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_runs_until_it_switches_its_machine_off),
		cmocka_unit_test(a_halt_with_interrupts_off_and_a_triple_fault_end_it),
		cmocka_unit_test(a_restart_ends_it_in_order),
		cmocka_unit_test(a_trap_behind_a_halt_ends_it),
		cmocka_unit_test(a_call_runs_on_the_vcpu_thread_even_if_the_guest_never_leaves),
		cmocka_unit_test(a_call_as_the_machine_ends_is_answered_once),
		cmocka_unit_test(a_machine_saved_at_any_pause_goes_on_elsewhere),
		cmocka_unit_test(the_first_verdict_stays),
		cmocka_unit_test(no_kick_is_lost_while_the_guest_computes),
		cmocka_unit_test(nor_while_it_leaves_again_and_again),
		cmocka_unit_test(a_kick_before_the_thread_runs_does_no_harm),
		cmocka_unit_test(
			an_output_operation_closes_at_bounds_that_do_not_depend_on_the_host),
		cmocka_unit_test(a_groups_digest_depends_on_every_byte_and_its_order),
		cmocka_unit_test(a_full_hold_makes_the_vcpu_wait_and_nothing_is_half_put),
		cmocka_unit_test(an_output_larger_than_any_frame_breaks_D3),
		cmocka_unit_test(saving_in_the_middle_of_an_instruction_breaks_D1),
		cmocka_unit_test(a_state_of_another_version_or_size_is_refused),
		cmocka_unit_test(a_saved_state_carries_cr8),
		cmocka_unit_test(what_is_loaded_counts_as_kvm_has_taken_it),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

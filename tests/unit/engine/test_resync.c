#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 12u /* ticks that the guest wants */
#define RING (1u << 20)
#define WAIT_NS 2000000u
#define MANY 50u /* resyncs, of about 30 KiB */
#define GUEST_SUM 0x30040u
#define SCRIBBLED 0x80000u /* 32 pages that the guest writes into as it computes */

/* clang-format off */
__asm__(".pushsection .rodata\n"
	/* Computes, and writes, until it has seen its ticks, and never leaves meanwhile: not even to end
	 * an interrupt, since its PIC does that by itself. */
	".globl aloof_begin, aloof_timer, aloof_end\n"
	"aloof_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	sti\n"
	"1:	incq %rbx\n"
	"	movq %rbx, %rax\n"
	"	andl $31, %eax\n"
	"	shll $12, %eax\n"
	"	addq %rbx, 0x80000(%rax)\n"
	"	addq %rax, 0x30040\n"
	UNTIL_TICKED("1b")
	"	outb %al, $0x80\n"
	SWITCH_OFF
	"	jmp 1b\n"
	"aloof_timer:\n"
	"	incl 0x30020\n"
	"	cmpl $3, 0x30020\n" /* only once: whoever misses that page misses it to the end */
	"	jne 2f\n"
	"	movq %rbx, 0xc0000\n"
	"2:	iretq\n"
	"aloof_end:\n"
	/* The same with its interrupts off but for a moment in each of its rounds. */
	".globl reluctant_begin, reluctant_timer, reluctant_end\n"
	"reluctant_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"1:	cli\n"
	"	movl $300, %ecx\n"
	"2:	incq %rbx\n"
	"	movq %rbx, 0x80000\n"
	"	decl %ecx\n"
	"	jnz 2b\n"
	"	sti\n"
	"	nop\n"
	"	nop\n"
	UNTIL_TICKED("1b")
	SWITCH_OFF
	"	jmp 1b\n"
	"reluctant_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"reluctant_end:\n"
	/* Its floating-point registers are those at 0x70000 until it has seen three ticks, then those at
	 * 0x71000; what they are in the end it writes to 0x72000 and 0x73000. */
	".globl floating_begin, floating_timer, floating_end\n"
	"floating_begin:\n"
	"	movl $" STACK_TOP ", %esp\n"
	"	lidt 0x9800\n"
	"	fxrstor 0x70000\n"
	"	sti\n"
	"1:	incq %rbx\n"
	"	cmpl $3, 0x30020\n"
	"	jb 1b\n"
	"	fxsave 0x72000\n"
	"	fxrstor 0x71000\n"
	"2:	incq %rbx\n"
	UNTIL_TICKED("2b")
	"	fxsave 0x73000\n"
	"	outb %al, $0x80\n"
	SWITCH_OFF
	"	jmp 2b\n"
	"floating_timer:\n"
	"	incl 0x30020\n"
	"	iretq\n"
	"floating_end:\n"
	/* In ring 3, through a page table that its timer changes: what lies at 1 GiB is another page then. */
	".globl mapped_begin, mapped_timer, mapped_end\n"
	"mapped_begin:\n"
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
	"1:	movl 0x40000000, %ecx\n"
	"	outb %al, $0x80\n" /* whoever follows comes here by itself */
	"2:	incq %rbx\n"
	"	movl 0x40000000, %ecx\n"
	"	addq %rcx, 0x30040\n"
	UNTIL_TICKED("2b")
	"	movl 0x40000000, %ecx\n"
	"	movl %ecx, 0x30050\n"
	"	outb %al, $0x80\n"
	SWITCH_OFF
	"	jmp 2b\n"
	"mapped_timer:\n"
	"	incl 0x30020\n"
	"	cmpl $3, 0x30020\n"
	"	jne 3f\n"
	"	movq $0x62007, 0x60000\n"
	"	invlpg 0x40000000\n"
	"3:	iretq\n"
	"mapped_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t aloof_begin[], aloof_timer[], aloof_end[];
extern const uint8_t reluctant_begin[], reluctant_timer[], reluctant_end[];
extern const uint8_t floating_begin[], floating_timer[], floating_end[];
extern const uint8_t mapped_begin[], mapped_timer[], mapped_end[];

static struct tiny *tiny_computing(const uint8_t *begin, const uint8_t *timer, const uint8_t *end)
{
	struct tiny *t = tiny_ticking(begin, timer, end, ROUNDS);
	t->live.wait_ns = WAIT_NS;
	return t;
}

static struct tiny *tiny_aloof(void)
{
	return tiny_computing(aloof_begin, aloof_timer, aloof_end);
}

static uint64_t resyncs(const struct tiny *t)
{
	return atomic_load(&t->live.resyncs.count);
}

static void alone_a_guest_that_never_leaves_is_interrupted_without_a_resync(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_aloof();
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_true(tiny_get32(t, GUEST_TICKS) >= ROUNDS);
	assert_int_equal(resyncs(t), 0);
	tiny_free(t);
}

/* One run, recorded, and the machine as it was before and behind it. */
static struct tiny *origin, *recorded;
static uint64_t log_size;

static int record(void **state)
{
	tiny_set_up(state);
	if (!has_kvm())
		return 0;
	recorded = tiny_aloof();
	origin = tiny_twin(recorded);
	tiny_record(recorded, RING);
	tiny_start(recorded);
	tiny_join(recorded);
	assert_powered_off(recorded);
	log_size = atomic_load(&recorded->written);
	return 0;
}

static int forget(void **state)
{
	(void)state;
	if (recorded) {
		tiny_free(recorded);
		tiny_free(origin);
	}
	return 0;
}

static struct tiny *follower(const uint8_t *log)
{
	struct tiny *t = tiny_twin(origin);
	tiny_follow(t, log, log_size);
	return t;
}

static void a_guest_that_never_leaves_is_interrupted_by_resyncs(void **state)
{
	(void)state;
	NEED_KVM();
	assert_true(tiny_get32(recorded, GUEST_TICKS) >= ROUNDS);
	assert_true(resyncs(recorded) > 0);
	assert_true(atomic_load(&recorded->live.resyncs.pages) > resyncs(recorded));
}

static void a_replay_of_resyncs_is_the_same_machine(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned i = 0; i < 2; i++) {
		struct tiny *t = follower(recorded->log);
		tiny_replay(t, log_size);
		assert_powered_off(t);
		tiny_assert_same(t, recorded);
		tiny_free(t);
	}
}

/* The LSN behind the `number`th entry of a kind, and the one where it begins. */
static uint64_t find(enum log_kind kind, unsigned number, struct log_entry *entry)
{
	struct log_reader reader;
	log_reader_file(&reader, recorded->log, log_size, SECRET, 0);
	while (tiny_walk(&reader, entry)) {
		if (entry->kind == kind && number-- == 0)
			return entry->end;
	}
	assert_true(false);
	return 0;
}

struct turn {
	struct tiny *t;
	uint8_t *memory; /* as it was when it went live */
	position exits;
};

static void do_go_live(struct machine *m, void *argument)
{
	struct turn *turn = argument;
	memcpy(turn->memory, m->memory.base, MEMORY);
	turn->exits = m->exits;
	m->live->wait_ns = WAIT_NS;
	replay_go_live(m, now_ns());
}

/* Goes live where the log ends, at `limit`, and runs to the end. */
static struct tiny *survive(uint64_t limit, struct turn *turn)
{
	struct tiny *t = follower(recorded->log);
	turn->t = t;
	turn->memory = malloc(MEMORY);
	replay_extend(&t->machine, limit);
	tiny_start(t);
	while (atomic_load(&t->replay.applied) < limit)
		usleep(100);
	replay_end_log(&t->machine);
	tiny_await(&t->drained);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_go_live, turn);
	tiny_join(t);
	assert_powered_off(t);
	assert_true(tiny_get32(t, GUEST_TICKS) >= ROUNDS);
	return t;
}

static void a_resync_without_its_commit_has_not_happened(void **state)
{
	(void)state;
	NEED_KVM();
	struct log_entry first, commit;
	find(LOG_PAGE, 0, &first);
	find(LOG_COMMIT, 0, &commit);
	assert_true(first.lsn < commit.lsn);
	struct turn before, within;
	struct tiny *a = survive(first.lsn, &before), *b = survive(commit.lsn, &within);
	assert_int_equal(before.exits, within.exits);
	assert_int_equal(commit.position, within.exits + 1);
	assert_memory_equal(before.memory, within.memory, MEMORY);
	assert_null(b->machine.staging.pages);
	free(before.memory);
	free(within.memory);
	tiny_free(a);
	tiny_free(b);
}

static void with_its_commit_it_has(void **state)
{
	(void)state;
	NEED_KVM();
	struct log_entry commit, second;
	find(LOG_COMMIT, 1, &commit);
	find(LOG_COMMIT, 2, &second);
	struct turn turn;
	struct tiny *t = survive(commit.end, &turn);
	assert_int_equal(turn.exits, commit.position);
	assert_true(second.position > commit.position);
	free(turn.memory);
	tiny_free(t);
}

/* Whose memory was changed behind its back, and who had half a resync when its primary died. */
static void who_goes_live_is_protected_by_resyncs_too(void **state)
{
	(void)state;
	NEED_KVM();
	struct log_entry commit;
	find(LOG_COMMIT, 2, &commit);
	struct turn turn = {.memory = malloc(MEMORY)};
	struct tiny *t = follower(recorded->log);
	replay_extend(&t->machine, commit.lsn);
	tiny_start(t);
	while (atomic_load(&t->replay.applied) < commit.lsn)
		usleep(100);
	replay_end_log(&t->machine);
	tiny_await(&t->drained);
	struct tiny *twin = tiny_new();
	machine_call(&t->machine, MACHINE_ANYWHERE, do_go_live, &turn);
	tiny_protect(t, twin, RING);
	tiny_join(t);
	assert_powered_off(t);
	assert_true(resyncs(t) > 0);
	free(turn.memory);
	tiny_assert_replays(t, twin);
}

static void a_replay_stops_before_a_commit_at_the_exit_before_it(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned i = 0; i < 3; i++) {
		struct log_entry commit;
		find(LOG_COMMIT, i, &commit);
		struct tiny *t = follower(recorded->log);
		t->replay.offline = t->replay.has_until = true;
		t->replay.until_lsn = commit.lsn;
		t->replay.until_ns = UINT64_MAX;
		tiny_replay(t, log_size);
		assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
		assert_true(t->replay.is_there);
		assert_int_equal(t->replay.reader.next, commit.lsn);
		assert_int_equal(t->machine.exits, commit.position - 1);
		tiny_free(t);
	}
}

/* What follows is refused, and leaves the machine as it was. */
static void assert_refused(
	enum log_kind kind, void (*spoil)(struct log_entry *entry, uint8_t *payload))
{
	uint8_t *log = calloc(1, log_size + 8192), payload[LOG_PAYLOAD_MAX];
	struct log_reader reader;
	struct log_entry entry;
	uint64_t lsn = 0;
	bool spoiled = false;
	log_reader_file(&reader, recorded->log, log_size, SECRET, 0);
	while (tiny_walk(&reader, &entry)) {
		memcpy(payload, entry.payload, entry.length);
		if (entry.kind == kind && !spoiled) {
			spoil(&entry, payload);
			spoiled = true;
		}
		if (entry.length == 0)
			continue;
		log_encode(log + lsn, SECRET, lsn, entry.kind, entry.position, entry.digest,
			payload, entry.length);
		lsn += log_entry_size(entry.length);
	}
	struct tiny *t = tiny_twin(origin);
	tiny_follow(t, log, lsn);
	tiny_replay(t, lsn);
	if (t->machine.verdict != MACHINE_DIVERGED)
		print_error("verdict %d: %s\n", (int)t->machine.verdict, t->machine.message);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	tiny_free(t);
	free(log);
}

static void leave_out(struct log_entry *entry, uint8_t *payload)
{
	(void)payload;
	entry->length = 0;
}

static void change_page(struct log_entry *entry, uint8_t *payload)
{
	(void)entry;
	payload[100] ^= 1;
}

static void move_page(struct log_entry *entry, uint8_t *payload)
{
	(void)entry;
	payload[2] = 1; /* beyond 1 MiB */
}

static void change_count(struct log_entry *entry, uint8_t *payload)
{
	(void)entry;
	payload[0]++;
}

static void change_version(struct log_entry *entry, uint8_t *payload)
{
	(void)entry;
	payload[sizeof(struct log_commit)]++;
}

static void move_position(struct log_entry *entry, uint8_t *payload)
{
	(void)payload;
	entry->position--;
}

static void change_digest(struct log_entry *entry, uint8_t *payload)
{
	(void)payload;
	entry->digest ^= 1;
}

static void cut_state(struct log_entry *entry, uint8_t *payload)
{
	(void)payload;
	entry->length -= 8;
}

static void a_resync_that_is_not_whole_or_not_right_is_refused(void **state)
{
	(void)state;
	NEED_KVM();
	assert_refused(LOG_PAGE, leave_out);
	assert_refused(LOG_PAGE, change_page);
	assert_refused(LOG_PAGE, move_page);
	assert_refused(LOG_COMMIT, change_count);
	assert_refused(LOG_COMMIT, change_version);
	assert_refused(LOG_COMMIT, move_position);
	assert_refused(LOG_COMMIT, change_digest);
	assert_refused(LOG_COMMIT, cut_state);
}

/* A ring that is smaller than a resync: its pages flow through as they are consumed. */
static void a_resync_may_be_larger_than_the_ring(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_aloof(), *twin = tiny_twin(t);
	atomic_store(&t->consumed, 0);
	tiny_record(t, 64u << 10);
	tiny_follow(twin, t->log, LOG_BYTES);
	tiny_start(t);
	tiny_start(twin);
	uint64_t seen = 0;
	while (!atomic_load(&twin->over)) {
		uint64_t written = atomic_load(&t->written);
		if (written > seen)
			replay_extend(&twin->machine, seen = written);
		atomic_store(&t->consumed, atomic_load(&twin->replay.applied));
		bell_ring(&t->machine.bell);
		usleep(100);
	}
	tiny_join(t);
	tiny_join(twin);
	assert_powered_off(t);
	assert_powered_off(twin);
	assert_true(resyncs(t) > 0);
	tiny_assert_same(t, twin);
	tiny_free(t);
	tiny_free(twin);
}

/* Once a second at most, so that one has to do; nothing else would interrupt this guest. */
static void the_real_time_clock_interrupts_a_guest_that_never_leaves_too(void **state)
{
	(void)state;
	NEED_KVM();
	const uint32_t rounds = 1;
	for (unsigned recording = 0; recording < 2; recording++) {
		struct tiny *t = tiny_aloof();
		struct machine *m = &t->machine;
		memcpy(m->memory.base + IDT + 16u * 0x28, m->memory.base + IDT + 16u * 0x20, 16);
		memcpy(m->memory.base + GUEST_ROUNDS, &rounds, sizeof rounds);
		static const uint8_t pic[][2] = {{0xa0, 0x11}, {0xa1, 0x28}, {0xa1, 2}, {0xa1, 3},
			{0x21, 0xfb}, {0xa1, 0xfe}}; /* only line 8 */
		for (unsigned i = 0; i < sizeof pic / sizeof pic[0]; i++)
			pic_write(&m->board.pic, pic[i][0], pic[i][1]);
		m->board.cmos.base_ns = 900000000; /* the next second begins soon */
		cmos_write(&m->board.cmos, &m->env, 0x70, 0x0b);
		cmos_write(&m->board.cmos, &m->env, 0x71, 0x12);
		if (recording)
			tiny_record(t, RING);
		tiny_start(t);
		tiny_join(t);
		assert_powered_off(t);
		assert_int_equal(tiny_get32(t, GUEST_TICKS), rounds);
		assert_true(resyncs(t) == recording);
		tiny_free(t);
	}
}

/* A primary that waits for room in the middle of a resync: its backup has stopped. */
static struct tiny *tiny_in_a_resync(void)
{
	struct tiny *t = tiny_aloof();
	atomic_store(&t->consumed, 0);
	tiny_record(t, 64u << 10);
	tiny_start(t);
	while (atomic_load(&t->live.stops) == 0)
		usleep(100);
	return t;
}

static void do_end_log(struct machine *m, void *argument)
{
	(void)argument;
	(void)live_end_log(m);
}

static void a_primary_that_loses_its_backup_within_a_resync_goes_on_alone(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned broken = 0; broken < 2; broken++) {
		struct tiny *t = tiny_in_a_resync();
		uint64_t done = resyncs(t);
		if (broken) {
			atomic_store(&t->sink_fails, true);
			atomic_store(&t->consumed, UINT64_MAX);
			bell_ring(&t->machine.bell);
		}
		usleep(5000);
		assert_false(atomic_load(&t->over));
		machine_call(&t->machine, MACHINE_ANYWHERE, do_end_log, NULL);
		tiny_join(t);
		assert_powered_off(t);
		assert_true(tiny_get32(t, GUEST_TICKS) >= ROUNDS);
		/* The rest may have gathered, in a log that then could not be handed over. */
		assert_true(resyncs(t) <= done + broken);
		tiny_free(t);
	}
}

static void a_primary_can_be_stopped_within_a_resync(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_in_a_resync(), *twin = tiny_twin(origin);
	atomic_store(&t->consumed, 16u << 10); /* END finds room */
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
	uint64_t size = atomic_load(&t->written);
	tiny_follow(twin, t->log, size);
	replay_extend(&twin->machine, size);
	tiny_start(twin);
	tiny_join(twin);
	assert_int_equal(twin->machine.verdict, MACHINE_STOPPED);
	tiny_free(t);
	tiny_free(twin);
}

static void an_interrupt_waits_for_a_moment_when_it_can_be_taken(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned recording = 0; recording < 2; recording++) {
		struct tiny *t = tiny_computing(reluctant_begin, reluctant_timer, reluctant_end);
		struct tiny *twin = tiny_twin(t);
		if (recording)
			tiny_record(t, RING);
		tiny_start(t);
		tiny_join(t);
		assert_powered_off(t);
		assert_true(tiny_get32(t, GUEST_TICKS) >= ROUNDS);
		assert_true(!recording == (resyncs(t) == 0));
		if (recording) {
			tiny_assert_replays(t, twin);
			continue;
		}
		tiny_free(t);
		tiny_free(twin);
	}
}

/* What no digest covers: whoever has missed it is found when it comes back to memory. */
static void assert_floats(uint32_t rounding, uint8_t byte)
{
	struct tiny *t = tiny_computing(floating_begin, floating_timer, floating_end);
	uint8_t *first = t->machine.memory.base + 0x70000, *last = first + 0x1000;
	const uint16_t control = 0x027f;
	const uint32_t first_rounding = 0x3fa1;
	memcpy(first, &control, 2);
	memcpy(first + 24, &first_rounding, 4);
	memset(first + 160, 0x5a, 128); /* XMM0 to 7 */
	memcpy(last, &control, 2);
	memcpy(last + 24, &rounding, 4);
	memset(last + 160, byte, 128);
	struct tiny *twin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_true(resyncs(t) > 0);
	assert_memory_equal(first + 0x2000 + 160, first + 160, 128);
	assert_memory_equal(last + 0x2000 + 160, last + 160, 128);
	assert_memory_equal(last + 0x2000 + 24, &rounding, 4);
	tiny_assert_replays(t, twin);
}

/* What a processor has learned from page tables is not true any more when a resync has changed them. */
static void page_tables_are_part_of_a_resync(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_computing(mapped_begin, mapped_timer, mapped_end);
	const uint32_t one = 1, two = 2;
	tiny_ring_3(t);
	tiny_put64(t, BOOT_PAGE_TABLES + 0x1008, (BOOT_PAGE_TABLES + 0x3000) | 7);
	tiny_put64(t, BOOT_PAGE_TABLES + 0x3000, 0x60007);
	tiny_put64(t, 0x60000, 0x61007);
	memcpy(t->machine.memory.base + 0x61000, &one, sizeof one);
	memcpy(t->machine.memory.base + 0x62000, &two, sizeof two);
	struct tiny *twin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(tiny_get32(t, 0x30050), two);
	assert_true(resyncs(t) > 0);
	tiny_assert_replays(t, twin);
}

static void the_floating_point_registers_are_part_of_a_resync(void **state)
{
	(void)state;
	NEED_KVM();
	assert_floats(0x7fa3, 0xa5); /* rounds towards zero */
	assert_floats(0x1f80, 0);    /* as they are behind a reset */
}

static void do_have_patience(struct machine *m, void *argument)
{
	(void)argument;
	m->live->wait_ns = 10 * WAIT_NS;
}

/* A guest that leaves often, too: whatever lies between the exits, it is the same machine. */
static void resyncs_among_exits_and_other_inputs_replay_exactly(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(150);
	t->live.wait_ns = 60000; /* as often as can be */
	struct tiny *twin = tiny_twin(t);
	bool patient = false;
	tiny_record(t, RING);
	tiny_key(t, 'K');
	tiny_start(t);
	for (unsigned i = 0; !atomic_load(&t->over); i++) {
		if (i % 3 == 0 && i < 200)
			tiny_key(t, (uint8_t)('A' + i % 26));
		if (i % 7 == 0 && i / 7 < RX_COUNT)
			tiny_frame(t, tiny_frame_bytes, sizeof tiny_frame_bytes - i % 7);
		/* A slow machine would do nothing else any more. */
		if (!patient && resyncs(t) >= MANY) {
			machine_call(&t->machine, MACHINE_ANYWHERE, do_have_patience, NULL);
			patient = true;
		}
		usleep(300 + i * 37 % 500);
	}
	tiny_join(t);
	assert_powered_off(t);
	assert_printed(t, 150);
	assert_true(resyncs(t) > 0);
	print_message("%llu resyncs among %llu exits\n", (unsigned long long)resyncs(t),
		(unsigned long long)t->machine.exits);
	tiny_assert_replays(t, twin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alone_a_guest_that_never_leaves_is_interrupted_without_a_resync),
		cmocka_unit_test(a_guest_that_never_leaves_is_interrupted_by_resyncs),
		cmocka_unit_test(a_replay_of_resyncs_is_the_same_machine),
		cmocka_unit_test(a_resync_without_its_commit_has_not_happened),
		cmocka_unit_test(with_its_commit_it_has),
		cmocka_unit_test(who_goes_live_is_protected_by_resyncs_too),
		cmocka_unit_test(a_replay_stops_before_a_commit_at_the_exit_before_it),
		cmocka_unit_test(a_resync_that_is_not_whole_or_not_right_is_refused),
		cmocka_unit_test(a_resync_may_be_larger_than_the_ring),
		cmocka_unit_test(a_primary_that_loses_its_backup_within_a_resync_goes_on_alone),
		cmocka_unit_test(a_primary_can_be_stopped_within_a_resync),
		cmocka_unit_test(the_real_time_clock_interrupts_a_guest_that_never_leaves_too),
		cmocka_unit_test(an_interrupt_waits_for_a_moment_when_it_can_be_taken),
		cmocka_unit_test(page_tables_are_part_of_a_resync),
		cmocka_unit_test(the_floating_point_registers_are_part_of_a_resync),
		cmocka_unit_test(resyncs_among_exits_and_other_inputs_replay_exactly),
	};
	return !!cmocka_run_group_tests(tests, record, forget);
}

/* What becomes of a follower whose hold is full: it was told of nothing that its primary's has let go (O3). */
#include "tests/unit/engine/tiny_guest.h"

#define RING (1u << 20)
#define HOLD (256u << 10) /* room for half of what the guest prints */
/* Outputs of one byte, 32 of the hold each, that leave no room for a group. */
#define FULL ((HOLD - OUTPUT_GROUP_COUNT * 31u - OUTPUT_GROUP_ROOM) / 32u + 1u)
#define TALK 5000u
#define TALK_TEXT 0x60000u

/* clang-format off */
__asm__(".pushsection .rodata\n"
	/* Prints for long without waiting for anything, and ends. */
	".globl talking_begin, talking_end\n"
	"talking_begin:\n"
	"	movl $0x60000, %esi\n"
	"	movl $5000, %ecx\n"
	"	movw $0x3f8, %dx\n"
	"	rep outsb\n"
	"	xorl %eax, %eax\n"
	"	movw $0x604, %dx\n"
	"1:	outl %eax, %dx\n"
	"	jmp 1b\n"
	"talking_end:\n"
	".popsection\n");
/* clang-format on */

extern const uint8_t talking_begin[], talking_end[];

static struct tiny *tiny_talking(void)
{
	struct tiny *t = tiny_new();
	hold_destroy(t->machine.hold[OUTPUT_CONSOLE]);
	assert_int_equal(hold_create(&t->machine.hold[OUTPUT_CONSOLE], HOLD), 0);
	tiny_load(t, talking_begin, talking_end);
	for (uint32_t i = 0; i < TALK; i++)
		t->machine.memory.base[TALK_TEXT + i] = (uint8_t)('a' + i % 23);
	return t;
}

static void do_release(struct machine *m, void *argument)
{
	(void)m;
	tiny_release(argument);
}

/* One that has ended. Its console has taken everything at once; or nothing before the hold was full. */
static struct tiny *talked(bool late)
{
	struct tiny *t = tiny_talking();
	atomic_store(&t->acked, late ? 0 : UINT64_MAX);
	tiny_record(t, RING);
	tiny_start(t);
	if (late) {
		while (hold_waiting(t->machine.hold[OUTPUT_CONSOLE]) < FULL)
			usleep(1000);
		usleep(20000);
		assert_false(atomic_load(&t->over));
		atomic_store(&t->acked, UINT64_MAX);
		machine_call(&t->machine, MACHINE_ANYWHERE, do_release, t);
	}
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(t->length, TALK);
	return t;
}

static void a_follower_gives_up_what_its_primary_cannot_have_kept_and_no_more(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = talked(false), *twin = tiny_talking();
	uint64_t size = atomic_load(&t->written);
	tiny_follow(twin, t->log, size);
	tiny_replay(twin, size);
	assert_powered_off(twin);
	tiny_assert_same(twin, t);
	assert_true(twin->length > 0);
	assert_true(hold_waiting(twin->machine.hold[OUTPUT_CONSOLE]) >= TALK / 2);
	atomic_store(&twin->acked, size);
	tiny_release(twin);
	assert_int_equal(twin->length, TALK);
	assert_memory_equal(twin->text, t->text, TALK);
	tiny_free(t);
	tiny_free(twin);
}

/* Its primary may be waiting for room at the same place, and keep all of it. */
static void not_before_the_log_says_that_its_primary_has_gone_on(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = talked(true), *twin = tiny_talking();
	const struct hold *hold = twin->machine.hold[OUTPUT_CONSOLE];
	uint64_t size = atomic_load(&t->written), sealed = 0, dropped;
	enum log_kind before, kind = 0;
	struct log_reader reader;
	struct log_entry entry;
	struct log_output output;
	log_reader_file(&reader, t->log, size, SECRET, 0);
	tiny_follow(twin, t->log, size);
	tiny_start(twin);
	do {
		assert_true(tiny_walk(&reader, &entry));
		before = kind;
		kind = entry.kind;
		memcpy(&output, entry.payload, sizeof output);
		if (entry.kind == LOG_OUTPUT)
			sealed += output.count;
		replay_extend(&twin->machine, entry.end);
		while (atomic_load(&twin->replay.applied) < entry.end)
			usleep(100);
		usleep(1000); /* it has time to go too far */
		dropped = sealed - hold_waiting(hold);
	} while (dropped == 0);
	/* And not with the MARK before, by which its primary told where it stood. */
	assert_int_equal(kind, LOG_OUTPUT);
	assert_int_equal(before, LOG_MARK);
	tiny_end(twin);
	tiny_free(t);
	tiny_free(twin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_follower_gives_up_what_its_primary_cannot_have_kept_and_no_more),
		cmocka_unit_test(not_before_the_log_says_that_its_primary_has_gone_on),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

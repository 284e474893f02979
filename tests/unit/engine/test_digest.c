#include "engine/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

#define SIZE GUEST_MEMORY_MIN
#define PIECES (SIZE / DIGEST_SWEEP)
#define SPECULATIVE 0x60ull

static struct guest_memory memory;
static struct kvm_sync_regs registers;

static int set_up(void **state)
{
	(void)state;
	assert_int_equal(memory_create(&memory, SIZE), 0);
	uint64_t random = 1;
	for (uint64_t i = 0; i < SIZE; i++) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		memory.base[i] = (uint8_t)(random >> 56);
	}
	memset(&registers, 0x5a, sizeof registers);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	memory_destroy(&memory);
	return 0;
}

/* `steps` positions on, from the sweep's piece `phase`. */
static struct digest sweep(uint64_t phase, unsigned steps)
{
	struct digest digest = {.swept = phase * DIGEST_SWEEP};
	for (unsigned i = 1; i <= steps; i++)
		digest_step(&digest, i, &registers, &memory);
	return digest;
}

static void flip(uint64_t address, unsigned bit)
{
	uint64_t word;
	memcpy(&word, memory.base + address, sizeof word);
	word ^= 1ull << bit;
	memcpy(memory.base + address, &word, sizeof word);
}

static void every_bit_but_5_and_6_of_a_word_is_seen_within_one_sweep(void **state)
{
	(void)state;
	static const uint64_t addresses[] = {
		0, 8, DIGEST_SWEEP - 8, DIGEST_SWEEP, SIZE / 2 + 504, SIZE - 8};
	for (unsigned i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		/* The sweep has just passed the place, or just reaches it; either way one is
		 * enough. */
		uint64_t phase = (addresses[i] / DIGEST_SWEEP + i % 2) % PIECES;
		struct digest before = sweep(phase, PIECES);
		for (unsigned bit = 0; bit < 64; bit++) {
			flip(addresses[i], bit);
			struct digest after = sweep(phase, PIECES);
			flip(addresses[i], bit);
			if (SPECULATIVE >> bit & 1) {
				assert_int_equal(after.memory, before.memory);
				assert_int_equal(digest_word(&after), digest_word(&before));
			} else {
				assert_true(after.memory != before.memory);
				assert_true(digest_word(&after) != digest_word(&before));
			}
			assert_int_equal(after.registers, before.registers);
		}
	}
}

static void a_difference_once_seen_is_never_forgotten(void **state)
{
	(void)state;
	struct digest clean = sweep(0, 1);
	flip(16, 0);
	struct digest other = sweep(0, 1);
	flip(16, 0); /* the memory is the same again */
	for (unsigned i = 2; i < 2 * PIECES; i++) {
		digest_step(&clean, i, &registers, &memory);
		digest_step(&other, i, &registers, &memory);
		assert_true(clean.memory != other.memory);
	}
}

static void a_sweep_goes_through_all_memory_and_begins_again(void **state)
{
	(void)state;
	struct digest digest = {.swept = 0};
	for (unsigned i = 0; i < 2 * PIECES; i++) {
		assert_int_equal(digest.swept, i % PIECES * DIGEST_SWEEP);
		digest_step(&digest, 100 + i, &registers, &memory);
		assert_int_equal(digest.at, 100 + i);
	}
}

static bool seen(void *bytes, size_t offset, unsigned bit)
{
	uint8_t *byte = (uint8_t *)bytes + offset;
	struct digest before = {0}, after = {0};
	digest_step(&before, 1, &registers, &memory);
	*byte = (uint8_t)(*byte ^ 1u << bit);
	digest_step(&after, 1, &registers, &memory);
	*byte = (uint8_t)(*byte ^ 1u << bit);
	assert_int_equal(after.memory, before.memory);
	return after.registers != before.registers && digest_word(&after) != digest_word(&before);
}

static void every_bit_of_every_register_is_seen_at_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof registers.regs; i++) {
		for (unsigned bit = 0; bit < 8; bit++)
			assert_true(seen(&registers.regs, i, bit));
	}
	struct kvm_sregs *s = &registers.sregs;
	__u64 *words[] = {&s->cr0, &s->cr2, &s->cr3, &s->cr4, &s->cr8, &s->efer, &s->gdt.base,
		&s->idt.base, &s->cs.base, &s->ds.base, &s->es.base, &s->fs.base, &s->gs.base,
		&s->ss.base, &s->tr.base, &s->ldt.base};
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		for (unsigned bit = 0; bit < 64; bit++)
			assert_true(seen(words[i], bit / 8, bit % 8));
	}
	__u16 *halves[] = {&s->gdt.limit, &s->idt.limit, &s->cs.selector, &s->ds.selector,
		&s->es.selector, &s->fs.selector, &s->gs.selector, &s->ss.selector, &s->tr.selector,
		&s->ldt.selector};
	for (size_t i = 0; i < sizeof halves / sizeof halves[0]; i++) {
		for (unsigned bit = 0; bit < 16; bit++)
			assert_true(seen(halves[i], bit / 8, bit % 8));
	}
}

/* Which differs between two hosts without meaning anything. */
static void what_kvm_keeps_for_itself_is_not_looked_at(void **state)
{
	(void)state;
	struct kvm_sregs *s = &registers.sregs;
	assert_false(seen(s->interrupt_bitmap, 3, 1));
	assert_false(seen(&s->apic_base, 1, 0));
	assert_false(seen(&s->gdt.padding, 0, 0));
	assert_false(seen(&s->cs.padding, 0, 0));
	assert_false(seen(&registers.events, 0, 0));
}

/* And is the same as if it had been touched, which the other side may have done. */
static void untouched_memory_is_not_touched(void **state)
{
	(void)state;
	struct guest_memory untouched, zeroed;
	uint64_t from, end;
	assert_int_equal(memory_create(&untouched, SIZE), 0);
	assert_int_equal(memory_create(&zeroed, SIZE), 0);
	untouched.base[SIZE / 2] = zeroed.base[SIZE / 2] = 1;
	for (uint64_t at = 0; at < SIZE; at += DIGEST_SWEEP)
		((volatile uint8_t *)zeroed.base)[at + 1] = 0;
	struct digest of_untouched = {0}, of_zeroed = {0};
	for (unsigned i = 1; i <= 2 * PIECES; i++) {
		digest_step(&of_untouched, i, &registers, &untouched);
		digest_step(&of_zeroed, i, &registers, &zeroed);
		assert_int_equal(of_untouched.memory, of_zeroed.memory);
		/* A page may come in between two sweeps. */
		if (i == PIECES)
			untouched.base[0] = zeroed.base[0] = 1;
	}
	assert_true(memory_touched(&untouched, DIGEST_SWEEP, &from, &end));
	assert_int_equal(from, SIZE / 2);
	assert_int_equal(end, SIZE / 2 + DIGEST_SWEEP);
	assert_false(memory_touched(&untouched, end, &from, &end));
	memory_destroy(&untouched);
	memory_destroy(&zeroed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_bit_but_5_and_6_of_a_word_is_seen_within_one_sweep),
		cmocka_unit_test(a_difference_once_seen_is_never_forgotten),
		cmocka_unit_test(a_sweep_goes_through_all_memory_and_begins_again),
		cmocka_unit_test(every_bit_of_every_register_is_seen_at_once),
		cmocka_unit_test(what_kvm_keeps_for_itself_is_not_looked_at),
		cmocka_unit_test(untouched_memory_is_not_touched),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

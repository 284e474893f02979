/* RDTSC taken out of code, and the counter that stands in for it. */
#include "engine/rdtsc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_becomes_an_exit_of_the_same_length),
		cmocka_unit_test(the_same_bytes_inside_another_instruction_stay),
		cmocka_unit_test(code_goes_on_behind_what_cannot_be_decoded),
		cmocka_unit_test(the_counter_only_grows),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

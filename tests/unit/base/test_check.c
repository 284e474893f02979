#include "tests/unit/broken.h"

#include "base/check.h"

static int evaluated;

static void break_one(void *argument)
{
	int *value = argument;
	CHECK(D2, *value == 8, "the value is %d", *value);
}

static void a_broken_invariant_ends_the_process_and_is_named(void **state)
{
	(void)state;
	int value = 7;
	expect_broken("D2", break_one, &value);
}

static void the_message_says_what_was_found_where(void **state)
{
	(void)state;
	char said[1024];
	int value = 7;
	run_in_child(break_one, &value, said, sizeof said);
	assert_non_null(strstr(said, "the value is 7"));
	assert_non_null(strstr(said, "*value == 8"));
	assert_non_null(strstr(said, "test_check.c:"));
	assert_int_equal(said[strlen(said) - 1], '\n');
}

static void a_condition_that_holds_is_evaluated_once_and_costs_nothing_else(void **state)
{
	(void)state;
	CHECK(D1, ++evaluated == 1, "evaluated %d times", evaluated);
	assert_int_equal(evaluated, 1);
}

static void break_with_a_long_text(void *argument)
{
	(void)argument;
	char text[2000];
	memset(text, 'x', sizeof text);
	text[sizeof text - 1] = '\0';
	CHECK(O2, text[0] != 'x', "%s", text);
}

static void a_message_too_long_is_cut_and_names_the_place_all_the_same(void **state)
{
	(void)state;
	char said[4096];
	int status = run_in_child(break_with_a_long_text, NULL, said, sizeof said);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(said, "invariant O2 is broken"));
	assert_non_null(strstr(said, "test_check.c:"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_broken_invariant_ends_the_process_and_is_named),
		cmocka_unit_test(the_message_says_what_was_found_where),
		cmocka_unit_test(a_condition_that_holds_is_evaluated_once_and_costs_nothing_else),
		cmocka_unit_test(a_message_too_long_is_cut_and_names_the_place_all_the_same),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

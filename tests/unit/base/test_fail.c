#include "tests/unit/broken.h"

#include "base/fail.h"

#include <errno.h>
#include <pthread.h>

static void an_error_is_negative_and_its_message_is_kept(void **state)
{
	(void)state;
	assert_int_equal(fail(ENOENT, "no file %s", "here"), -ENOENT);
	assert_string_equal(fail_message(), "no file here");
}

static void a_message_may_quote_the_one_before_it(void **state)
{
	(void)state;
	(void)fail(EIO, "the disk is on fire");
	(void)fail(EIO, "cannot save: %s", fail_message());
	assert_string_equal(fail_message(), "cannot save: the disk is on fire");
}

static void a_message_too_long_is_cut(void **state)
{
	(void)state;
	char text[4000];
	memset(text, 'y', sizeof text);
	text[sizeof text - 1] = '\0';
	assert_int_equal(fail(E2BIG, "%s", text), -E2BIG);
	assert_true(strlen(fail_message()) < sizeof text - 1);
	assert_int_equal(strspn(fail_message(), "y"), strlen(fail_message()));
}

static void *fail_elsewhere(void *argument)
{
	char *before = argument;
	snprintf(before, 32, "%s", fail_message());
	(void)fail(EPERM, "another thread's");
	return NULL;
}

static void each_thread_has_its_own_message(void **state)
{
	(void)state;
	char before[32] = "?";
	pthread_t thread;
	(void)fail(ENOENT, "ours");
	assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, before), 0);
	pthread_join(thread, NULL);
	assert_string_equal(before, "");
	assert_string_equal(fail_message(), "ours");
}

static void say_two_lines(void *argument)
{
	const char *text = argument;
	say("first %d", 1);
	say("%s", text);
}

static void what_is_said_is_one_line_each_with_the_name_in_front(void **state)
{
	(void)state;
	char said[256], text[] = "second";
	run_in_child(say_two_lines, text, said, sizeof said);
	assert_string_equal(said, "doppel: first 1\ndoppel: second\n");
}

static void a_line_too_long_is_cut_and_still_ends(void **state)
{
	(void)state;
	char said[4096], text[3000];
	memset(text, 'z', sizeof text);
	text[sizeof text - 1] = '\0';
	run_in_child(say_two_lines, text, said, sizeof said);
	const char *second = strchr(said, '\n') + 1;
	assert_memory_equal(second, "doppel: zzz", 11);
	assert_ptr_equal(strchr(second, '\n'), second + strlen(second) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_error_is_negative_and_its_message_is_kept),
		cmocka_unit_test(a_message_may_quote_the_one_before_it),
		cmocka_unit_test(a_message_too_long_is_cut),
		cmocka_unit_test(each_thread_has_its_own_message),
		cmocka_unit_test(what_is_said_is_one_line_each_with_the_name_in_front),
		cmocka_unit_test(a_line_too_long_is_cut_and_still_ends),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

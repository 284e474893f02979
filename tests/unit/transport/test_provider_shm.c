/* What is shm's own; the rest is tested in test_provider.c. */
#include "pair.h"

#include <errno.h>
#include <fcntl.h>

static const struct provider *const shm = &provider_shm;
static uint8_t message[64];

static void impossible_names_are_refused(void **state)
{
	(void)state;
	char longest[65 + 1];
	memset(longest, 'x', sizeof longest);
	longest[65] = 0;
	const char *names[] = {"", "a/b", "a b", "a:b", "\xc3\xa4", longest};
	struct listener *listener;
	struct connection *c;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		assert_int_equal(shm->listen(names[i], &listener), -EINVAL);
		assert_int_equal(shm->connect(names[i], 0, &c), -EINVAL);
	}
	longest[64] = 0;
	assert_int_equal(shm->listen(longest, &listener), 0);
	shm->listener_close(listener);
}

static void only_the_same_user_or_root_is_admitted(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		printf("skip: becoming another user needs root\n");
		skip();
	}
	struct listener *listener;
	struct connection *c;
	assert_int_equal(shm->listen(pair_name(), &listener), 0);
	char name[32];
	strcpy(name, pair_name());
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		char other[40];
		struct listener *ours;
		struct connection *primary;
		REQUIRE(setuid(65534) == 0);
		/* Root is admitted as a standby. */
		REQUIRE(shm->connect(name, LONG_MS, &primary) == 0);
		snprintf(other, sizeof other, "%s-other", name);
		REQUIRE(shm->listen(other, &ours) == 0);
		REQUIRE(write(ready[1], "x", 1) == 1);
		size_t length;
		REQUIRE(shm->recv(primary, message, sizeof message, &length, LONG_MS) ==
			-ECONNRESET);
		_exit(0);
	}
	char byte;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	char other[40];
	snprintf(other, sizeof other, "%s-other", name);
	/* Another user has taken the name: no root's guest is for them. */
	assert_int_equal(shm->connect(other, LONG_MS, &c), -EACCES);
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
	dup2(null, STDERR_FILENO);
	assert_int_equal(shm->accept(listener, &c), -EAGAIN);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	assert_exits_with_0(child);
	close(ready[0]);
	close(ready[1]);
	shm->listener_close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(impossible_names_are_refused),
		TEST(only_the_same_user_or_root_is_admitted),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

/* Storage that lies, is damaged or is not there. */
#include "tests/unit/engine/arbiter_world.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

/* ---- deceitful ---- */

static void a_link_that_was_done_but_reported_as_failed_is_won(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm"), *b = opened("vm");
	link_does = LINK_TWICE;
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	link_does = LINK_SILENT;
	assert_int_equal(arbiter_take(a, 2), ARBITER_WON);
	link_does = LINK_WORKS;
	assert_int_equal(arbiter_take(b, 2), ARBITER_LOST);
	arbiter_close(a);
	arbiter_close(b);
}

static void a_link_that_was_reported_but_not_done_is_not_won(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm");
	link_does = LINK_LIES;
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	assert_non_null(strstr(fail_message(), "vm.gen-1"));
	link_does = LINK_WORKS;
	assert_int_equal(current(a), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	arbiter_close(a);
}

/* What the storage does when a request arrives that was sent long ago. */
static int arrive(const char *name)
{
	char from[256];
	snprintf(from, sizeof from, "%s", path_of("on-its-way"));
	int rc = linkat(AT_FDCWD, from, AT_FDCWD, path_of(name), 0);
	unlink(from);
	return rc;
}

static void a_link_done_after_we_gave_up_is_found_when_asking_again(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm"), *b = opened("vm");
	link_does = LINK_DELAYED;
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	link_does = LINK_WORKS;
	assert_int_equal(arrive("vm.gen-1"), 0);
	assert_int_equal(arbiter_take(b, 1), ARBITER_LOST);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	arbiter_close(a);
	arbiter_close(b);
}

static void a_link_done_too_late_changes_nothing(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm"), *b = opened("vm");
	link_does = LINK_DELAYED;
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	link_does = LINK_WORKS;
	assert_int_equal(arbiter_take(b, 1), ARBITER_WON);
	assert_int_equal(arrive("vm.gen-1"), -1);
	assert_int_equal(arbiter_take(a, 1), ARBITER_LOST);
	assert_int_equal(arbiter_take(b, 1), ARBITER_WON);
	arbiter_close(a);
	arbiter_close(b);
}

static void a_generation_that_a_listing_misses_is_found(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm"), *b = opened("vm");
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(arbiter_take(b, 2), ARBITER_WON);
	missed_name = "vm.gen-2";
	assert_int_equal(current(a), 2);
	assert_int_equal(arbiter_take(a, 1), ARBITER_LOST);
	arbiter_close(a);
	arbiter_close(b);
}

static void what_could_not_be_synced_is_not_won_and_stays_unknown(void **state)
{
	(void)state;
	/* The syncs of one attempt: the temporary file, the generation's file, the directory. */
	for (int i = 0; i < 3; i++) {
		struct arbiter *a = opened("vm");
		uint64_t g = current(a) + 1;
		syncs_until_failure = i;
		assert_int_equal(arbiter_take(a, g), ARBITER_UNKNOWN);
		assert_non_null(strstr(fail_message(), strerror(EIO)));
		assert_int_equal(syncs_until_failure, -1);
		/* What failed before anything was linked can be done again. */
		assert_int_equal(arbiter_take(a, g), i == 0 ? ARBITER_WON : ARBITER_UNKNOWN);
		arbiter_close(a);
	}
	struct arbiter *a = opened("vm");
	assert_int_equal(arbiter_take(a, 3), ARBITER_LOST);
	assert_int_equal(arbiter_take(a, 4), ARBITER_WON);
	arbiter_close(a);
}

static void a_file_cut_short_anywhere_is_neither_won_nor_lost(void **state)
{
	(void)state;
	char line[LINE_SIZE];
	struct arbiter *a = opened("vm"), *b = opened("vm");
	size_t length = write_line(line, a, 1);
	for (size_t i = 0; i < length; i++) {
		put_file("vm.gen-1", line, i);
		assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
		assert_non_null(strstr(fail_message(), "not a whole generation file"));
		assert_int_equal(arbiter_take(b, 1), ARBITER_UNKNOWN);
	}
	put_file("vm.gen-1", line, length);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(arbiter_take(b, 1), ARBITER_LOST);
	arbiter_close(a);
	arbiter_close(b);
}

static void a_file_of_garbage_is_neither_won_nor_lost(void **state)
{
	(void)state;
	char line[LINE_SIZE], other[LINE_SIZE + 16];
	struct arbiter *a = opened("vm"), *b = opened("vm2");
	size_t length = write_line(line, a, 1);

	put_file("vm.gen-1", "nonsense\n", 9);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	memset(other, 0, sizeof other);
	put_file("vm.gen-1", other, length);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	int more = snprintf(other, sizeof other, "%smore\n", line);
	put_file("vm.gen-1", other, (size_t)more);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	put_file("vm.gen-1", line, length + 1); /* with the final NUL */
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	put_file("vm.gen-1", other, write_line(other, a, 2));
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	put_file("vm.gen-1", other, write_line(other, b, 1));
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	line[length - 2] = '\n'; /* a digit of the tag is missing */
	put_file("vm.gen-1", line, length - 1);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	memset(other, 'x', sizeof other);
	put_file("vm.gen-1", other, sizeof other);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	/* It counts as taken all the same. */
	assert_int_equal(current(a), 1);
	assert_int_equal(arbiter_take(a, 2), ARBITER_WON);
	arbiter_close(a);
	arbiter_close(b);
}

static void what_is_no_file_is_neither_won_nor_lost(void **state)
{
	(void)state;
	char line[LINE_SIZE];
	struct arbiter *a = opened("vm");
	put_file("elsewhere", line, write_line(line, a, 1));
	assert_int_equal(symlink("elsewhere", path_of("vm.gen-1")), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	assert_int_equal(unlink(path_of("vm.gen-1")), 0);
	assert_int_equal(mkfifo(path_of("vm.gen-1"), 0600), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	assert_int_equal(unlink(path_of("vm.gen-1")), 0);
	assert_int_equal(mkdir(path_of("vm.gen-1"), 0700), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
	arbiter_close(a);
}

static void a_name_that_no_arbiter_writes_makes_everything_unknown(void **state)
{
	(void)state;
	static const char *names[] = {"vm.gen-", "vm.gen-0", "vm.gen-007",
		"vm.gen-18446744073709551615", "vm.gen-18446744073709551616",
		"vm.gen-99999999999999999999999999"};
	struct arbiter *a = opened("vm");
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		uint64_t generation = 77;
		put_file(names[i], "", 0);
		assert_true(arbiter_current(a, &generation) < 0);
		assert_int_equal(generation, 77);
		assert_int_equal(arbiter_take(a, 1), ARBITER_UNKNOWN);
		assert_non_null(strstr(fail_message(), names[i]));
		assert_int_equal(unlink(path_of(names[i])), 0);
	}
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	arbiter_close(a);
}

/* ---- none ---- */

static void assert_all_unknown(struct arbiter *arbiter, uint64_t generation, const char *reason)
{
	uint64_t found = 77;
	struct arbiter_holder holder;
	assert_int_equal(arbiter_take(arbiter, generation), ARBITER_UNKNOWN);
	assert_non_null(strstr(fail_message(), reason));
	assert_true(arbiter_current(arbiter, &found) < 0);
	assert_int_equal(found, 77);
	assert_int_not_equal(arbiter_holder(arbiter, generation, &holder), 0);
	assert_int_not_equal(arbiter_holder(arbiter, generation, &holder), -ENOENT);
}

static void a_directory_that_is_gone_or_another_one_makes_everything_unknown(void **state)
{
	(void)state;
	char aside[80];
	snprintf(aside, sizeof aside, "%s.aside", dir);
	struct arbiter *a = opened("vm");
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);

	assert_int_equal(rename(dir, aside), 0);
	assert_all_unknown(a, 1, strerror(ENOENT));
	int fd = open(dir, O_WRONLY | O_CREAT, 0644);
	assert_true(fd >= 0);
	close(fd);
	assert_all_unknown(a, 2, strerror(ENOTDIR));
	assert_int_equal(unlink(dir), 0);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_all_unknown(a, 1, "is not the one it was");
	assert_int_equal(names_in_dir(), 0);
	assert_int_equal(rmdir(dir), 0);

	assert_int_equal(rename(aside, dir), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	arbiter_close(a);
}

static void a_directory_removed_and_made_again_is_another_one(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm");
	for (int i = 0; i < 8; i++) { /* inode numbers are used again soon */
		assert_int_equal(rmdir(dir), 0);
		assert_int_equal(mkdir(dir, 0700), 0);
		assert_all_unknown(a, 1, "is not the one it was");
	}
	arbiter_close(a);
}

/* Runs `body` in a child with mounts of its own; skips where that is not allowed. */
static void in_own_mounts(void (*body)(void))
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (unshare(CLONE_NEWNS) < 0 ||
			mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
			mount("none", dir, "tmpfs", 0, "size=64k,nr_inodes=6") < 0)
			_exit(77);
		body();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		printf("skip: mounting needs root\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* In a child an assertion of cmocka's would go unseen. */
#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition,         \
				fail_message());                                                   \
			fflush(stdout);                                                            \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static void use_read_only_storage(void)
{
	struct arbiter *a, *b, *c;
	MUST(arbiter_open(&a, address, "vm") == 0 && arbiter_open(&b, address, "vm") == 0);
	MUST(arbiter_take(a, 1) == ARBITER_WON);
	MUST(mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
	MUST(arbiter_take(b, 2) == ARBITER_UNKNOWN);
	MUST(strstr(fail_message(), strerror(EROFS)));
	MUST(arbiter_take(b, 1) == ARBITER_LOST); /* this can be known without writing */
	MUST(arbiter_open(&c, address, "vm") == -EROFS);
	MUST(mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND, NULL) == 0);
	MUST(arbiter_take(b, 2) == ARBITER_WON);
	arbiter_close(a);
	arbiter_close(b);
}

static void read_only_storage_makes_a_take_unknown(void **state)
{
	(void)state;
	in_own_mounts(use_read_only_storage);
}

static void use_full_storage(void)
{
	struct arbiter *a;
	char name[32];
	int made = 0;
	MUST(arbiter_open(&a, address, "vm") == 0);
	for (;; made++) {
		snprintf(name, sizeof name, "filler-%d", made);
		int fd = open(path_of(name), O_WRONLY | O_CREAT | O_EXCL, 0644);
		if (fd < 0)
			break;
		close(fd);
	}
	MUST(arbiter_take(a, 1) == ARBITER_UNKNOWN);
	MUST(strstr(fail_message(), strerror(ENOSPC)));

	/* Room for the file, none for its bytes. */
	for (int i = 0; i < made; i++) {
		snprintf(name, sizeof name, "filler-%d", i);
		MUST(unlink(path_of(name)) == 0);
	}
	static char bytes[128 * 1024];
	int fd = open(path_of("filler"), O_WRONLY | O_CREAT, 0644);
	MUST(fd >= 0 && write(fd, bytes, sizeof bytes) > 0);
	MUST(arbiter_take(a, 1) == ARBITER_UNKNOWN);
	MUST(strstr(fail_message(), strerror(ENOSPC)));
	MUST(ftruncate(fd, 0) == 0);
	close(fd);
	MUST(names_in_dir() == 1);
	MUST(arbiter_take(a, 1) == ARBITER_WON);
	arbiter_close(a);
}

static void full_storage_makes_a_take_unknown(void **state)
{
	(void)state;
	in_own_mounts(use_full_storage);
}

static void use_storage_mounted_over(void)
{
	struct arbiter *a;
	MUST(arbiter_open(&a, address, "vm") == 0);
	MUST(mount("none", dir, "tmpfs", 0, NULL) == 0);
	MUST(arbiter_take(a, 1) == ARBITER_UNKNOWN);
	MUST(names_in_dir() == 0);
	MUST(umount(dir) == 0);
	MUST(arbiter_take(a, 1) == ARBITER_WON);
	arbiter_close(a);
}

static void storage_mounted_over_makes_a_take_unknown(void **state)
{
	(void)state;
	in_own_mounts(use_storage_mounted_over);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_link_that_was_done_but_reported_as_failed_is_won),
		TEST(a_link_that_was_reported_but_not_done_is_not_won),
		TEST(a_link_done_after_we_gave_up_is_found_when_asking_again),
		TEST(a_link_done_too_late_changes_nothing),
		TEST(a_generation_that_a_listing_misses_is_found),
		TEST(what_could_not_be_synced_is_not_won_and_stays_unknown),
		TEST(a_file_cut_short_anywhere_is_neither_won_nor_lost),
		TEST(a_file_of_garbage_is_neither_won_nor_lost),
		TEST(what_is_no_file_is_neither_won_nor_lost),
		TEST(a_name_that_no_arbiter_writes_makes_everything_unknown),
		TEST(a_directory_that_is_gone_or_another_one_makes_everything_unknown),
		TEST(a_directory_removed_and_made_again_is_another_one),
		TEST(read_only_storage_makes_a_take_unknown),
		TEST(full_storage_makes_a_take_unknown),
		TEST(storage_mounted_over_makes_a_take_unknown),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

/* Includes the file under test, so that the tests can stand at its crash points and between it and
 * the storage: a server that repeats, delays or swallows a request cannot be had otherwise. */
#ifndef CRASH_POINTS
#define CRASH_POINTS
#endif
#include "base/crash_point.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int test_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
static int test_fsync(int fd);
static struct dirent *test_readdir(DIR *listing);
#define linkat test_linkat
#define readdir test_readdir
#define fsync test_fsync
#include "engine/arbiter.c"
#undef linkat
#undef fsync
#undef readdir
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

/* ---- what stands between the arbiter and the storage ---- */

static void (*at_point)(const char *name);

void crash_point_passed(const char *name)
{
	if (at_point)
		at_point(name);
}

static enum {
	LINK_WORKS,
	LINK_REFUSED, /* not done, EPERM */
	LINK_TWICE,   /* done, the repeated request is answered */
	LINK_SILENT,  /* done, answered by EIO */
	LINK_LIES,    /* not done, answered by 0 */
	LINK_DELAYED, /* answered by EIO, done when arrive() is called */
} link_does;

static int test_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	switch (link_does) {
	case LINK_REFUSED:
		errno = EPERM;
		return -1;
	case LINK_TWICE:
		linkat(from_dir, from, to_dir, to, flags);
		break;
	case LINK_SILENT:
		linkat(from_dir, from, to_dir, to, flags);
		errno = EIO;
		return -1;
	case LINK_LIES:
		return 0;
	case LINK_DELAYED:
		linkat(from_dir, from, to_dir, "on-its-way", flags);
		errno = EIO;
		return -1;
	case LINK_WORKS:
		break;
	}
	return linkat(from_dir, from, to_dir, to, flags);
}

static int syncs_until_failure = -1;

static int test_fsync(int fd)
{
	if (syncs_until_failure >= 0 && syncs_until_failure-- == 0) {
		errno = EIO;
		return -1;
	}
	return fsync(fd);
}

/* A listing may miss a name while others change the directory. */
static const char *missed_name;

static struct dirent *test_readdir(DIR *listing)
{
	struct dirent *entry = readdir(listing);
	while (entry && missed_name && strcmp(entry->d_name, missed_name) == 0)
		entry = readdir(listing);
	return entry;
}

/* ---- a directory for each test ---- */

static char dir[64], address[80];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void make_dir(const char *where)
{
	snprintf(dir, sizeof dir, "%s/doppel-arbiter-XXXXXX", where);
	assert_non_null(mkdtemp(dir));
	snprintf(address, sizeof address, "dir:%s", dir);
}

static int set_up(void **state)
{
	(void)state;
	make_dir("/tmp");
	at_point = NULL;
	link_does = LINK_WORKS;
	syncs_until_failure = -1;
	missed_name = NULL;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	at_point = NULL;
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static struct arbiter *opened(const char *vm)
{
	struct arbiter *arbiter = NULL;
	if (arbiter_open(&arbiter, address, vm) < 0)
		fail_msg("%s", fail_message());
	return arbiter;
}

static const char *path_of(const char *name)
{
	static char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static void put_file(const char *name, const char *bytes, size_t length)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, length), length);
	close(fd);
}

/* A line that would make `arbiter` the holder. */
static size_t write_line(char line[LINE_SIZE], const struct arbiter *arbiter, uint64_t generation)
{
	return (size_t)snprintf(line, LINE_SIZE,
		"doppel generation %" PRIu64
		" vm %s host h pid 1 time 2024-05-01T12:00:00Z tag %s\n",
		generation, arbiter->vm, arbiter->tag);
}

static uint64_t current(struct arbiter *arbiter)
{
	uint64_t generation = 0;
	if (arbiter_current(arbiter, &generation) < 0)
		fail_msg("%s", fail_message());
	return generation;
}

static int names_in_dir(void)
{
	int count = 0;
	DIR *listing = opendir(dir);
	assert_non_null(listing);
	for (const struct dirent *entry; (entry = readdir(listing));)
		count += entry->d_name[0] != '.';
	closedir(listing);
	return count;
}

/* ---- the ordinary course ---- */

static void generations_change_hands_one_by_one(void **state)
{
	(void)state;
	struct arbiter *a = opened("ledger"), *b = opened("ledger");
	assert_int_equal(current(a), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(current(b), 1);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(arbiter_take(b, 1), ARBITER_LOST);
	assert_non_null(strstr(fail_message(), "generation 1 of VM ledger is held by host "));
	assert_int_equal(arbiter_take(b, 2), ARBITER_WON);
	assert_int_equal(arbiter_take(a, 1), ARBITER_LOST);
	assert_non_null(strstr(fail_message(), "generation 2 exists"));
	assert_int_equal(arbiter_take(a, 2), ARBITER_LOST);
	assert_int_equal(current(a), 2);
	arbiter_close(a);
	arbiter_close(b);
	assert_int_equal(names_in_dir(), 2);
}

static void a_process_started_again_does_not_hold_what_it_held(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm");
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	arbiter_close(a);
	a = opened("vm");
	assert_int_equal(arbiter_take(a, 1), ARBITER_LOST);
	assert_int_equal(arbiter_take(a, 2), ARBITER_WON);
	arbiter_close(a);
}

static void nobody_takes_a_generation_below_one_that_exists(void **state)
{
	(void)state;
	char line[LINE_SIZE];
	struct arbiter *a = opened("vm"), *b = opened("vm");
	put_file("vm.gen-12", line, write_line(line, b, 12));
	assert_int_equal(current(a), 12);
	assert_int_equal(arbiter_take(a, 1), ARBITER_LOST);
	assert_int_equal(arbiter_take(a, 11), ARBITER_LOST);
	assert_int_equal(names_in_dir(), 1);
	assert_int_equal(arbiter_take(a, 13), ARBITER_WON);
	arbiter_close(a);
	arbiter_close(b);
}

static void virtual_machines_do_not_disturb_one_another(void **state)
{
	(void)state;
	struct arbiter *a = opened("a"), *b = opened("a.gen-1"), *c = opened("a.gen-x");
	assert_int_equal(arbiter_take(b, 1), ARBITER_WON);
	assert_int_equal(arbiter_take(b, 2), ARBITER_WON);
	assert_int_equal(arbiter_take(c, 1), ARBITER_WON);
	assert_int_equal(current(a), 0);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(current(a), 1);
	assert_int_equal(current(b), 2);
	arbiter_close(a);
	arbiter_close(b);
	arbiter_close(c);
}

static void both_sides_see_the_same_holder(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm"), *b = opened("vm");
	struct arbiter_holder seen_by_a, seen_by_b;
	assert_int_equal(arbiter_holder(b, 1, &seen_by_b), -ENOENT);
	assert_int_equal(arbiter_take(a, 1), ARBITER_WON);
	assert_int_equal(arbiter_holder(a, 1, &seen_by_a), 0);
	assert_int_equal(arbiter_holder(b, 1, &seen_by_b), 0);
	assert_string_equal(seen_by_a.tag, seen_by_b.tag);
	assert_string_equal(seen_by_b.tag, a->tag);
	assert_int_equal(seen_by_b.pid, getpid());
	assert_string_equal(seen_by_b.host, a->host);
	arbiter_close(a);
	arbiter_close(b);
}

static void generation_numbers_have_bounds(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm");
	assert_int_equal(arbiter_take(a, 0), ARBITER_UNKNOWN);
	assert_int_equal(arbiter_take(a, UINT64_MAX), ARBITER_UNKNOWN);
	assert_int_equal(arbiter_take(a, UINT64_MAX - 1), ARBITER_UNKNOWN);
	assert_int_equal(arbiter_take(a, UINT64_MAX - 2), ARBITER_WON);
	assert_true(current(a) == UINT64_MAX - 2);
	arbiter_close(a);
}

/* ---- races ---- */

#define RACERS_MAX 8
#define RACES 1000

struct race {
	pthread_barrier_t start, end;
	uint8_t first[RACES][RACERS_MAX], again[RACES][RACERS_MAX];
};

static _Noreturn void run_racer(struct race *race, int me)
{
	struct arbiter *arbiter;
	if (arbiter_open(&arbiter, address, "vm") < 0)
		_exit(1);
	for (uint64_t i = 0; i < RACES; i++) {
		pthread_barrier_wait(&race->start);
		race->first[i][me] = (uint8_t)arbiter_take(arbiter, i + 1);
		pthread_barrier_wait(&race->end);
		race->again[i][me] = (uint8_t)arbiter_take(arbiter, i + 1);
	}
	arbiter_close(arbiter);
	_exit(0);
}

static void run_races(int racers)
{
	/* On memory where there is some: a disk's syncs would take most of the time. */
	if (access("/dev/shm", W_OK) == 0) {
		nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		make_dir("/dev/shm");
	}
	struct race *race =
		mmap(NULL, sizeof *race, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(race != MAP_FAILED);
	pthread_barrierattr_t shared;
	pthread_barrierattr_init(&shared);
	pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&race->start, &shared, (unsigned)racers);
	pthread_barrier_init(&race->end, &shared, (unsigned)racers);

	pid_t children[RACERS_MAX];
	for (int i = 0; i < racers; i++) {
		children[i] = fork();
		assert_true(children[i] >= 0);
		if (children[i] == 0)
			run_racer(race, i);
	}
	for (int i = 0; i < racers; i++) {
		int status;
		assert_int_equal(waitpid(children[i], &status, 0), children[i]);
		assert_int_equal(status, 0);
	}
	for (int i = 0; i < RACES; i++) {
		int won = 0, lost = 0;
		for (int j = 0; j < racers; j++) {
			won += race->first[i][j] == ARBITER_WON;
			lost += race->first[i][j] == ARBITER_LOST;
			assert_int_equal(race->again[i][j], race->first[i][j]);
		}
		assert_int_equal(won, 1);
		assert_int_equal(lost, racers - 1);
	}
	assert_int_equal(names_in_dir(), RACES);
	munmap(race, sizeof *race);
}

static void one_of_two_processes_wins_each_race(void **state)
{
	(void)state;
	run_races(2);
}

static void one_of_eight_processes_wins_each_race(void **state)
{
	(void)state;
	run_races(8);
}

static struct arbiter *rival;
static const char *rival_point;
static uint64_t rival_wants;
static enum arbiter_verdict rival_verdict;

static void let_rival_try(const char *name)
{
	if (rival && strcmp(name, rival_point) == 0) {
		struct arbiter *r = rival;
		rival = NULL; /* it passes the points, too */
		rival_verdict = arbiter_take(r, rival_wants);
	}
}

static void a_rival_at_any_step_leaves_one_holder(void **state)
{
	(void)state;
	static const char *points[] = {"arbiter.before", "arbiter.linked", "arbiter.won"};
	uint64_t g = 1;
	at_point = let_rival_try;
	for (unsigned i = 0; i < 3; i++) {
		for (uint64_t ahead = 0; ahead < 2; ahead++, g += 2) {
			struct arbiter *a = opened("vm"), *b = opened("vm");
			rival = b;
			rival_point = points[i];
			rival_wants = g + ahead;
			enum arbiter_verdict verdict = arbiter_take(a, g);
			assert_null(rival);
			assert_int_equal(
				rival_verdict, ahead || i == 0 ? ARBITER_WON : ARBITER_LOST);
			/* "won" is behind us: whoever takes the next one then deposes us a moment
			 * later. */
			assert_int_equal(
				verdict, i == 2 || (i == 1 && !ahead) ? ARBITER_WON : ARBITER_LOST);
			assert_int_equal(
				arbiter_take(a, g), ahead || i == 0 ? ARBITER_LOST : ARBITER_WON);
			assert_int_equal(arbiter_take(b, g + ahead), rival_verdict);
			arbiter_close(a);
			arbiter_close(b);
		}
	}
}

/* ---- deaths ---- */

static const char *last_words;

static void die(const char *name)
{
	if (strcmp(name, last_words) == 0)
		kill(getpid(), SIGKILL);
}

/* A process dies while it takes generation 1; what its peer then gets for 1. */
static enum arbiter_verdict after_a_death_at(const char *point)
{
	last_words = point;
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		at_point = die;
		struct arbiter *a;
		_exit(arbiter_open(&a, address, "vm") < 0 || arbiter_take(a, 1) != ARBITER_WON);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

	struct arbiter *b = opened("vm");
	enum arbiter_verdict verdict = arbiter_take(b, 1);
	assert_int_equal(arbiter_take(b, 1), verdict);
	assert_int_equal(arbiter_take(b, 2), ARBITER_WON);
	assert_int_equal(current(b), 2);
	arbiter_close(b);
	return verdict;
}

static void who_dies_before_the_link_leaves_the_generation_free(void **state)
{
	(void)state;
	assert_int_equal(after_a_death_at("arbiter.before"), ARBITER_WON);
}

static void who_dies_after_the_link_keeps_the_generation_for_ever(void **state)
{
	(void)state;
	assert_int_equal(after_a_death_at("arbiter.linked"), ARBITER_LOST);
}

static void who_dies_having_won_keeps_the_generation_for_ever(void **state)
{
	(void)state;
	assert_int_equal(after_a_death_at("arbiter.won"), ARBITER_LOST);
}

static void what_the_dead_left_is_removed_after_a_day_and_nothing_else(void **state)
{
	(void)state;
	static const char *names[] = {
		"vm.tmp-0123456789abcdef0123456789abcdef", /* the only one to go, with the next */
		"vm.tmp-0123456789abcdef0123456789abcdef.link",
		"vm.tmp-0123456789abcdef0123456789abcdee", /* too young */
		"vm.tmp-0123456789abcdef0123456789abcde",
		"vm.tmp-0123456789abcdef0123456789abcdef.gen-1",
		"vm.tmp-letter-of-one-person-to-another.",
		"other.tmp-0123456789abcdef0123456789abcdef",
		"vm.gen-1",
		"notes",
	};
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct timespec then[2] = {
			{.tv_sec = time(NULL) - 25 * 3600}, {.tv_sec = time(NULL) - 25 * 3600}};
		put_file(names[i], "", 0);
		if (i != 2)
			assert_int_equal(utimensat(AT_FDCWD, path_of(names[i]), then, 0), 0);
	}
	struct arbiter *a = opened("vm");
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_int_equal(access(path_of(names[i]), F_OK), i < 2 ? -1 : 0);
	arbiter_close(a);
}

/* ---- deceitful storage ---- */

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

/* ---- no storage ---- */

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

/* ---- misuse ---- */

static void what_cannot_be_an_arbiter_is_refused_with_a_reason(void **state)
{
	(void)state;
	struct arbiter *a;
	char text[128];
	char long_name[ARBITER_NAME_MAX + 2];

	assert_int_equal(arbiter_open(&a, "etcd:host", "vm"), -EINVAL);
	assert_non_null(strstr(fail_message(), "unknown arbiter \"etcd:host\""));
	assert_int_equal(arbiter_open(&a, "dir:", "vm"), -EINVAL);
	assert_int_equal(arbiter_open(&a, dir, "vm"), -EINVAL);
	snprintf(text, sizeof text, "dir:%s/missing", dir);
	assert_int_equal(arbiter_open(&a, text, "vm"), -ENOENT);
	assert_non_null(strstr(fail_message(), strerror(ENOENT)));
	put_file("file", "", 0);
	snprintf(text, sizeof text, "dir:%s/file", dir);
	assert_int_equal(arbiter_open(&a, text, "vm"), -ENOTDIR);
	link_does = LINK_REFUSED;
	assert_int_equal(arbiter_open(&a, address, "vm"), -EPERM);
	assert_non_null(strstr(fail_message(), "hard link"));
	link_does = LINK_WORKS;
	assert_int_equal(names_in_dir(), 1);

	assert_int_equal(arbiter_open(&a, address, ""), -EINVAL);
	assert_int_equal(arbiter_open(&a, address, "a/b"), -EINVAL);
	assert_int_equal(arbiter_open(&a, address, "a b"), -EINVAL);
	assert_int_equal(arbiter_check_name(NULL), -EINVAL);
	memset(long_name, 'x', sizeof long_name);
	long_name[ARBITER_NAME_MAX + 1] = '\0';
	assert_int_equal(arbiter_open(&a, address, long_name), -EINVAL);
	long_name[ARBITER_NAME_MAX] = '\0';
	a = opened(long_name);
	assert_int_equal(arbiter_take(a, UINT64_MAX - 2), ARBITER_WON);
	arbiter_close(a);
	assert_int_equal(arbiter_check_name("A-z.0_9"), 0);
}

static void a_forked_child_cannot_use_its_parents_tag(void **state)
{
	(void)state;
	struct arbiter *a = opened("vm");
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		_exit((int)arbiter_take(a, 1));
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_int_equal(current(a), 0);
	arbiter_close(a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(generations_change_hands_one_by_one),
		TEST(a_process_started_again_does_not_hold_what_it_held),
		TEST(nobody_takes_a_generation_below_one_that_exists),
		TEST(virtual_machines_do_not_disturb_one_another),
		TEST(both_sides_see_the_same_holder),
		TEST(generation_numbers_have_bounds),
		TEST(one_of_two_processes_wins_each_race),
		TEST(one_of_eight_processes_wins_each_race),
		TEST(a_rival_at_any_step_leaves_one_holder),
		TEST(who_dies_before_the_link_leaves_the_generation_free),
		TEST(who_dies_after_the_link_keeps_the_generation_for_ever),
		TEST(who_dies_having_won_keeps_the_generation_for_ever),
		TEST(what_the_dead_left_is_removed_after_a_day_and_nothing_else),
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
		TEST(what_cannot_be_an_arbiter_is_refused_with_a_reason),
		TEST(a_forked_child_cannot_use_its_parents_tag),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/unit/engine/arbiter_world.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

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
		TEST(what_cannot_be_an_arbiter_is_refused_with_a_reason),
		TEST(a_forked_child_cannot_use_its_parents_tag),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "support.h"

#include "transport/durable.h"
#include "transport/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define SECRET 0x99u
#define PAGE 4096u
#define SIZE ((uint64_t)DURABLE_AREA_MIN + 16 * PAGE)
#define BATCHES 4u

static char folder[64], path[128], new_path[128];
static uint8_t memory[4 * PAGE] = {1};
static struct recording_origin origin = {
	.vm = "ledger", .secret = SECRET, .memory = memory, .memory_size = sizeof memory};

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/doppel-test-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof path, "%s/log", folder);
	snprintf(new_path, sizeof new_path, "%s/log.new", folder);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(path);
	unlink(new_path);
	return rmdir(folder);
}

static bool exists(const char *name)
{
	return access(name, F_OK) == 0;
}

/* Appends CLOCK entries, one more in each batch, and persists them. */
static void append_batch(struct durable *durable, unsigned batch)
{
	uint8_t bytes[BATCHES * 48];
	uint64_t length = 0;
	for (uint64_t i = 0; i <= batch; i++, length += log_entry_size(8))
		log_encode(bytes + length, SECRET, durable_next(durable) + length, LOG_CLOCK, batch,
			0, &i, 8);
	REQUIRE(durable_append(durable, bytes, length) == 0);
	REQUIRE(durable_persist(durable) == 0);
}

static void make_log(const char *vm, uint64_t size)
{
	struct log_file *file;
	struct durable *durable;
	origin.vm = vm;
	assert_int_equal(log_file_make(&file, path, size, vm), 0);
	assert_int_equal(durable_create(&durable, file, DURABLE_KEEP_ALL, &origin), 0);
	for (unsigned i = 0; i < BATCHES; i++)
		append_batch(durable, i);
	durable_close(durable);
	origin.vm = "ledger";
}

static uint64_t end_of_log(void)
{
	bool is_dropped;
	return end_of_recording(path, &is_dropped);
}

static void a_log_is_made_where_nothing_is(void **state)
{
	(void)state;
	assert_int_equal(log_file_check(path, SIZE, "ledger"), 0);
	assert_false(exists(path));
	make_log("ledger", SIZE);
	assert_int_equal(end_of_log(), 48 * (1 + 2 + 3 + 4));
	assert_false(exists(new_path));
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, SIZE);
	assert_true((uint64_t)st.st_blocks * 512 >= SIZE);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void the_old_log_stays_until_the_new_one_is_persistent(void **state)
{
	(void)state;
	struct log_file *file;
	struct durable *durable;
	make_log("ledger", SIZE);
	assert_int_equal(log_file_make(&file, path, SIZE, "ledger"), 0);
	assert_int_equal(durable_create(&durable, file, DURABLE_KEEP_ALL, &origin), 0);
	assert_int_equal(end_of_log(), 480);
	durable_close(durable);
	assert_false(exists(new_path));
	assert_int_equal(end_of_log(), 480);

	assert_int_equal(log_file_make(&file, path, SIZE, "ledger"), 0);
	assert_int_equal(durable_create(&durable, file, DURABLE_KEEP_ALL, &origin), 0);
	append_batch(durable, 0);
	assert_int_equal(end_of_log(), 48);
	durable_close(durable);
	assert_int_equal(end_of_log(), 48);
}

static void what_a_dead_process_left_is_removed(void **state)
{
	(void)state;
	int fd = open(new_path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
	make_log("ledger", SIZE);
	assert_int_equal(end_of_log(), 480);
}

static void assert_refused(uint64_t size, const char *vm, int error, const char *why)
{
	struct log_file *file;
	assert_int_equal(log_file_check(path, size, vm), error);
	assert_int_equal(log_file_make(&file, path, size, vm), error);
	assert_non_null(strstr(fail_message(), why));
	assert_non_null(strstr(fail_message(), path));
	assert_null(strchr(fail_message(), '\n'));
	assert_false(exists(new_path));
}

static void a_log_of_another_size_is_refused(void **state)
{
	(void)state;
	make_log("ledger", SIZE);
	assert_refused(2 * SIZE, "ledger", -EINVAL, "--log-size");
	assert_int_equal(end_of_log(), 480);
}

static void a_log_of_another_vm_is_refused(void **state)
{
	(void)state;
	make_log("ledger", SIZE);
	assert_refused(SIZE, "hammer", -EINVAL, "of VM ledger, not hammer");
	assert_refused(SIZE, "ledge", -EINVAL, "of VM ledger, not ledge");
	assert_int_equal(end_of_log(), 480);
}

static void what_is_no_log_is_refused(void **state)
{
	(void)state;
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	assert_refused(SIZE, "ledger", -EINVAL, "empty");
	assert_int_equal(ftruncate(fd, (off_t)SIZE), 0);
	assert_refused(SIZE, "ledger", -EINVAL, "not a recording");
	close(fd);
	assert_int_equal(unlink(path), 0);
	struct recording *recording;
	assert_int_equal(recording_create(&recording, path, &origin), 0);
	assert_int_equal(recording_close(recording), 0);
	assert_refused(SIZE, "ledger", -EINVAL, "not a standby's log");
}

static void a_log_that_another_writes_is_refused(void **state)
{
	(void)state;
	struct log_file *file;
	struct durable *durable;
	assert_int_equal(log_file_make(&file, path, SIZE, "ledger"), 0);
	struct log_file *second;
	assert_int_equal(log_file_make(&second, path, SIZE, "ledger"), -EBUSY);
	assert_true(exists(new_path));
	assert_int_equal(durable_create(&durable, file, DURABLE_KEEP_ALL, &origin), 0);
	append_batch(durable, 0);
	assert_refused(SIZE, "ledger", -EBUSY, "another process");
	append_batch(durable, 1);
	durable_close(durable);
	assert_int_equal(end_of_log(), 48 * 3);
	assert_int_equal(log_file_check(path, SIZE, "ledger"), 0);
}

static void a_full_disk_is_noticed_before_anything_is_written(void **state)
{
	(void)state;
	struct log_file *file;
	assert_int_equal(log_file_check("/nonexistent/log", SIZE, "ledger"), -ENOENT);
	assert_non_null(strstr(fail_message(), "/nonexistent"));
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		/* What a regular file can run into without a disk of its own. */
		signal(SIGXFSZ, SIG_IGN);
		REQUIRE(setrlimit(RLIMIT_FSIZE, &(struct rlimit){SIZE / 2, SIZE / 2}) == 0);
		REQUIRE(log_file_make(&file, path, SIZE, "ledger") == -EFBIG);
		REQUIRE(strstr(fail_message(), "--log-size"));
		REQUIRE(!exists(new_path) && !exists(path));
		_exit(0);
	}
	assert_exits_with_0(child);
}

/* ---- Storage that fails below the mapping ---- */

/* As when the disk does not give a page: SIGBUS where it is touched. */
static void write_where_nothing_is(bool on_pmem)
{
	struct log_file *file;
	if (on_pmem)
		setenv("PMEM_IS_PMEM_FORCE", "1", 1);
	REQUIRE(log_file_make(&file, path, SIZE, "ledger") == 0);
	REQUIRE(file->kind->copy(file, PAGE - 4, "before", 7) == 0);
	REQUIRE(truncate(new_path, PAGE) == 0);
	for (int i = 0; i < 2; i++) {
		REQUIRE(file->kind->copy(file, PAGE - 4, "behind", 7) == -EIO);
		REQUIRE(strstr(fail_message(), path) && strstr(fail_message(), "storage"));
	}
	REQUIRE(file->kind->copy(file, 0, "before", 7) == 0);
	file->kind->close(file);
}

static void storage_that_fails_is_an_error_and_no_death(void **state)
{
	(void)state;
	for (int on_pmem = 0; on_pmem < 2; on_pmem++) {
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			write_where_nothing_is(on_pmem);
			_exit(0);
		}
		assert_exits_with_0(child);
	}
}

static void touch_where_nothing_is(void *argument)
{
	struct log_file *file;
	(void)argument;
	REQUIRE(log_file_make(&file, path, SIZE, "ledger") == 0);
	FILE *other = tmpfile();
	REQUIRE(other);
	volatile char *map = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fileno(other), 0);
	REQUIRE(map != MAP_FAILED);
	_exit(map[0]);
}

static void elsewhere_it_is_a_death_as_ever(void **state)
{
	(void)state;
	int status = status_in_child(touch_where_nothing_is, NULL);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* ---- kill -9 at every step ---- */

static const struct log_file_kind *real;
static struct log_file_kind deadly;
static long steps_left;

static void step(void)
{
	if (--steps_left == 0)
		kill(getpid(), SIGKILL);
}

static int deadly_copy(struct log_file *file, uint64_t at, const void *from, size_t length)
{
	/* Half of it at first. */
	int error = real->copy(file, at, from, length / 2);
	step();
	if (!error)
		error = real->copy(file, at + length / 2, (const uint8_t *)from + length / 2,
			length - length / 2);
	step();
	return error;
}

static int deadly_settle(struct log_file *file, uint64_t at, uint64_t length)
{
	int error = real->settle(file, at, length);
	step();
	return error;
}

static int deadly_publish(struct log_file *file)
{
	step();
	int error = real->publish(file);
	step();
	return error;
}

/* Writes a log in a process of its own, until it is killed. It says what is durable in the file
 * `reported`, which outlives it, as the page cache does. */
static int write_and_die(const char *log, const char *reported, long steps)
{
	int fd = open(reported, O_RDWR);
	_Atomic uint64_t *durable_to = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct log_file *file;
	struct durable *durable;
	REQUIRE(durable_to != MAP_FAILED && log_file_make(&file, log, SIZE, "ledger") == 0);
	real = file->kind;
	deadly = *real;
	deadly.copy = deadly_copy;
	deadly.settle = deadly_settle;
	deadly.publish = deadly_publish;
	file->kind = &deadly;
	steps_left = steps;
	REQUIRE((getenv("PMEM_IS_PMEM_FORCE") != NULL) == !strcmp(real->name, "persistent memory"));
	REQUIRE(durable_create(&durable, file, DURABLE_KEEP_ALL, &origin) == 0);
	REQUIRE(durable_persist(durable) == 0);
	for (unsigned i = 0; i < BATCHES; i++) {
		append_batch(durable, i);
		atomic_store(durable_to, durable_next(durable));
	}
	durable_close(durable);
	return 0;
}

/* Whether the process came to its end before so many steps. */
static bool killed_at(long steps, bool on_pmem, uint64_t *reached)
{
	char reported[128], number[32];
	snprintf(reported, sizeof reported, "%s/reported", folder);
	snprintf(number, sizeof number, "%ld", steps);
	int fd = open(reported, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (on_pmem)
			setenv("PMEM_IS_PMEM_FORCE", "1", 1);
		execl("/proc/self/exe", "test_log_file", path, reported, number, NULL);
		_exit(98);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	assert_true(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
	assert_int_equal(pread(fd, reached, 8, 0), 8);
	close(fd);
	unlink(reported);
	return killed;
}

static void what_was_durable_survives_a_kill_at_any_step(void **state)
{
	(void)state;
	unsigned kills = 0;
	for (int on_pmem = 0; on_pmem < 2; on_pmem++) {
		for (long steps = 1;; steps++) {
			uint64_t durable_to = 0;
			bool killed = killed_at(steps, on_pmem, &durable_to);
			if (exists(path))
				assert_true(end_of_log() >= durable_to);
			else
				assert_true(killed && durable_to == 0);
			if (!killed) {
				assert_int_equal(end_of_log(), 480);
				break;
			}
			kills++;
			unlink(path);
			unlink(new_path);
		}
		unlink(path);
	}
	assert_true(kills > 2 * 6 * BATCHES);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_log_is_made_where_nothing_is, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			the_old_log_stays_until_the_new_one_is_persistent, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			what_a_dead_process_left_is_removed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_log_of_another_size_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_log_of_another_vm_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_no_log_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_log_that_another_writes_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_full_disk_is_noticed_before_anything_is_written, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			storage_that_fails_is_an_error_and_no_death, set_up, tear_down),
		cmocka_unit_test_setup_teardown(elsewhere_it_is_a_death_as_ever, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			what_was_durable_survives_a_kill_at_any_step, set_up, tear_down),
	};
	if (argc == 4)
		return write_and_die(argv[1], argv[2], strtol(argv[3], NULL, 10));
	return !!cmocka_run_group_tests(tests, remember_fds, compare_fds);
}

#include "tests/unit/transport/support.h"

#include "engine/durable_thread.h"

#include <errno.h>

#define SECRET 0x4242u
#define RING (1u << 22)
#define PAGE 4096u
#define SIZE ((uint64_t)DURABLE_AREA_MIN + 4 * PAGE)

static char folder[64], path[128];
static uint8_t *ring;
static uint8_t memory[4 * PAGE];
static uint64_t encoded; /* LSN behind the last entry in the ring */

static struct bell progress;
static _Atomic bool copied;

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/doppel-test-XXXXXX");
	ring = calloc(1, RING);
	encoded = 0;
	atomic_store(&copied, false);
	snprintf(path, sizeof path, "%s/log", ring && mkdtemp(folder) ? folder : "/nonexistent");
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(ring);
	unlink(path);
	return rmdir(folder);
}

static void on_copied(void *context)
{
	assert_ptr_equal(context, memory);
	atomic_store(&copied, true);
}

static struct durable_thread *new_thread(enum durable_keep keep)
{
	struct durable_thread *log = calloc(1, sizeof *log);
	assert_int_equal(log_file_make(&log->file, path, SIZE, "vm"), 0);
	log->keep = keep;
	log->origin = (struct recording_origin){.vm = "vm",
		.secret = SECRET,
		.state = calloc(1, 8),
		.state_size = 8,
		.memory = memory,
		.memory_size = sizeof memory};
	log->ring = ring;
	log->ring_size = RING;
	log->progress = &progress;
	log->copied = on_copied;
	log->context = memory;
	return log;
}

static void encode(uint32_t length, unsigned count)
{
	static uint8_t payload[LOG_PAYLOAD_MAX];
	while (count-- > 0) {
		assert_true(encoded + log_entry_size(length) <= RING);
		log_encode(ring + encoded, SECRET, encoded, LOG_NET_RX, 0, 0, payload, length);
		encoded += log_entry_size(length);
	}
}

/* Waits as the receiver does: for the bell that rings when `done` grows. */
static void wait_done(struct durable_thread *log, uint64_t lsn)
{
	for (;;) {
		uint32_t seen = atomic_load(&progress.rung);
		if (durable_thread_done(log) >= lsn)
			return;
		bell_sleep(&progress, seen, 1000000000);
	}
}

static uint64_t end_of_log(bool *is_dropped)
{
	return end_of_recording(path, is_dropped);
}

static void what_was_received_becomes_durable(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	assert_int_equal(durable_thread_start(log), 0);
	for (unsigned i = 1; i < 20; i++) {
		encode(200, i);
		durable_thread_extend(log, encoded);
		wait_done(log, encoded);
		assert_true(atomic_load(&copied));
		assert_int_equal(atomic_load(&log->durable), encoded);
		assert_int_equal(end_of_log(&is_dropped), encoded);
	}
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), encoded);
	assert_false(is_dropped);
}

static void the_rest_is_written_before_the_thread_ends(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	assert_int_equal(durable_thread_start(log), 0);
	encode(1000, 100);
	durable_thread_extend(log, encoded);
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), encoded);
}

static void a_full_log_stays_and_holds_nobody_up(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	assert_int_equal(durable_thread_start(log), 0);
	encode(60000, 50);
	durable_thread_extend(log, encoded);
	wait_done(log, UINT64_MAX);
	assert_true(atomic_load(&log->failed));
	uint64_t durable = atomic_load(&log->durable);
	assert_true(durable > DURABLE_AREA_MIN - 70000 && durable < encoded);
	encode(100, 1);
	durable_thread_extend(log, encoded);
	assert_int_equal(durable_thread_done(log), UINT64_MAX);
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), durable);
	assert_false(is_dropped);
}

static void a_log_that_keeps_the_newest_goes_on(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_NEWEST);
	assert_int_equal(durable_thread_start(log), 0);
	for (unsigned i = 0; i < 10; i++) {
		encode(60000, 5);
		durable_thread_extend(log, encoded);
	}
	wait_done(log, encoded);
	assert_false(atomic_load(&log->failed));
	assert_true(atomic_load(&log->begin) > 0);
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), encoded);
	assert_true(is_dropped);
}

static void a_log_that_has_no_room_for_the_first_state_fails_and_lets_the_guest_run(void **state)
{
	(void)state;
	memset(memory, 1, sizeof memory);
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	assert_int_equal(durable_thread_start(log), 0);
	wait_done(log, UINT64_MAX);
	assert_true(atomic_load(&copied));
	assert_int_equal(atomic_load(&log->durable), 0);
	durable_thread_stop(log);
	memset(memory, 0, sizeof memory);
	assert_int_equal(access(path, F_OK), -1);
}

static void an_entry_that_changes_after_it_was_received_is_not_logged(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	encode(200, 2);
	uint64_t good = encoded;
	encode(200, 1);
	ring[good + 100] ^= 1;
	assert_int_equal(durable_thread_start(log), 0);
	durable_thread_extend(log, encoded);
	wait_done(log, UINT64_MAX);
	assert_int_equal(atomic_load(&log->durable), good);
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), good);
}

static void a_primary_that_writes_over_what_was_not_logged_ends_the_log_alone(void **state)
{
	(void)state;
	bool is_dropped;
	struct durable_thread *log = new_thread(DURABLE_KEEP_ALL);
	assert_int_equal(durable_thread_start(log), 0);
	encode(200, 1);
	uint64_t good = encoded;
	durable_thread_extend(log, good);
	wait_done(log, good);
	durable_thread_extend(log, good + RING + 8);
	wait_done(log, UINT64_MAX);
	assert_int_equal(atomic_load(&log->durable), good);
	durable_thread_stop(log);
	assert_int_equal(end_of_log(&is_dropped), good);
}

static void a_thread_that_never_began_leaves_nothing(void **state)
{
	(void)state;
	durable_thread_stop(new_thread(DURABLE_KEEP_ALL));
	durable_thread_stop(NULL);
	assert_int_equal(access(path, F_OK), -1);
}

#define with_folder(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		with_folder(what_was_received_becomes_durable),
		with_folder(the_rest_is_written_before_the_thread_ends),
		with_folder(a_full_log_stays_and_holds_nobody_up),
		with_folder(a_log_that_keeps_the_newest_goes_on),
		with_folder(
			a_log_that_has_no_room_for_the_first_state_fails_and_lets_the_guest_run),
		with_folder(an_entry_that_changes_after_it_was_received_is_not_logged),
		with_folder(a_primary_that_writes_over_what_was_not_logged_ends_the_log_alone),
		with_folder(a_thread_that_never_began_leaves_nothing),
	};
	return !!cmocka_run_group_tests(tests, remember_fds, compare_fds);
}

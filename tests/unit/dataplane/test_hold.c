#include "dataplane/hold.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define SIZE 4096u
#define OVERHEAD 31u /* what one output can cost beside its bytes, at most */
#define SESSIONS 32u

/* A device that notes what it gets, and the acks that the hold is told. */
struct world {
	uint64_t acked[SESSIONS];
	unsigned asked[SESSIONS];
	unsigned takes; /* at most so many in a call */
	unsigned calls;
	unsigned count;
	size_t length[4096];
	uint32_t first[4096]; /* the first 4 bytes of each */
	const void *where;    /* of the last one offered */
};

static struct hold *hold;
static struct world world;

static uint64_t acked(void *context, uint32_t session)
{
	struct world *w = context;
	w->asked[session]++;
	return w->acked[session];
}

static unsigned take(void *context, const struct hold_output *outputs, unsigned count)
{
	struct world *w = context;
	w->calls++;
	unsigned n = count < w->takes ? count : w->takes;
	for (unsigned i = 0; i < n; i++) {
		w->length[w->count] = outputs[i].length;
		memcpy(&w->first[w->count], outputs[i].bytes, 4);
		w->count++;
	}
	w->where = outputs[0].bytes;
	return n;
}

static size_t release(void)
{
	return hold_release(hold, acked, take, &world);
}

static void put(uint32_t number)
{
	hold_put(hold, &number, sizeof number);
}

static void output(uint32_t number, uint32_t session, uint64_t lsn)
{
	put(number);
	hold_seal(hold, session, lsn);
}

static int make(void **state)
{
	(void)state;
	memset(&world, 0, sizeof world);
	world.takes = UINT32_MAX;
	return hold_create(&hold, SIZE);
}

static int unmake(void **state)
{
	(void)state;
	hold_destroy(hold);
	return 0;
}

/* Runs `function` in a child, which must end by SIGABRT. */
static void assert_aborts(void (*function)(void))
{
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGABRT, SIG_DFL);
		fclose(stderr);
		function();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void outputs_leave_in_the_order_in_which_they_came(void **state)
{
	(void)state;
	uint32_t given = 0;
	for (unsigned lap = 0; lap < 50; lap++) { /* several times around the ring */
		for (unsigned i = 0; i < 70; i++, given++)
			output(given, 3, given + 1);
		world.acked[3] = given;
		assert_int_equal(hold_waiting(hold), 70);
		assert_int_equal(hold_waiting_bytes(hold), 70 * 4);
		assert_int_equal(release(), 70);
		assert_int_equal(hold_waiting(hold), 0);
		assert_int_equal(hold_waiting_bytes(hold), 0);
	}
	assert_int_equal(world.count, given);
	for (uint32_t i = 0; i < given; i++)
		assert_int_equal(world.first[i], i);
}

static void nothing_leaves_before_the_ack_has_reached_its_end(void **state)
{
	(void)state;
	/* LSNs 100, 200, ... 1,000; the ack moves by one byte at a time. */
	for (uint32_t i = 1; i <= 10; i++)
		output(i, 3, 100 * i);
	for (uint64_t ack = 0; ack <= 1050; ack++) {
		world.acked[3] = ack;
		release();
		assert_int_equal(world.count, ack / 100 < 10 ? ack / 100 : 10);
		assert_int_equal(hold_released(hold, 3), ack / 100 < 10 ? ack / 100 * 100 : 1000);
	}
}

static void what_is_not_sealed_cannot_leave(void **state)
{
	(void)state;
	world.acked[3] = UINT64_MAX;
	put(1);
	put(2);
	assert_int_equal(release(), 0);
	assert_int_equal(hold_waiting(hold), 0);
	hold_decide(hold, SESSION_ALONE);
	assert_int_equal(release(), 0);
	hold_seal(hold, 3, 10);
	assert_int_equal(release(), 2);
}

static void a_seal_without_outputs_is_nothing(void **state)
{
	(void)state;
	hold_seal(hold, 3, 10);
	assert_int_equal(hold_waiting(hold), 0);
	world.acked[3] = 10;
	assert_int_equal(release(), 0);
	assert_int_equal(world.calls, 0);
	assert_int_equal(hold_released(hold, 3), 0);
}

static void what_leaves_is_what_the_buffer_held_when_it_was_put(void **state)
{
	(void)state;
	uint32_t buffer = 0x11111111;
	hold_put(hold, &buffer, sizeof buffer);
	buffer = 0x22222222;
	hold_seal(hold, SESSION_ALONE, 0);
	buffer = 0x33333333;
	assert_int_equal(release(), 1);
	assert_int_equal(world.first[0], 0x11111111);
}

static void outputs_made_alone_ask_nobody(void **state)
{
	(void)state;
	output(1, SESSION_ALONE, 0);
	output(2, SESSION_ALONE, 0);
	assert_int_equal(release(), 2);
	for (unsigned i = 0; i < SESSIONS; i++)
		assert_int_equal(world.asked[i], 0);
}

static void a_device_that_takes_fewer_gets_the_rest_later_in_order(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		output(i, 3, i + 1);
	world.acked[3] = 90;
	for (unsigned left = 0; left < 90; left += 7) {
		world.takes = 7;
		assert_int_equal(release(), left + 7 <= 90 ? 7 : 90 - left);
	}
	world.takes = 0;
	world.acked[3] = 100;
	assert_int_equal(release(), 0);
	world.takes = UINT32_MAX;
	assert_int_equal(release(), 10);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(world.first[i], i);
}

static void what_waits_holds_back_what_came_after_it_of_any_session(void **state)
{
	(void)state;
	output(1, 3, 100);
	output(2, 4, 10);
	output(3, SESSION_ALONE, 0);
	world.acked[4] = UINT64_MAX;
	world.acked[3] = 99;
	assert_int_equal(release(), 0);
	world.acked[3] = 100;
	assert_int_equal(release(), 3);
}

static void each_session_is_asked_about_once_a_call(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 80; i++)
		output(i, 3 + i % 2, i + 1);
	world.acked[3] = world.acked[4] = 1000;
	assert_int_equal(release(), 80);
	assert_int_equal(world.asked[3], 1);
	assert_int_equal(world.asked[4], 1);
}

static void more_sessions_than_a_call_can_remember_only_take_more_calls(void **state)
{
	(void)state;
	for (uint32_t i = 1; i < SESSIONS; i++) {
		output(i, i, 5);
		world.acked[i] = i == 30 ? 4 : 5;
	}
	for (unsigned i = 0; i < 10; i++)
		release();
	assert_int_equal(world.count, 29);
}

static void a_decision_frees_the_waiting_outputs_of_one_session_and_no_later_ones(void **state)
{
	(void)state;
	output(1, 3, 100);
	output(2, 3, 200);
	put(3); /* in the making while the decision falls */
	hold_decide(hold, 3);
	hold_seal(hold, 3, 300);
	assert_int_equal(release(), 2);
	assert_int_equal(hold_waiting(hold), 1);
	hold_decide(hold, 4);
	assert_int_equal(release(), 0);
	world.acked[3] = 300;
	assert_int_equal(release(), 1);
}

static void a_decision_does_not_touch_another_session(void **state)
{
	(void)state;
	output(1, 3, 100);
	output(2, 4, 100);
	output(3, 3, 200);
	hold_decide(hold, 3);
	assert_int_equal(release(), 1);
	assert_int_equal(hold_waiting(hold), 2);
	world.acked[4] = 100;
	assert_int_equal(release(), 2);
}

static void a_burst_counts_as_released_when_its_last_output_has_left(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 3; i++)
		put(i);
	hold_seal(hold, 3, 100);
	output(4, 3, 200);
	world.acked[3] = 200;
	world.takes = 1;
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(hold_released(hold, 3), i < 3 ? 0 : 100);
		assert_int_equal(release(), 1);
	}
	assert_int_equal(hold_released(hold, 3), 200);
}

static void a_burst_longer_than_a_run_counts_as_released_at_its_end(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 64; i++)
		put(i);
	hold_seal(hold, 3, 100);
	world.acked[3] = 100;
	world.takes = 32;
	unsigned before = 0;
	while (hold_waiting(hold)) {
		assert_int_equal(hold_released(hold, 3), 0);
		before++;
		release();
		world.takes = 31;
	}
	assert_true(before > 0);
	assert_int_equal(hold_released(hold, 3), 100);
}

static void what_was_released_is_known_of_this_session_and_the_one_before(void **state)
{
	(void)state;
	assert_int_equal(hold_released(hold, 3), 0);
	for (uint32_t session = 3; session < 8; session++) {
		world.acked[session] = 1000;
		output(1, session, 10 * session);
		output(2, session, 10 * session + 1);
		release();
		assert_int_equal(hold_released(hold, session), 10 * session + 1);
		if (session > 3)
			assert_int_equal(hold_released(hold, session - 1), 10 * (session - 1) + 1);
		assert_int_equal(hold_released(hold, session + 1), 0);
	}
	output(1, SESSION_ALONE, 5);
	release();
	assert_int_equal(hold_released(hold, 7), 71);
	assert_int_equal(hold_released(hold, SESSION_ALONE), 0);
}

static unsigned take_all(void *context, const struct hold_output *outputs, unsigned count)
{
	(void)context, (void)outputs;
	return count;
}

/* Whatever hold_has_room promises fits, wherever in the ring it begins; hold_put checks it. */
static void promised_room_is_there_at_every_offset(void **state)
{
	(void)state;
	static const size_t lengths[] = {0, 1, 7, 8, 9, 60, 333, 1514};
	uint8_t bytes[SIZE];
	memset(bytes, 0x5a, sizeof bytes);
	for (unsigned offset = 0; offset < SIZE / 8; offset++) {
		for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
			unsigned n = 0;
			while (hold_has_room(hold, 1, lengths[k])) {
				hold_put(hold, bytes, lengths[k]);
				n++;
			}
			assert_true(n >= (SIZE - lengths[k] - OVERHEAD) / (lengths[k] + OVERHEAD));
			hold_seal(hold, SESSION_ALONE, 0);
			hold_release(hold, acked, take_all, &world);
		}
		/* A burst asked for as a whole, up to the last byte of what is offered. */
		size_t most = SIZE - 5 * OVERHEAD;
		assert_false(hold_has_room(hold, 5, most + 1));
		assert_true(hold_has_room(hold, 5, most));
		for (unsigned i = 0; i < 4; i++)
			hold_put(hold, bytes, 1);
		hold_put(hold, bytes, most - 4);
		hold_seal(hold, SESSION_ALONE, 0);
		hold_release(hold, acked, take_all, &world);
		/* The next offset. */
		assert_true(hold_has_room(hold, 1, 0));
		hold_put(hold, bytes, 0);
		hold_seal(hold, SESSION_ALONE, 0);
		hold_release(hold, acked, take_all, &world);
	}
}

static void a_full_hold_has_room_again_after_a_release(void **state)
{
	(void)state;
	uint8_t bytes[1000] = {0};
	uint64_t lsn = 0;
	while (hold_has_room(hold, 1, sizeof bytes)) {
		hold_put(hold, bytes, sizeof bytes);
		hold_seal(hold, 3, ++lsn);
	}
	assert_int_equal(lsn, 3);
	world.acked[3] = 0;
	release();
	assert_false(hold_has_room(hold, 1, sizeof bytes));
	world.acked[3] = 1;
	assert_int_equal(release(), 1);
	assert_true(hold_has_room(hold, 1, sizeof bytes));
	assert_false(hold_has_room(hold, 2, 2 * sizeof bytes));
}

/* A backup's, which has been told of nothing that has left. */
static void a_hold_yields_the_oldest_and_no_more_than_has_to_leave(void **state)
{
	(void)state;
	uint8_t bytes[1000] = {0};
	uint64_t lsn = 0;
	for (unsigned lap = 0; lap < 5; lap++) {
		while (hold_has_room(hold, 1, sizeof bytes)) {
			bytes[0] = (uint8_t)++lsn;
			hold_put(hold, bytes, sizeof bytes);
			hold_seal(hold, 3, lsn);
		}
		unsigned before = world.count;
		uint64_t waiting = hold_waiting(hold);
		assert_int_equal(release(), 0);
		hold_yield(hold, 1, sizeof bytes);
		assert_int_equal(release(), 1);
		assert_int_equal(world.first[before], lsn - waiting + 1);
		assert_true(hold_has_room(hold, 1, sizeof bytes));
		hold_yield(hold, 1, sizeof bytes);
		assert_int_equal(release(), 0);
		assert_int_equal(hold_waiting(hold), waiting - 1);
	}
	hold_yield(hold, 2, 2 * sizeof bytes);
	assert_int_equal(release(), 1);
	assert_true(hold_has_room(hold, 2, 2 * sizeof bytes));
	assert_false(hold_has_room(hold, 3, 3 * sizeof bytes));
}

/* The next machine may have a session of the same number, whose log begins anew. */
static void a_hold_that_is_cleared_knows_nothing_of_what_it_held(void **state)
{
	(void)state;
	output(1, 1, 100);
	world.acked[1] = 100;
	assert_int_equal(release(), 1);
	output(2, 1, 200);
	put(3);
	hold_clear(hold);
	assert_int_equal(hold_waiting(hold), 0);
	assert_int_equal(hold_waiting_bytes(hold), 0);
	assert_int_equal(hold_released(hold, 1), 0);
	assert_int_equal(release(), 0);
	output(4, 1, 50);
	assert_int_equal(hold_waiting(hold), 1);
	assert_int_equal(release(), 1);
	assert_int_equal(world.count, 2);
	assert_int_equal(world.first[1], 4);
	assert_int_equal(hold_released(hold, 1), 50);
}

static void an_absurd_request_for_room_is_refused(void **state)
{
	(void)state;
	assert_false(hold_has_room(hold, SIZE_MAX, 0));
	assert_false(hold_has_room(hold, SIZE_MAX / 31 + 2, 0));
	assert_false(hold_has_room(hold, 1, SIZE_MAX));
	assert_false(hold_has_room(hold, 1, SIZE_MAX - 30));
}

static void put_too_much(void)
{
	uint8_t bytes[SIZE] = {0};
	hold_put(hold, bytes, sizeof bytes);
}

static void put_without_end(void)
{
	for (uint32_t i = 0; i < SIZE; i++)
		put(i);
}

static void seal_backwards(void)
{
	output(1, 3, 100);
	output(2, 3, 100);
}

static void misuse_by_the_producer_ends_the_process(void **state)
{
	(void)state;
	assert_aborts(put_too_much);
	assert_aborts(put_without_end);
	assert_aborts(seal_backwards);
}

/* Between the decision that an output may leave and its leaving, its record changes under us. */
static uint64_t spoil_and_ack(void *context, uint32_t session)
{
	struct world *w = context;
	if (session == 4) {
		/* A record is its LSN, session, length, flags, and the bytes. */
		uint64_t lsn = 5000;
		memcpy((uint8_t *)(uintptr_t)w->where - 24, &lsn, sizeof lsn);
	}
	return 1000;
}

static void release_spoilt(void)
{
	output(1, 3, 100);
	output(2, 4, 100);
	world.takes = 0;
	world.acked[3] = 100;
	release(); /* to learn where the first one lies */
	world.takes = UINT32_MAX;
	hold_release(hold, spoil_and_ack, take, &world);
}

static unsigned take_too_many(void *context, const struct hold_output *outputs, unsigned count)
{
	(void)context, (void)outputs;
	return count + 1;
}

static void release_too_many(void)
{
	output(1, SESSION_ALONE, 0);
	hold_release(hold, acked, take_too_many, &world);
}

static void an_output_that_is_not_covered_ends_the_process_instead_of_leaving(void **state)
{
	(void)state;
	assert_aborts(release_spoilt);
	assert_aborts(release_too_many);
}

static void a_hold_is_at_least_as_large_as_asked(void **state)
{
	(void)state;
	struct hold *large;
	assert_int_equal(hold_create(&large, 70000), 0);
	assert_true(hold_has_room(large, 1, 70000 - OVERHEAD));
	hold_destroy(large);
	assert_true(hold_create(&large, SIZE_MAX) < 0);
	assert_true(strlen(fail_message()) > 0);
	hold_destroy(NULL);
}

#define STRESS_OUTPUTS 60000u

struct message {
	uint64_t number, lsn;
	uint32_t session, length;
};

static _Atomic uint64_t stress_acked[SESSIONS];
static _Atomic uint32_t stress_session;
static _Atomic bool stress_failed, stress_produced;
static uint64_t stress_next;

static uint32_t chance(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*state >> 33);
}

static void *produce(void *argument)
{
	(void)argument;
	uint64_t random = 1, number = 0, lsn = 0;
	uint32_t session = 1;
	uint8_t bytes[600];
	while (number < STRESS_OUTPUTS) {
		unsigned burst = 1 + chance(&random) % 5;
		while (!hold_has_room(hold, burst, burst * sizeof bytes))
			sched_yield();
		lsn += 64;
		for (unsigned i = 0; i < burst; i++) {
			uint32_t length =
				(uint32_t)sizeof(struct message) +
				chance(&random) % (uint32_t)(sizeof bytes - sizeof(struct message));
			struct message message = {number++, lsn, session, length};
			memset(bytes, (int)message.number, length);
			memcpy(bytes, &message, sizeof message);
			hold_put(hold, bytes, length);
		}
		hold_seal(hold, session, lsn);
		/* The backup's ack arrives a little later; here it is the producer that plays it
		 * too. */
		if (chance(&random) % 3 == 0)
			atomic_store(&stress_acked[session], lsn - 64 * (chance(&random) % 2));
		if (chance(&random) % 2000 == 0 && session + 1 < SESSIONS) {
			atomic_store(&stress_acked[session], lsn);
			atomic_store(&stress_session, ++session);
			lsn = 0;
		}
		memset(bytes, 0, sizeof bytes);
		if (chance(&random) % 3 == 0)
			atomic_store(&stress_acked[session], lsn);
	}
	for (unsigned i = 0; i < SESSIONS; i++)
		atomic_store(&stress_acked[i], UINT64_MAX);
	atomic_store(&stress_produced, true);
	return NULL;
}

static uint64_t stress_ask(void *context, uint32_t session)
{
	(void)context;
	return atomic_load(&stress_acked[session]);
}

static unsigned stress_take(void *context, const struct hold_output *outputs, unsigned count)
{
	unsigned n = chance(context) % (count + 1);
	for (unsigned i = 0; i < n; i++) {
		struct message message;
		memcpy(&message, outputs[i].bytes, sizeof message);
		const uint8_t *bytes = outputs[i].bytes;
		bool good = message.number == stress_next && message.length == outputs[i].length &&
			    message.lsn <= atomic_load(&stress_acked[message.session]);
		for (size_t k = sizeof message; good && k < outputs[i].length; k++)
			good = bytes[k] == (uint8_t)message.number;
		if (!good)
			atomic_store(&stress_failed, true);
		stress_next++;
	}
	return n;
}

static void two_threads_lose_and_reorder_nothing(void **state)
{
	(void)state;
	struct hold *small = hold;
	assert_int_equal(hold_create(&hold, 16384), 0);
	stress_next = 0;
	pthread_t producer;
	assert_int_equal(pthread_create(&producer, NULL, produce, NULL), 0);
	uint64_t random = 2, released = 0;
	uint32_t session = 1;
	for (;;) {
		bool last = atomic_load(&stress_produced);
		size_t left = hold_release(hold, stress_ask, stress_take, &random);
		uint64_t now = hold_released(hold, session);
		if (now < released)
			atomic_store(&stress_failed, true);
		released = now;
		if (session != atomic_load(&stress_session)) {
			session = atomic_load(&stress_session);
			released = 0;
		}
		if (hold_waiting(hold) > 16384 || hold_waiting_bytes(hold) > 16384)
			atomic_store(&stress_failed, true);
		if (last && hold_waiting(hold) == 0)
			break;
		if (left == 0)
			sched_yield();
	}
	pthread_join(producer, NULL);
	hold_destroy(hold);
	hold = small;
	assert_false(atomic_load(&stress_failed));
	assert_true(stress_next >= STRESS_OUTPUTS);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(outputs_leave_in_the_order_in_which_they_came),
		TEST(nothing_leaves_before_the_ack_has_reached_its_end),
		TEST(what_is_not_sealed_cannot_leave),
		TEST(a_seal_without_outputs_is_nothing),
		TEST(what_leaves_is_what_the_buffer_held_when_it_was_put),
		TEST(outputs_made_alone_ask_nobody),
		TEST(a_device_that_takes_fewer_gets_the_rest_later_in_order),
		TEST(what_waits_holds_back_what_came_after_it_of_any_session),
		TEST(each_session_is_asked_about_once_a_call),
		TEST(more_sessions_than_a_call_can_remember_only_take_more_calls),
		TEST(a_decision_frees_the_waiting_outputs_of_one_session_and_no_later_ones),
		TEST(a_decision_does_not_touch_another_session),
		TEST(a_burst_counts_as_released_when_its_last_output_has_left),
		TEST(a_burst_longer_than_a_run_counts_as_released_at_its_end),
		TEST(what_was_released_is_known_of_this_session_and_the_one_before),
		TEST(promised_room_is_there_at_every_offset),
		TEST(a_full_hold_has_room_again_after_a_release),
		TEST(a_hold_yields_the_oldest_and_no_more_than_has_to_leave),
		TEST(a_hold_that_is_cleared_knows_nothing_of_what_it_held),
		TEST(an_absurd_request_for_room_is_refused),
		TEST(misuse_by_the_producer_ends_the_process),
		TEST(an_output_that_is_not_covered_ends_the_process_instead_of_leaving),
		TEST(a_hold_is_at_least_as_large_as_asked),
		TEST(two_threads_lose_and_reorder_nothing),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "engine/queue.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

#define MANY 200000u

static struct frame_queue *frames;
static struct byte_queue *keys;

static int set_up(void **state)
{
	(void)state;
	frames = aligned_alloc(64, sizeof *frames);
	keys = calloc(1, sizeof *keys);
	assert_non_null(frames);
	assert_non_null(keys);
	memset(frames, 0, sizeof *frames);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(frames);
	free(keys);
	return 0;
}

static struct port_frame numbered(uint32_t number)
{
	return (struct port_frame){.length = number};
}

static void take_and_free(void)
{
	frame_queue_take(frames, 0);
	frame_queue_free(frames, 0);
}

static void frames_come_out_in_their_order_and_stay_until_taken(void **state)
{
	(void)state;
	assert_null(frame_queue_peek(frames));
	for (uint32_t i = 1; i <= 3; i++) {
		struct port_frame frame = numbered(i);
		assert_true(frame_queue_put(frames, &frame));
	}
	for (uint32_t i = 1; i <= 3; i++) {
		assert_int_equal(frame_queue_peek(frames)->length, i);
		assert_int_equal(frame_queue_peek(frames)->length, i);
		take_and_free();
	}
	assert_null(frame_queue_peek(frames));
}

static void a_full_queue_refuses_and_loses_nothing(void **state)
{
	(void)state;
	/* From any place in the ring, and across the counters' overflow. */
	static const uint32_t starts[] = {0, 1, FRAME_QUEUE - 1, UINT32_MAX - 5};
	for (unsigned s = 0; s < sizeof starts / sizeof starts[0]; s++) {
		frames->head = starts[s];
		atomic_store(&frames->freed, starts[s]);
		atomic_store(&frames->tail, starts[s]);
		for (uint32_t i = 0; i < FRAME_QUEUE; i++) {
			struct port_frame frame = numbered(i);
			assert_true(frame_queue_put(frames, &frame));
		}
		struct port_frame more = numbered(77);
		assert_false(frame_queue_put(frames, &more));
		frame_queue_take(frames, 8);
		frame_queue_free(frames, 7);
		assert_false(frame_queue_put(frames, &more));
		frame_queue_free(frames, 8);
		assert_true(frame_queue_put(frames, &more));
		for (uint32_t i = 1; i < FRAME_QUEUE; i++) {
			assert_int_equal(frame_queue_peek(frames)->length, i);
			take_and_free();
		}
		assert_int_equal(frame_queue_peek(frames)->length, 77);
		take_and_free();
		assert_null(frame_queue_peek(frames));
	}
}

static void a_frame_that_was_taken_is_kept_until_its_entry_is_written(void **state)
{
	(void)state;
	static const uint64_t ends[] = {0, 104, 0, 208, 312};
	for (uint32_t i = 0; i < 5; i++) {
		struct port_frame frame = numbered(i);
		assert_true(frame_queue_put(frames, &frame));
		assert_int_equal(frame_queue_peek(frames)->length, i);
		frame_queue_take(frames, ends[i]);
	}
	assert_null(frame_queue_peek(frames));
	/* In order: one without an entry waits for those before it. */
	static const struct {
		uint64_t written;
		uint32_t freed;
	} steps[] = {{0, 1}, {103, 1}, {104, 3}, {311, 4}, {UINT64_MAX, 5}};
	uint32_t begin = atomic_load(&frames->freed);
	for (unsigned i = 0; i < 5; i++) {
		assert_true(frame_queue_keeps(frames));
		frame_queue_free(frames, steps[i].written);
		assert_int_equal(atomic_load(&frames->freed) - begin, steps[i].freed);
	}
	assert_false(frame_queue_keeps(frames));
}

static void keys_are_taken_in_part_when_there_is_no_room_for_all(void **state)
{
	(void)state;
	static uint8_t in[BYTE_QUEUE + 100], out[BYTE_QUEUE + 100];
	for (size_t i = 0; i < sizeof in; i++)
		in[i] = (uint8_t)(i * 7);
	atomic_store(&keys->head, UINT32_MAX - 99);
	atomic_store(&keys->tail, UINT32_MAX - 99);
	assert_int_equal(byte_queue_take(keys, out, sizeof out), 0);
	assert_int_equal(byte_queue_put(keys, in, sizeof in), BYTE_QUEUE);
	assert_int_equal(byte_queue_put(keys, in, 1), 0);
	assert_int_equal(byte_queue_take(keys, out, 10), 10);
	assert_int_equal(byte_queue_put(keys, in + BYTE_QUEUE, 100), 10);
	assert_int_equal(byte_queue_take(keys, out + 10, sizeof out), BYTE_QUEUE);
	assert_memory_equal(in, out, BYTE_QUEUE + 10);
	assert_int_equal(byte_queue_take(keys, out, sizeof out), 0);
}

static void *put_frames(void *argument)
{
	(void)argument;
	for (uint32_t i = 0; i < MANY; i++) {
		struct port_frame frame = numbered(i);
		while (!frame_queue_put(frames, &frame))
			sched_yield();
	}
	return NULL;
}

static void two_threads_hand_over_every_frame_whole(void **state)
{
	(void)state;
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, put_frames, NULL), 0);
	for (uint32_t i = 0; i < MANY; i++) {
		const struct port_frame *frame;
		while (!(frame = frame_queue_peek(frames)))
			sched_yield();
		assert_int_equal(frame->length, i);
		take_and_free();
	}
	pthread_join(thread, NULL);
}

static void *put_keys(void *argument)
{
	(void)argument;
	uint8_t bytes[64];
	for (uint32_t sent = 0; sent < MANY;) {
		size_t count = 1 + sent % sizeof bytes;
		for (size_t i = 0; i < count; i++)
			bytes[i] = (uint8_t)((sent + i) * 31);
		size_t taken = byte_queue_put(keys, bytes, count);
		sent += (uint32_t)taken;
		if (taken == 0)
			sched_yield();
	}
	return NULL;
}

static void two_threads_hand_over_every_key_in_order(void **state)
{
	(void)state;
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, put_keys, NULL), 0);
	for (uint32_t got = 0; got < MANY;) {
		uint8_t bytes[100];
		size_t n = byte_queue_take(keys, bytes, 1 + got % sizeof bytes);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(bytes[i], (uint8_t)((got + i) * 31));
		got += (uint32_t)n;
		if (n == 0)
			sched_yield();
	}
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			frames_come_out_in_their_order_and_stay_until_taken, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			a_frame_that_was_taken_is_kept_until_its_entry_is_written, set_up,
			tear_down),
		cmocka_unit_test_setup_teardown(
			a_full_queue_refuses_and_loses_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			keys_are_taken_in_part_when_there_is_no_room_for_all, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			two_threads_hand_over_every_frame_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			two_threads_hand_over_every_key_in_order, set_up, tear_down),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

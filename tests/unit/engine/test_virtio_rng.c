#include "tests/unit/engine/virtio_guest.h"

enum { REQUESTS }; /* its one queue */

static int set_up_rng(void **state)
{
	(void)state;
	g = new_guest(&virtio_rng_kind);
	return 0;
}

/* Offers a buffer that the device may write. */
static void ask(unsigned index, uint64_t address, uint32_t length)
{
	describe(REQUESTS, index, address, length, WRITE, 0);
	offer(REQUESTS, index);
}

static void it_has_one_queue_and_no_configuration(void **state)
{
	(void)state;
	assert_int_equal(get(0x08), 4);
	assert_int_equal(get(QUEUE_SIZE_MAX), 256);
	put(QUEUE_SELECT, 1);
	assert_int_equal(get(QUEUE_SIZE_MAX), 0);
	start_queue(1, SIZE);
	assert_int_equal(g->mmio.queue[1].ready, 0);
	assert_int_equal(get(CONFIG), 0);
}

static void a_request_is_filled_at_once_up_to_the_bound(void **state)
{
	(void)state;
	static const struct {
		uint32_t asked, given;
	} cases[] = {{1, 1}, {64, 64}, {RANDOM_MAX, RANDOM_MAX}, {RANDOM_MAX + 1, RANDOM_MAX},
		{100000, RANDOM_MAX}};
	uint64_t given = 0;
	start(0);
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		memset(g->memory.base + BUFFERS, 0, 100000);
		ask(i, BUFFERS, cases[i].asked);
		put(NOTIFY, REQUESTS);
		given += cases[i].given;
		assert_int_equal(load(device[REQUESTS] + 2, 2), i + 1);
		assert_int_equal(load(device[REQUESTS] + 4 + 8 * i, 4), i);
		assert_int_equal(load(device[REQUESTS] + 8 + 8 * i, 4), cases[i].given);
		assert_int_equal(g->memory.base[BUFFERS + cases[i].given - 1], 0x80 + i);
		assert_int_equal(g->memory.base[BUFFERS + cases[i].given], 0);
		assert_true(g->line);
		put(INTERRUPT_ACK, 1);
		assert_false(g->line);
	}
	assert_int_equal(g->rng.bytes, given);
	assert_int_equal(g->random_count, sizeof cases / sizeof *cases);
}

static void each_request_of_a_notification_is_an_input_of_its_own(void **state)
{
	(void)state;
	start(0);
	for (unsigned i = 0; i < SIZE; i++)
		ask(i, BUFFERS + 16 * i, 8);
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, SIZE);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(g->memory.base[BUFFERS + 16 * i], 0x80 + i);
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, SIZE);
}

static void an_empty_request_is_no_input(void **state)
{
	(void)state;
	start(0);
	ask(0, BUFFERS, 0);
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, 0);
	assert_int_equal(load(device[REQUESTS] + 2, 2), 1);
	assert_int_equal(load(device[REQUESTS] + 8, 4), 0);
}

static void nothing_is_taken_without_a_driver(void **state)
{
	(void)state;
	ask(0, BUFFERS, 8);
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, 0);
	start(0);
	ask(0, BUFFERS, 8);
	put(STATUS, 0); /* in mid-traffic */
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, 0);
}

static void a_broken_request_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const struct {
		uint64_t address;
		uint32_t length;
		unsigned flags, next;
	} cases[] = {
		{BUFFERS, 60, WRITE | NEXT, 0}, {BUFFERS, 60, WRITE | NEXT, SIZE},
		{MEMORY_SIZE - 10, 60, WRITE, 0}, {UINT64_MAX - 10, 60, WRITE, 0},
		{BUFFERS, 60, 0, 0}, /* the wrong way */
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		uint64_t before = g->random_count;
		start(0);
		describe(REQUESTS, 0, cases[i].address, cases[i].length, cases[i].flags,
			cases[i].next);
		offer(REQUESTS, 0);
		put(NOTIFY, REQUESTS);
		assert_int_equal(get(STATUS) & NEEDS_RESET, NEEDS_RESET);
		assert_int_equal(get(INTERRUPT_STATUS), 2);
		ask(1, BUFFERS, 8);
		put(NOTIFY, REQUESTS);
		assert_int_equal(g->random_count, before);
	}
	start(0);
	ask(0, BUFFERS, 8);
	put(NOTIFY, REQUESTS);
	assert_int_equal(g->random_count, 1);
}

/* A buffer that is the ring itself: what is written looks like more requests than there can be. */
static void a_ring_written_over_ends_all_the_same(void **state)
{
	(void)state;
	for (uint64_t overlap = 0; overlap < 64; overlap++) {
		start(0);
		for (unsigned i = 0; i < SIZE; i++)
			ask(i, driver[REQUESTS] + overlap - 32, 40);
		uint64_t before = g->random_count;
		put(NOTIFY, REQUESTS);
		assert_true(g->random_count - before <= VIRTQUEUE_MAX);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_rng, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(it_has_one_queue_and_no_configuration),
		TEST(a_request_is_filled_at_once_up_to_the_bound),
		TEST(each_request_of_a_notification_is_an_input_of_its_own),
		TEST(an_empty_request_is_no_input),
		TEST(nothing_is_taken_without_a_driver),
		TEST(a_broken_request_makes_it_ask_for_a_reset),
		TEST(a_ring_written_over_ends_all_the_same),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/unit/engine/virtio_guest.h"

static int set_up_console(void **state)
{
	(void)state;
	g = new_guest(&virtio_console_kind);
	return 0;
}

static size_t room(size_t most)
{
	return virtio_console_room(&g->console, &g->env, most);
}

static void type(const char *text)
{
	virtio_console_receive(&g->console, &g->env, (const uint8_t *)text, strlen(text));
}

static void it_is_a_console_with_one_port_and_no_size(void **state)
{
	(void)state;
	assert_int_equal(get(0x08), 3);
	put(DEVICE_FEATURES_SELECT, 0);
	assert_int_equal(get(DEVICE_FEATURES), EVENT_IDX);
	assert_int_equal(get(CONFIG), 0);
}

static void what_is_sent_leaves_at_once_as_it_is(void **state)
{
	(void)state;
	start(0);
	memcpy(g->memory.base + BUFFERS, "login: ", 7);
	describe(TX, 3, BUFFERS, 5, NEXT, 6);
	describe(TX, 6, BUFFERS + 5, 2, 0, 0);
	offer(TX, 3);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 1);
	assert_int_equal(g->sent_length, 7);
	assert_memory_equal(g->sent, "login: ", 7);
	assert_int_equal(load(device[TX] + 2, 2), 1);
	assert_int_equal(load(device[TX] + 8, 4), 0);
	assert_true(g->line);
	put(INTERRUPT_ACK, 1);
	assert_false(g->line);
}

static void a_chain_without_bytes_is_no_output_and_a_huge_one_is_cut(void **state)
{
	(void)state;
	start(0);
	offer_buffer(TX, 0, BUFFERS, 0);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 0);
	assert_int_equal(load(device[TX] + 2, 2), 1);
	assert_false(virtio_console_in_use(&g->console));
	offer_buffer(TX, 1, BUFFERS, OUTPUT_MAX + 10);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_length, OUTPUT_MAX);
	assert_int_equal(g->console.tx_dropped, 10);
	assert_int_equal(load(device[TX] + 2, 2), 2);
}

static void typed_bytes_fill_the_buffers_in_order(void **state)
{
	(void)state;
	start(0);
	assert_int_equal(room(100), 0);
	offer_buffer(RX, 0, BUFFERS, 3);
	offer_buffer(RX, 1, BUFFERS + 0x100, 0);
	offer_buffer(RX, 2, BUFFERS + 0x200, 50);
	assert_int_equal(room(100), 53);
	assert_int_equal(room(2), 2);
	type("hello");
	assert_memory_equal(g->memory.base + BUFFERS, "hel\0", 4);
	assert_memory_equal(g->memory.base + BUFFERS + 0x200, "lo\0", 3);
	assert_int_equal(load(device[RX] + 2, 2), 3);
	assert_int_equal(load(device[RX] + 8, 4), 3);
	assert_int_equal(load(device[RX] + 16, 4), 0);
	assert_int_equal(load(device[RX] + 24, 4), 2);
	assert_true(g->line);
	assert_int_equal(g->console.rx_bytes, 5);
	assert_int_equal(room(100), 0);
}

static void bytes_without_room_are_lost_and_counted(void **state)
{
	(void)state;
	type("never");
	assert_int_equal(g->console.rx_dropped, 5);
	start(0);
	offer_buffer(RX, 0, BUFFERS, 3);
	type("hello");
	assert_int_equal(g->console.rx_dropped, 7);
	assert_int_equal(load(device[RX] + 8, 4), 3);
	type("again");
	assert_int_equal(g->console.rx_dropped, 12);
	assert_int_equal(get(STATUS), READY);
}

static void it_is_in_use_from_its_first_word_to_its_reset(void **state)
{
	(void)state;
	start(0);
	offer_buffer(RX, 0, BUFFERS, 10);
	assert_false(virtio_console_in_use(&g->console));
	offer_buffer(TX, 0, BUFFERS, 1);
	put(NOTIFY, TX);
	assert_true(virtio_console_in_use(&g->console));
	put(QUEUE_SELECT, RX);
	put(QUEUE_READY, 0);
	assert_false(virtio_console_in_use(&g->console));
	put(STATUS, 0);
	start(0);
	offer_buffer(RX, 0, BUFFERS, 10);
	assert_false(virtio_console_in_use(&g->console));
	assert_int_equal(g->console.tx_bytes, 1);
}

static void assert_asks_for_reset(void)
{
	assert_int_equal(get(STATUS) & NEEDS_RESET, NEEDS_RESET);
	assert_int_equal(get(INTERRUPT_STATUS) & 2, 2);
	assert_true(g->line);
	assert_int_equal(room(10), 0);
	assert_false(virtio_console_in_use(&g->console));
	size_t sent = g->sent_count;
	offer_buffer(TX, 0, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent);
	start(0);
	offer_buffer(TX, 0, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent + 1);
}

static void a_broken_chain_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const struct {
		uint64_t address;
		uint32_t length;
		unsigned flags, next;
	} cases[] = {
		{BUFFERS, 60, NEXT, 0},       /* a loop */
		{BUFFERS, 60, NEXT, 8},       /* next is out of range */
		{MEMORY_SIZE - 10, 60, 0, 0}, /* past the end */
		{UINT64_MAX - 10, 60, 0, 0},  /* overflows */
		{BUFFERS, 60, WRITE, 0},      /* the wrong way, for either queue */
	};
	for (unsigned queue = RX; queue <= TX; queue++) {
		for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
			start(0);
			describe(queue, 0, cases[i].address, cases[i].length,
				cases[i].flags ^ (queue == RX ? WRITE : 0), cases[i].next);
			offer(queue, 0);
			if (queue == TX) {
				put(NOTIFY, TX);
			} else {
				assert_int_equal(room(10), 10);
				type("x");
			}
			assert_asks_for_reset();
		}
	}
}

/* A reset by the driver while chains are offered: none of them is looked at, nor is an old ring. */
static void a_reset_in_mid_traffic_forgets_what_was_offered(void **state)
{
	(void)state;
	start(EVENT_IDX);
	offer_buffer(TX, 0, BUFFERS, 60);
	offer_buffer(RX, 0, BUFFERS, 60);
	put(STATUS, 0);
	put(NOTIFY, TX);
	type("lost");
	assert_int_equal(g->sent_count, 0);
	assert_int_equal(load(device[RX] + 2, 2), 0);
	assert_int_equal(g->mmio.queue[TX].size, 0);
	assert_false(g->line);
}

static void asking_for_room_changes_nothing(void **state)
{
	(void)state;
	start(EVENT_IDX);
	offer_buffer(RX, 0, BUFFERS, 60);
	struct virtio_console before = g->console;
	uint8_t *memory = malloc(MEMORY_SIZE);
	assert_non_null(memory);
	memcpy(memory, g->memory.base, MEMORY_SIZE);
	for (size_t most = 0; most < 100; most++)
		room(most);
	assert_memory_equal(&before, &g->console, sizeof before);
	assert_memory_equal(memory, g->memory.base, MEMORY_SIZE);
	free(memory);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_console, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(it_is_a_console_with_one_port_and_no_size),
		TEST(what_is_sent_leaves_at_once_as_it_is),
		TEST(a_chain_without_bytes_is_no_output_and_a_huge_one_is_cut),
		TEST(typed_bytes_fill_the_buffers_in_order),
		TEST(bytes_without_room_are_lost_and_counted),
		TEST(it_is_in_use_from_its_first_word_to_its_reset),
		TEST(a_broken_chain_makes_it_ask_for_a_reset),
		TEST(a_reset_in_mid_traffic_forgets_what_was_offered),
		TEST(asking_for_room_changes_nothing),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

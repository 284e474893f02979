/* Guests that break the rules: the card asks for a reset, and nobody else is hurt. */
#include "tests/unit/engine/virtio_guest.h"

/* The device has stopped and says so; after a reset it works. */
static void assert_asks_for_reset(bool interrupt)
{
	assert_int_equal(get(STATUS) & NEEDS_RESET, NEEDS_RESET);
	assert_int_equal(!!(get(INTERRUPT_STATUS) & 2), interrupt);
	assert_int_equal(g->line, get(INTERRUPT_STATUS) != 0);
	size_t sent = g->sent_count;
	offer_buffer(TX, 0, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent);
	assert_false(can_receive(60));
	receive(test_frame(1), 60);
	put(INTERRUPT_ACK, 3); /* said once */
	put(QUEUE_SELECT, RX);
	put_address(QUEUE_DESC, 0);
	assert_int_equal(get(INTERRUPT_STATUS), 0);
	put(STATUS, READY); /* only a reset helps */
	assert_int_equal(get(STATUS) & NEEDS_RESET, NEEDS_RESET);

	start(0);
	assert_false(g->line);
	assert_int_equal(get(INTERRUPT_STATUS), 0);
	offer_buffer(TX, 0, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent + 1);
	offer_buffer(RX, 0, BUFFERS, 1600);
	assert_true(can_receive(60));
	uint64_t frames = g->net.rx_frames;
	receive(frame, 60);
	assert_int_equal(g->net.rx_frames, frames + 1);
}

static void a_broken_chain_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const struct {
		uint64_t address;
		uint32_t length;
		unsigned flags, next;
	} cases[] = {
		{BUFFERS, 60, NEXT, 0},            /* a loop */
		{BUFFERS, 60, NEXT, 8},            /* next is out of range */
		{MEMORY_SIZE - 10, 60, 0, 0},      /* past the end */
		{UINT64_MAX - 10, 60, 0, 0},       /* overflows */
		{BUFFERS, UINT32_MAX, 0, 0},       /* far too long */
		{BUFFERS, 60, INDIRECT, 0},        /* was not offered */
		{BUFFERS, 60, INDIRECT | NEXT, 1}, /* nor this */
		{1ull << 40, 0, 0, 0},             /* empty, but outside */
	};
	for (unsigned queue = RX; queue <= TX; queue++) {
		unsigned right = queue == RX ? WRITE : 0;
		for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
			start(MERGEABLE);
			if (i < sizeof cases / sizeof *cases)
				describe(queue, 0, cases[i].address, cases[i].length,
					cases[i].flags | right, cases[i].next);
			else
				describe(queue, 0, BUFFERS, 1600, right ^ WRITE, 0);
			offer(queue, 0);
			uint64_t dropped = g->net.rx_dropped;
			if (queue == TX) {
				put(NOTIFY, TX);
			} else {
				assert_true(can_receive(60));
				receive(test_frame(1), 60);
				assert_int_equal(g->net.rx_dropped, dropped);
			}
			assert_asks_for_reset(true);
		}
	}
}

static void an_index_that_jumps_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const uint16_t jumps[] = {SIZE + 1, 0x7fff, 0x8000, 0xffff};
	for (size_t i = 0; i < sizeof jumps / sizeof *jumps; i++) {
		start(0);
		store(driver[TX] + 2, jumps[i], 2);
		put(NOTIFY, TX);
		assert_asks_for_reset(true);
		start(0);
		store(driver[RX] + 2, jumps[i], 2);
		assert_true(can_receive(60));
		receive(test_frame(1), 60);
		assert_asks_for_reset(true);
	}
}

static void what_came_before_a_broken_chain_is_sent(void **state)
{
	(void)state;
	start(0);
	offer_buffer(TX, 0, BUFFERS, 60);
	offer_buffer(TX, 1, UINT64_MAX, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 1);
	assert_int_equal(load(device[TX] + 2, 2), 1);
	assert_asks_for_reset(true);
}

static void a_wrong_queue_size_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const uint32_t wrong[] = {0, 3, 255, 257, 512, 65536, 65536 + 8, UINT32_MAX};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		put(STATUS, 0);
		put(STATUS, 3);
		put_features(VERSION_1);
		put(STATUS, 0xb);
		start_queue(TX, wrong[i]);
		assert_int_equal(get(QUEUE_READY), 0);
		assert_asks_for_reset(false);
	}
}

static void a_ring_outside_memory_makes_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const uint64_t wrong[] = {
		MEMORY_SIZE - 8, MEMORY_SIZE, UINT64_MAX, UINT64_MAX - 8, 1ull << 32};
	static const uint32_t rings[] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
	for (unsigned i = 0; i < 3; i++) {
		for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
			start(0);
			put(QUEUE_SELECT, TX);
			put(QUEUE_READY, 0);
			put_address(rings[i], wrong[j]);
			put(QUEUE_READY, 1);
			assert_int_equal(get(QUEUE_READY), 0);
			assert_asks_for_reset(true);
		}
	}
}

static void rings_moved_while_in_use_make_it_ask_for_a_reset(void **state)
{
	(void)state;
	static const uint32_t registers[] = {QUEUE_SIZE, QUEUE_DESC, QUEUE_DESC + 4, QUEUE_DRIVER,
		QUEUE_DRIVER + 4, QUEUE_DEVICE, QUEUE_DEVICE + 4};
	for (size_t i = 0; i < sizeof registers / sizeof *registers; i++) {
		for (unsigned queue = RX; queue <= TX; queue++) {
			start(0);
			struct virtqueue before = g->mmio.queue[queue];
			put(QUEUE_SELECT, queue);
			put(registers[i], 4);
			assert_memory_equal(&before, &g->mmio.queue[queue], sizeof before);
			assert_asks_for_reset(true);
		}
	}
}

static void overlapping_rings_and_buffers_are_survived(void **state)
{
	(void)state;
	for (uint64_t overlap = 0; overlap < 0x400; overlap++) {
		put(STATUS, 0);
		put(STATUS, 3);
		put_features(VERSION_1 | MERGEABLE | EVENT_IDX);
		put(STATUS, 0xb);
		memset(g->memory.base, 0, 0x10000);
		for (unsigned queue = RX; queue <= TX; queue++) {
			put(QUEUE_SELECT, queue);
			put(QUEUE_SIZE, 16);
			put_address(QUEUE_DESC, 0x1000);
			put_address(QUEUE_DRIVER, 0x1000 + overlap % 64 * 4);
			put_address(QUEUE_DEVICE, 0x1000 + overlap / 8);
			put(QUEUE_READY, 1);
		}
		put(STATUS, READY);
		for (unsigned i = 0; i < 16; i++) {
			store(0x1000 + 16 * i, 0x1000 + 3 * overlap, 8);
			store(0x1000 + 16 * i + 8, 100, 4);
			store(0x1000 + 16 * i + 12, i % 2 ? WRITE : 0, 2);
		}
		store(0x1000 + overlap % 64 * 4 + 2, overlap % 17, 2);
		put(NOTIFY, TX);
		receive(test_frame((uint8_t)overlap), overlap);
		put(NOTIFY, TX);
		receive(frame, 1514);
	}
	put(STATUS, 0);
	start(0);
	offer_buffer(TX, 0, BUFFERS, 60);
	size_t sent = g->sent_count;
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent + 1);
}

static unsigned seed;

static unsigned below(unsigned limit)
{
	return (unsigned)rand_r(&seed) % limit;
}

/* One step of a guest gone mad: it knows what a ring looks like, and mostly what is allowed. */
static void mad_step(void)
{
	static const uint32_t registers[] = {DEVICE_FEATURES_SELECT, DRIVER_FEATURES,
		DRIVER_FEATURES_SELECT, QUEUE_SELECT, QUEUE_SIZE, QUEUE_READY, NOTIFY,
		INTERRUPT_ACK, STATUS, QUEUE_DESC, QUEUE_DESC + 4, QUEUE_DRIVER, QUEUE_DRIVER + 4,
		QUEUE_DEVICE, QUEUE_DEVICE + 4};
	unsigned queue = below(2), index = below(SIZE);
	switch (below(16)) {
	case 0:
		put(registers[below(sizeof registers / sizeof *registers)],
			(unsigned)rand_r(&seed) >> below(31));
		break;
	case 1:
		put_sized(below(0x210), 1u << below(4), (unsigned)rand_r(&seed));
		break;
	case 2:
		get_sized(below(0x210), 1u << below(4));
		break;
	case 3:
		store(desc[queue] + below(0x2100), (unsigned)rand_r(&seed) >> below(31), 4);
		break;
	case 4:
		store(driver[queue] + 2 * below(SIZE + 4), below(70000), 2);
		break;
	case 5:
		describe(queue, index, below(8) ? below(MEMORY_SIZE) : UINT64_MAX - below(0x10000),
			below(3000), below(8), below(SIZE + 1));
		break;
	case 6:
	case 7:
	case 8:
		offer_buffer(queue, index, below(MEMORY_SIZE - 3000), below(3000));
		break;
	case 9:
		describe(queue, index, below(MEMORY_SIZE - 3000), below(3000),
			(queue == RX ? WRITE : 0) | NEXT, (index + 1) % SIZE);
		break;
	case 10:
		put(INTERRUPT_ACK, 3);
		break;
	case 11:
	case 12:
		put(NOTIFY, TX);
		break;
	case 13:
		if (get(STATUS) != READY || !below(50))
			start(below(2) * MERGEABLE | below(2) * EVENT_IDX);
		break;
	default:
		size_t length = below(10) ? below(1600) : below(OUTPUT_MAX);
		if (below(4) ? can_receive(length) : true)
			receive(frame, length);
	}
}

static void a_mad_guest_hurts_only_itself(void **state)
{
	(void)state;
	const char *chosen = getenv("DOPPEL_SEED");
	seed = chosen ? (unsigned)strtoul(chosen, NULL, 0) : 1;
	print_message("DOPPEL_SEED=%u\n", seed);
	test_frame(1);
	for (unsigned round = 0; round < 300; round++) {
		/* Every fourth round begins with a loaded state that is nonsense. */
		for (size_t i = 0; round % 4 == 3 && i < sizeof g->net; i++)
			((uint8_t *)&g->net)[i] = (uint8_t)below(256);
		if (round % 4 == 3) {
			g->mmio.status = READY;
			g->mmio.queue[below(2)] = (struct virtqueue){.desc = below(MEMORY_SIZE),
				.driver = below(MEMORY_SIZE),
				.device = below(MEMORY_SIZE),
				.size = (uint16_t)(1u << below(9)),
				.last_avail = (uint16_t)below(65536),
				.used = (uint16_t)below(65536),
				.ready = 1};
		}
		for (unsigned step = 0; step < 1000; step++)
			mad_step();
	}
	/* It did not only fall over. */
	assert_true(g->net.rx_frames + g->sent_count > 1000);
	start(0);
	offer_buffer(TX, 0, BUFFERS, 60);
	size_t sent = g->sent_count;
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent + 1);
}

static void equal_inputs_leave_equal_bytes(void **state)
{
	(void)state;
	struct guest *first = g, *second = new_guest(&virtio_net_kind);
	test_frame(1);
	memset(&second->net, 0xff, sizeof second->net);
	virtio_net_reset(&second->net, mac);
	for (unsigned round = 0; round < 100; round++) {
		unsigned begin = round + 1;
		g = first;
		seed = begin;
		for (unsigned step = 0; step < 1000; step++)
			mad_step();
		g = second;
		seed = begin;
		for (unsigned step = 0; step < 1000; step++)
			mad_step();
		assert_memory_equal(&first->net, &second->net, sizeof first->net);
		assert_int_equal(first->sent_count, second->sent_count);
		assert_true(first->sent_digest == second->sent_digest);
		assert_int_equal(first->line, second->line);
	}
	assert_memory_equal(first->memory.base, second->memory.base, MEMORY_SIZE);
	assert_true(first->sent_count > 100 && first->net.rx_frames > 100);
	g = first;
	free_guest(second);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_broken_chain_makes_it_ask_for_a_reset),
		TEST(an_index_that_jumps_makes_it_ask_for_a_reset),
		TEST(what_came_before_a_broken_chain_is_sent),
		TEST(a_wrong_queue_size_makes_it_ask_for_a_reset),
		TEST(a_ring_outside_memory_makes_it_ask_for_a_reset),
		TEST(rings_moved_while_in_use_make_it_ask_for_a_reset),
		TEST(overlapping_rings_and_buffers_are_survived),
		TEST(a_mad_guest_hurts_only_itself),
		TEST(equal_inputs_leave_equal_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

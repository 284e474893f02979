#include "tests/unit/engine/virtio_guest.h"

static void a_frame_leaves_at_once_without_its_header(void **state)
{
	(void)state;
	start(0);
	fill(BUFFERS, 12 + 60, 3);
	offer_buffer(TX, 0, BUFFERS, 12 + 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 1);
	assert_int_equal(g->sent_length, 60);
	assert_memory_equal(g->sent, g->memory.base + BUFFERS + 12, 60);
	assert_int_equal(load(device[TX] + 2, 2), 1);
	assert_int_equal(load(device[TX] + 4, 4), 0);
	assert_int_equal(load(device[TX] + 8, 4), 0);
	assert_int_equal(get(INTERRUPT_STATUS), 1);
	assert_true(g->line);
	put(INTERRUPT_ACK, 1);
	assert_false(g->line);
	assert_int_equal(get(INTERRUPT_STATUS), 0);
}

static void a_frame_may_lie_in_pieces_anywhere(void **state)
{
	(void)state;
	start(0);
	fill(BUFFERS, 100, 3);
	describe(TX, 5, BUFFERS + 1, 7, NEXT, 2);
	describe(TX, 2, BUFFERS + 50, 10, NEXT, 7);
	describe(TX, 7, BUFFERS, 0, NEXT, 1);
	describe(TX, 1, BUFFERS + 33, 9, 0, 0);
	offer(TX, 5);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_length, 14);
	assert_memory_equal(g->sent, g->memory.base + BUFFERS + 55, 5);
	assert_memory_equal(g->sent + 5, g->memory.base + BUFFERS + 33, 9);
}

static void one_notification_sends_all_that_is_offered(void **state)
{
	(void)state;
	start(0);
	for (unsigned i = 0; i < SIZE; i++) {
		fill(BUFFERS + 0x100 * i, 100, (uint8_t)i);
		offer_buffer(TX, i, BUFFERS + 0x100 * i, 40 + i);
	}
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, SIZE);
	assert_int_equal(g->sent_length, 28 + SIZE - 1);
	assert_int_equal(load(device[TX] + 2, 2), SIZE);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, SIZE);
}

static void frames_of_a_wrong_length_are_dropped_and_counted(void **state)
{
	(void)state;
	static const struct {
		uint32_t bytes;
		size_t sent;
	} cases[] = {
		{0, 0},
		{11, 0},
		{12, 0},
		{12 + 13, 0},
		{12 + 14, 14},
		{OUTPUT_MAX, OUTPUT_MAX - 12},
		{OUTPUT_MAX + 1, 0},
		{MEMORY_SIZE - BUFFERS, 0},
	};
	size_t dropped = 0, sent = 0;
	start(0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		offer_buffer(TX, 0, BUFFERS, cases[i].bytes);
		put(NOTIFY, TX);
		if (cases[i].sent)
			assert_int_equal(g->sent_length, cases[i].sent);
		sent += cases[i].sent != 0;
		dropped += cases[i].sent == 0;
		assert_int_equal(load(device[TX] + 2, 2), i + 1);
	}
	assert_int_equal(get(STATUS), READY);
	assert_int_equal(g->sent_count, sent);
	assert_int_equal(g->net.tx_frames, sent);
	assert_int_equal(g->net.tx_dropped, dropped);
}

static void event_indices_spare_interrupts_and_notifications(void **state)
{
	(void)state;
	start(EVENT_IDX);
	store(driver[TX] + 4 + 2 * SIZE, 2, 2); /* wants to hear of the third */
	for (unsigned i = 0; i < 2; i++)
		offer_buffer(TX, i, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 2);
	assert_false(g->line);
	assert_int_equal(load(device[TX] + 4 + 8 * SIZE, 2), 2);
	offer_buffer(TX, 2, BUFFERS, 60);
	offer_buffer(TX, 3, BUFFERS, 60);
	put(NOTIFY, TX);
	assert_true(g->line);
	assert_int_equal(load(device[TX] + 4 + 8 * SIZE, 2), 4);
	offer_buffer(RX, 0, BUFFERS, 1600);
	offer_buffer(RX, 1, BUFFERS, 1600);
	receive(test_frame(1), 60);
	assert_int_equal(load(device[RX] + 4 + 8 * SIZE, 2), 1);
}

static void nothing_is_taken_before_the_driver_is_ready(void **state)
{
	(void)state;
	put(STATUS, 3);
	put_features(VERSION_1);
	put(STATUS, 0xb);
	start_queue(RX, SIZE);
	start_queue(TX, SIZE);
	offer_buffer(TX, 0, BUFFERS, 60);
	offer_buffer(RX, 0, BUFFERS, 1600);
	put(NOTIFY, TX);
	put(NOTIFY, RX);
	assert_int_equal(g->sent_count, 0);
	assert_false(can_receive(60));
	receive(test_frame(1), 60);
	assert_int_equal(g->net.rx_dropped, 1);
	assert_int_equal(load(device[TX] + 2, 2), 0);
	put(STATUS, READY);
	assert_true(can_receive(60));
	put(NOTIFY, 2);
	put(NOTIFY, 0xffff);
	put(NOTIFY, 0xffffffff);
	assert_int_equal(g->sent_count, 0);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 1);
}

static void a_queue_that_is_not_ready_is_left_alone(void **state)
{
	(void)state;
	start(0);
	offer_buffer(TX, 0, BUFFERS, 60);
	offer_buffer(RX, 0, BUFFERS, 1600);
	for (unsigned i = 0; i < 2; i++) {
		put(QUEUE_SELECT, i);
		put(QUEUE_READY, 0);
		assert_int_equal(get(QUEUE_READY), 0);
	}
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 0);
	assert_false(can_receive(60));
	/* Made ready again, perhaps elsewhere, it begins at index 0. */
	put(QUEUE_READY, 1);
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, 1);
	assert_int_equal(get(STATUS), READY);
}

static void a_received_frame_has_a_header(void **state)
{
	(void)state;
	for (unsigned merge = 0; merge < 2; merge++) {
		start(merge ? MERGEABLE : 0);
		assert_false(can_receive(60));
		memset(g->memory.base + BUFFERS, 0xee, 0x1000);
		offer_buffer(RX, 3, BUFFERS, 1600);
		assert_true(can_receive(60));
		receive(test_frame(9), 60);
		assert_memory_equal(g->memory.base + BUFFERS, "\0\0\0\0\0\0\0\0\0\0\1\0", 12);
		assert_memory_equal(g->memory.base + BUFFERS + 12, frame, 60);
		assert_int_equal(g->memory.base[BUFFERS + 72], 0xee);
		assert_int_equal(load(device[RX] + 2, 2), 1);
		assert_int_equal(load(device[RX] + 4, 4), 3);
		assert_int_equal(load(device[RX] + 8, 4), 72);
		assert_true(g->line);
		assert_false(can_receive(60));
		assert_int_equal(g->net.rx_frames, merge + 1);
	}
}

static void mergeable_buffers_share_a_frame(void **state)
{
	(void)state;
	start(MERGEABLE);
	for (unsigned i = 0; i < 5; i++)
		offer_buffer(RX, i, BUFFERS + 0x1000 * i, 500);
	receive(test_frame(1), 1488);
	assert_int_equal(load(BUFFERS + 10, 2), 3);
	assert_memory_equal(g->memory.base + BUFFERS + 12, frame, 488);
	assert_memory_equal(g->memory.base + BUFFERS + 0x1000, frame + 488, 500);
	assert_memory_equal(g->memory.base + BUFFERS + 0x2000, frame + 988, 500);
	assert_int_equal(load(device[RX] + 2, 2), 3);
	assert_int_equal(load(device[RX] + 8, 4), 500);
	assert_int_equal(load(device[RX] + 24, 4), 500);
	assert_true(can_receive(988));
	receive(frame, 501);
	assert_int_equal(load(BUFFERS + 0x3000 + 10, 2), 2);
	assert_int_equal(load(device[RX] + 2, 2), 5);
	assert_int_equal(load(device[RX] + 4 + 8 * 4 + 4, 4), 13);
	assert_false(can_receive(14));
}

static void a_header_may_be_in_pieces(void **state)
{
	(void)state;
	start(MERGEABLE);
	offer_buffer(RX, 0, BUFFERS, 5);
	offer_buffer(RX, 1, BUFFERS + 0x100, 0);
	offer_buffer(RX, 2, BUFFERS + 0x200, 100);
	receive(test_frame(1), 60);
	assert_int_equal(load(device[RX] + 2, 2), 3);
	assert_int_equal(load(BUFFERS + 0x200 + 5, 2), 3);
	assert_memory_equal(g->memory.base + BUFFERS + 0x207, frame, 60);
}

static void a_frame_that_does_not_fit_is_dropped(void **state)
{
	(void)state;
	for (unsigned merge = 0; merge < 2; merge++) {
		start(merge ? MERGEABLE : 0);
		memset(g->memory.base + BUFFERS, 0xee, 0x1000);
		offer_buffer(RX, 0, BUFFERS, 71);
		if (!merge)
			offer_buffer(RX, 1, BUFFERS, 1600);
		assert_true(can_receive(60));
		receive(test_frame(1), 60);
		assert_int_equal(g->net.rx_dropped, merge + 1);
		assert_int_equal(g->net.rx_frames, merge);
		assert_int_equal(load(device[RX] + 2, 2), 0);
		assert_int_equal(load(BUFFERS, 4), 0xeeeeeeee);
		assert_false(g->line);
		receive(frame, 59); /* the buffer is still there */
		assert_int_equal(g->net.rx_frames, merge + 1);
	}
}

static unsigned fitting(const uint32_t *lengths, unsigned count)
{
	return virtio_net_fitting(&g->net, &g->env, lengths, count);
}

/* Whatever it says fits is received, and the next one is not. */
static void as_many_of_a_burst_fit_as_are_received(void **state)
{
	(void)state;
	static const uint32_t lengths[] = {72, 1512, 72, 501, 500, 1000, 26, 72};
	for (unsigned merge = 0; merge < 2; merge++) {
		for (unsigned buffers = 0; buffers <= SIZE; buffers++) {
			start(merge ? MERGEABLE : 0);
			for (unsigned i = 0; i < buffers; i++)
				offer_buffer(RX, i, BUFFERS + 0x800 * (i % 8), merge ? 500 : 1200);
			unsigned fit = fitting(lengths, 8);
			uint64_t before = g->net.rx_frames;
			for (unsigned i = 0; i < fit; i++)
				receive(test_frame(1), lengths[i] - FRAME_HEADER);
			assert_int_equal(g->net.rx_frames - before, fit);
			if (fit < 8)
				receive(test_frame(1), lengths[fit] - FRAME_HEADER);
			assert_int_equal(g->net.rx_frames - before, fit);
		}
	}
	start(0);
	put(QUEUE_SELECT, RX);
	put(QUEUE_READY, 0);
	assert_int_equal(fitting(lengths, 8), 0);
}

static void asking_whether_a_frame_fits_changes_nothing(void **state)
{
	(void)state;
	start(MERGEABLE | EVENT_IDX);
	for (unsigned i = 0; i < 5; i++)
		offer_buffer(RX, i, BUFFERS + 0x1000 * i, 500);
	uint8_t *before = malloc(MEMORY_SIZE);
	assert_non_null(before);
	memcpy(before, g->memory.base, MEMORY_SIZE);
	struct virtio_net net = g->net;
	for (size_t length = 0; length < OUTPUT_MAX; length += 501)
		assert_true(can_receive(length));
	describe(RX, 0, UINT64_MAX, 500, WRITE, 0);
	memcpy(before + desc[RX], g->memory.base + desc[RX], 16);
	assert_true(can_receive(60));
	assert_memory_equal(&net, &g->net, sizeof net);
	assert_memory_equal(before, g->memory.base, MEMORY_SIZE);
	free(before);
}

/* A guest's header for a frame to be sent, at BUFFERS, and the frame: what the device makes of it. */
static void send_with(uint64_t features, struct frame_header header)
{
	start(features);
	fill(BUFFERS, 12 + 60, 3);
	memcpy(g->memory.base + BUFFERS, &header, sizeof header);
	offer_buffer(TX, 0, BUFFERS, 12 + 60);
	size_t sent = g->sent_count;
	put(NOTIFY, TX);
	assert_int_equal(g->sent_count, sent + 1);
	assert_int_equal(g->sent_length, 60);
}

#define CSUM (1ull << 0)
#define TSO4 (1ull << 11)
#define TSO6 (1ull << 12)
#define ECN (1ull << 13)
#define MERGED (1ull << 1 | 1ull << 7 | 1ull << 8)

static void a_header_asks_only_for_what_was_agreed_on(void **state)
{
	(void)state;
	static const struct {
		uint64_t features;
		uint8_t flags, type, kept_flags, kept_type;
	} cases[] = {
		{0, 1, 1, 0, 0},
		{TSO4 | TSO6 | ECN, 1, 1, 0, 0}, /* not without checksums */
		{CSUM, 1, 0, 1, 0},
		{CSUM, 0xff, 0, 1, 0},
		{CSUM, 1, 1, 1, 0},
		{CSUM | TSO4, 1, 1, 1, 1},
		{CSUM | TSO4, 1, 4, 1, 0},
		{CSUM | TSO4, 1, 0x81, 1, 1},
		{CSUM | TSO4 | ECN, 1, 0x81, 1, 0x81},
		{CSUM | TSO6, 1, 4, 1, 4},
		{CSUM | TSO4 | TSO6 | ECN, 1, 0x80, 1, 0},
		{CSUM | TSO4 | TSO6 | ECN, 1, 3, 1, 0}, /* UDP was not offered */
		{CSUM | TSO4 | TSO6 | ECN, 1, 5, 1, 0},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct frame_header header = {.flags = cases[i].flags,
			.gso_type = cases[i].type,
			.header_length = 54,
			.gso_size = 1448,
			.checksum_start = 34,
			.checksum_offset = 16,
			.unused = 77};
		send_with(cases[i].features, header);
		assert_int_equal(g->header.flags, cases[i].kept_flags);
		assert_int_equal(g->header.gso_type, cases[i].kept_type);
		assert_int_equal(g->header.gso_size, cases[i].kept_type ? 1448 : 0);
		assert_int_equal(g->header.checksum_start, cases[i].features & CSUM ? 34 : 0);
		assert_int_equal(g->header.unused, 0);
	}
}

static void a_merged_frame_is_for_a_driver_that_agreed_to_it(void **state)
{
	(void)state;
	static const struct frame_header header = {.flags = 1,
		.gso_type = 1,
		.header_length = 66,
		.gso_size = 1448,
		.checksum_start = 34,
		.checksum_offset = 16};
	static const uint64_t too_few[] = {
		0, 1ull << 1, 1ull << 1 | 1ull << 7, 1ull << 7 | 1ull << 8};
	assert_false(virtio_net_takes_merged(&g->net));
	for (size_t i = 0; i < sizeof too_few / sizeof *too_few; i++) {
		start(too_few[i]);
		assert_false(virtio_net_takes_merged(&g->net));
		offer_buffer(RX, 0, BUFFERS, 5000);
		receive_with(&header, test_frame(3), 4000);
		assert_int_equal(g->net.rx_dropped, i + 1);
		assert_int_equal(load(device[RX] + 2, 2), 0);
	}
	start(MERGED | MERGEABLE);
	assert_true(virtio_net_takes_merged(&g->net));
	for (unsigned i = 0; i < 5; i++)
		offer_buffer(RX, i, BUFFERS + 0x1000 * i, 1536);
	receive_with(&header, frame, 4000);
	assert_memory_equal(g->memory.base + BUFFERS, &header, 10);
	assert_int_equal(load(BUFFERS + 10, 2), 3);
	assert_memory_equal(g->memory.base + BUFFERS + 12, frame, 1524);
	assert_int_equal(load(device[RX] + 2, 2), 3);
	put(STATUS, 0);
	assert_false(virtio_net_takes_merged(&g->net));
}

static void a_frame_fits_or_may_fit_soon_or_never(void **state)
{
	(void)state;
	const size_t length = 12 + 3000;
	assert_false(virtio_net_fits(&g->net, &g->env, length));
	start(MERGEABLE);
	offer_buffer(RX, 0, BUFFERS, 1536);
	assert_false(virtio_net_fits(&g->net, &g->env, length));
	offer_buffer(RX, 1, BUFFERS, 1536);
	assert_true(virtio_net_fits(&g->net, &g->env, length));
	start(0);
	assert_false(virtio_net_fits(&g->net, &g->env, length));
	offer_buffer(RX, 0, BUFFERS, 1536);
	assert_true(virtio_net_fits(&g->net, &g->env, length)); /* never: dropped now */
	store(driver[RX] + 2, 0x7000, 2);
	assert_true(virtio_net_fits(&g->net, &g->env, length)); /* broken: told so now */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_frame_leaves_at_once_without_its_header),
		TEST(a_frame_may_lie_in_pieces_anywhere),
		TEST(one_notification_sends_all_that_is_offered),
		TEST(frames_of_a_wrong_length_are_dropped_and_counted),
		TEST(event_indices_spare_interrupts_and_notifications),
		TEST(nothing_is_taken_before_the_driver_is_ready),
		TEST(a_queue_that_is_not_ready_is_left_alone),
		TEST(a_received_frame_has_a_header),
		TEST(mergeable_buffers_share_a_frame),
		TEST(a_header_may_be_in_pieces),
		TEST(a_frame_that_does_not_fit_is_dropped),
		TEST(a_header_asks_only_for_what_was_agreed_on),
		TEST(a_merged_frame_is_for_a_driver_that_agreed_to_it),
		TEST(a_frame_fits_or_may_fit_soon_or_never),
		TEST(asking_whether_a_frame_fits_changes_nothing),
		TEST(as_many_of_a_burst_fit_as_are_received),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

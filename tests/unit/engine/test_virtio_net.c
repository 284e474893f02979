#include "engine/virtio_net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MEMORY_SIZE (1u << 20)
#define GUARD (1ull << 30)

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum {
	MAGIC = 0x00,
	DEVICE_FEATURES = 0x10,
	DEVICE_FEATURES_SELECT = 0x14,
	DRIVER_FEATURES = 0x20,
	DRIVER_FEATURES_SELECT = 0x24,
	QUEUE_SELECT = 0x30,
	QUEUE_SIZE_MAX = 0x34,
	QUEUE_SIZE = 0x38,
	QUEUE_READY = 0x44,
	NOTIFY = 0x50,
	INTERRUPT_STATUS = 0x60,
	INTERRUPT_ACK = 0x64,
	STATUS = 0x70,
	QUEUE_DESC = 0x80,
	QUEUE_DRIVER = 0x90,
	QUEUE_DEVICE = 0xa0,
	CONFIG = 0x100,
};
enum { DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64, READY = 0xf };
enum { RX, TX };

#define MAC (1ull << 5)
#define MERGEABLE (1ull << 15)
#define LINK_STATUS (1ull << 16)
#define EVENT_IDX (1ull << 29)
#define VERSION_1 (1ull << 32)

/*
 * One guest: its memory between two stretches of nothing, so that an address gone wrong faults; its
 * card; and what has come out of it. The rings are where `desc`, `driver` and `device` say.
 */
struct guest {
	struct device_env env;
	struct guest_memory memory;
	struct virtio_net net;
	uint8_t sent[OUTPUT_MAX + 1];
	size_t sent_length, sent_count;
	uint64_t sent_digest;
	bool line;
};

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint64_t desc[2] = {0x1000, 0x4000}, driver[2] = {0x2000, 0x5000};
static const uint64_t device[2] = {0x3000, 0x6000};
enum { SIZE = 8, BUFFERS = 0x10000 };

static void fake_output(
	struct device_env *env, enum output_device kind, const void *bytes, size_t length)
{
	struct guest *guest = (struct guest *)env;
	assert_int_equal(kind, OUTPUT_NET);
	assert_true(length >= 14 && length <= OUTPUT_MAX);
	memcpy(guest->sent, bytes, length);
	guest->sent_length = length;
	guest->sent_count++;
	for (size_t i = 0; i < length; i++)
		guest->sent_digest = (guest->sent_digest ^ guest->sent[i]) * 0x100000001b3ull;
}

static void fake_irq(struct device_env *env, unsigned line, bool level)
{
	assert_int_equal(line, IRQ_NET);
	((struct guest *)env)->line = level;
}

static struct guest *new_guest(void)
{
	struct guest *guest = calloc(1, sizeof *guest);
	assert_non_null(guest);
	uint8_t *all = mmap(NULL, MEMORY_SIZE + 2 * GUARD, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(all, MAP_FAILED);
	assert_int_equal(mprotect(all + GUARD, MEMORY_SIZE, PROT_READ | PROT_WRITE), 0);
	guest->memory = (struct guest_memory){.base = all + GUARD, .size = MEMORY_SIZE, .fd = -1};
	guest->env = (struct device_env){
		.memory = &guest->memory, .output = fake_output, .irq = fake_irq};
	virtio_net_reset(&guest->net, mac);
	return guest;
}

static void free_guest(struct guest *guest)
{
	munmap(guest->memory.base - GUARD, MEMORY_SIZE + 2 * GUARD);
	free(guest);
}

static struct guest *g;

static int set_up(void **state)
{
	(void)state;
	g = new_guest();
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free_guest(g);
	return 0;
}

static uint32_t get(uint32_t offset)
{
	return (uint32_t)virtio_net_read(&g->net, &g->env, offset, 4);
}

static void put(uint32_t offset, uint64_t value)
{
	virtio_net_write(&g->net, &g->env, offset, 4, value);
}

static void put_features(uint64_t features)
{
	put(DRIVER_FEATURES_SELECT, 0);
	put(DRIVER_FEATURES, (uint32_t)features);
	put(DRIVER_FEATURES_SELECT, 1);
	put(DRIVER_FEATURES, features >> 32);
}

static void put_address(uint32_t offset, uint64_t address)
{
	put(offset, (uint32_t)address);
	put(offset + 4, address >> 32);
}

static void start_queue(unsigned index, uint32_t size)
{
	put(QUEUE_SELECT, index);
	put(QUEUE_SIZE, size);
	put_address(QUEUE_DESC, desc[index]);
	put_address(QUEUE_DRIVER, driver[index]);
	put_address(QUEUE_DEVICE, device[index]);
	put(QUEUE_READY, 1);
}

/* What a driver does, from reset on. */
static void start(uint64_t features)
{
	memset(g->memory.base, 0, BUFFERS);
	put(STATUS, 0);
	put(STATUS, 1);
	put(STATUS, 3);
	put_features(features | VERSION_1);
	put(STATUS, 0xb);
	assert_int_equal(get(STATUS), 0xb);
	start_queue(RX, SIZE);
	start_queue(TX, SIZE);
	put(STATUS, READY);
	assert_int_equal(get(STATUS), READY);
}

static void store(uint64_t at, uint64_t value, unsigned size)
{
	memcpy(g->memory.base + at, &value, size);
}

static uint64_t load(uint64_t at, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, g->memory.base + at, size);
	return value;
}

static void describe(unsigned queue, unsigned index, uint64_t address, uint32_t length,
	unsigned flags, unsigned next)
{
	uint64_t at = desc[queue] + 16 * index;
	store(at, address, 8);
	store(at + 8, length, 4);
	store(at + 12, flags, 2);
	store(at + 14, next, 2);
}

static void offer(unsigned queue, unsigned head)
{
	uint16_t index = (uint16_t)load(driver[queue] + 2, 2);
	store(driver[queue] + 4 + 2 * (index % SIZE), head, 2);
	store(driver[queue] + 2, index + 1u, 2);
}

/* Offers one buffer; what the descriptor says is right. */
static void offer_buffer(unsigned queue, unsigned index, uint64_t address, uint32_t length)
{
	describe(queue, index, address, length, queue == RX ? WRITE : 0, 0);
	offer(queue, index);
}

static void fill(uint64_t at, size_t length, uint8_t first)
{
	for (size_t i = 0; i < length; i++)
		g->memory.base[at + i] = (uint8_t)(first + i * 7);
}

static bool can_receive(size_t length)
{
	return virtio_net_can_receive(&g->net, &g->env, length);
}

static void receive(const void *frame, size_t length)
{
	virtio_net_receive(&g->net, &g->env, frame, length);
}

static uint8_t frame[OUTPUT_MAX];

static const uint8_t *test_frame(uint8_t first)
{
	for (size_t i = 0; i < sizeof frame; i++)
		frame[i] = (uint8_t)(first + i * 13 + i / 256);
	return frame;
}

static void the_registers_say_what_it_is(void **state)
{
	(void)state;
	assert_int_equal(get(0x00), 0x74726976);
	assert_int_equal(get(0x04), 2);
	assert_int_equal(get(0x08), 1);
	assert_int_equal(get(0x0c), 0x4c504f44);
	put(DEVICE_FEATURES_SELECT, 0);
	assert_int_equal(get(DEVICE_FEATURES), MAC | MERGEABLE | LINK_STATUS | EVENT_IDX);
	put(DEVICE_FEATURES_SELECT, 1);
	assert_int_equal(get(DEVICE_FEATURES), 1);
	put(DEVICE_FEATURES_SELECT, 2);
	assert_int_equal(get(DEVICE_FEATURES), 0);
	assert_int_equal(get(QUEUE_SIZE_MAX), 256);
	put(QUEUE_SELECT, 2);
	assert_int_equal(get(QUEUE_SIZE_MAX), 0);
	assert_int_equal(get(QUEUE_READY), 0);
	assert_int_equal(get(0xb0), UINT32_MAX);
	assert_int_equal(get(0xfc), 0);
}

static void only_whole_registers_can_be_accessed(void **state)
{
	(void)state;
	static const unsigned sizes[] = {1, 2, 8};
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(virtio_net_read(&g->net, &g->env, MAGIC, sizes[i]), 0);
		virtio_net_write(&g->net, &g->env, STATUS, sizes[i], 1);
		assert_int_equal(get(STATUS), 0);
	}
	assert_int_equal(get(MAGIC + 2), 0);
	put(STATUS + 1, 1);
	put(CONFIG, 0);
	put(0xffffffff, 1);
	assert_int_equal(get(STATUS), 0);
	assert_int_equal(get(0x200), 0);
}

static void the_configuration_can_be_read_in_any_size(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(virtio_net_read(&g->net, &g->env, CONFIG + i, 1), mac[i]);
	assert_int_equal(virtio_net_read(&g->net, &g->env, CONFIG + 6, 2), 1);
	assert_int_equal(get(CONFIG), 0x12005452);
	assert_int_equal(get(CONFIG + 4), 0x00015634);
	assert_true(virtio_net_read(&g->net, &g->env, CONFIG, 8) == 0x0001563412005452);
	assert_int_equal(virtio_net_read(&g->net, &g->env, CONFIG + 6, 8), 1);
	assert_int_equal(virtio_net_read(&g->net, &g->env, CONFIG + 8, 8), 0);
	assert_int_equal(virtio_net_read(&g->net, &g->env, CONFIG + 0xff, 8), 0);
}

static void features_not_offered_are_refused(void **state)
{
	(void)state;
	static const uint64_t wrong[] = {0, MAC, VERSION_1 | 1, VERSION_1 | 1ull << 28,
		VERSION_1 | 1ull << 33, VERSION_1 | 1ull << 63, UINT64_MAX};
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		put(STATUS, 0);
		put(STATUS, 3);
		put_features(wrong[i]);
		put(STATUS, 0xb);
		assert_int_equal(get(STATUS), 3);
		put(STATUS, READY); /* nor can it go on without */
		assert_int_equal(get(STATUS), 3);
	}
	put_features(VERSION_1 | MAC);
	put(STATUS, 0xb);
	assert_int_equal(get(STATUS), 0xb);
	put_features(UINT64_MAX); /* too late */
	assert_true(g->net.features == (VERSION_1 | MAC));
}

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
		{12 + OUTPUT_MAX, OUTPUT_MAX},
		{12 + OUTPUT_MAX + 1, 0},
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
			struct virtqueue before = g->net.queue[queue];
			put(QUEUE_SELECT, queue);
			put(registers[i], 4);
			assert_memory_equal(&before, &g->net.queue[queue], sizeof before);
			assert_asks_for_reset(true);
		}
	}
}

static void queues_that_do_not_exist_are_ignored(void **state)
{
	(void)state;
	static const uint32_t selections[] = {2, 3, 0x7fffffff, UINT32_MAX};
	start(0);
	for (size_t i = 0; i < sizeof selections / sizeof *selections; i++) {
		struct virtio_net before = g->net;
		put(QUEUE_SELECT, selections[i]);
		put(QUEUE_SIZE, 8);
		put_address(QUEUE_DESC, 0x1000);
		put(QUEUE_READY, 1);
		put(QUEUE_READY, 0);
		before.queue_select = selections[i];
		assert_memory_equal(&before, &g->net, sizeof before);
	}
	assert_int_equal(get(STATUS), READY);
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
		virtio_net_write(
			&g->net, &g->env, below(0x210), 1u << below(4), (unsigned)rand_r(&seed));
		break;
	case 2:
		virtio_net_read(&g->net, &g->env, below(0x210), 1u << below(4));
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
			g->net.status = READY;
			g->net.queue[below(2)] = (struct virtqueue){.desc = below(MEMORY_SIZE),
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
	struct guest *first = g, *second = new_guest();
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
		TEST(the_registers_say_what_it_is),
		TEST(only_whole_registers_can_be_accessed),
		TEST(the_configuration_can_be_read_in_any_size),
		TEST(features_not_offered_are_refused),
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
		TEST(asking_whether_a_frame_fits_changes_nothing),
		TEST(a_broken_chain_makes_it_ask_for_a_reset),
		TEST(an_index_that_jumps_makes_it_ask_for_a_reset),
		TEST(what_came_before_a_broken_chain_is_sent),
		TEST(a_wrong_queue_size_makes_it_ask_for_a_reset),
		TEST(a_ring_outside_memory_makes_it_ask_for_a_reset),
		TEST(rings_moved_while_in_use_make_it_ask_for_a_reset),
		TEST(queues_that_do_not_exist_are_ignored),
		TEST(overlapping_rings_and_buffers_are_survived),
		TEST(a_mad_guest_hurts_only_itself),
		TEST(equal_inputs_leave_equal_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Guests without any manners: whatever is written to the board's ports and registers, in whatever order, and
 * whatever lies in memory, no byte outside the guest's memory is touched, and a board that is told the same, taken
 * over by a copy in the middle, is the same board.
 */
#include "engine/board.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

#define MEMORY_SIZE (1u << 16)
#define GUARD (1ull << 33) /* further than a descriptor's length reaches */
#define SEEDS 60u
#define STEPS 20000u

/* Registers: virtio 1.1, 4.2.2. */
enum {
	FEATURES = 0x10,
	FEATURES_SELECT = 0x14,
	ACCEPTED = 0x20,
	ACCEPTED_SELECT = 0x24,
	QUEUE_SELECT = 0x30,
	QUEUE_SIZE = 0x38,
	QUEUE_READY = 0x44,
	NOTIFY = 0x50,
	STATUS = 0x70,
	QUEUE_DESC = 0x80,
	QUEUE_DRIVER = 0x90,
	QUEUE_DEVICE = 0xa0,
};

/* A board, its memory between two stretches of nothing, and a sum of all that it has asked and told. */
struct world {
	struct device_env env; /* first: the calls get it */
	struct guest_memory memory;
	struct board board;
	uint64_t now, seen;
	uint32_t state; /* of the row that decides what the guest does */
};

static void see(struct world *w, uint64_t value)
{
	w->seen = (w->seen ^ value) * 0x9e3779b97f4a7c15ull;
	w->seen ^= w->seen >> 29;
}

static uint64_t read_clock(struct device_env *env)
{
	struct world *w = (struct world *)env;
	see(w, w->now);
	return w->now;
}

static void draw_random(struct device_env *env, void *bytes, size_t length)
{
	struct world *w = (struct world *)env;
	assert_true(length >= 1 && length <= RANDOM_MAX);
	memset(bytes, (int)w->seen, length);
}

static void take_output(
	struct device_env *env, enum output_device device, const void *bytes, size_t length)
{
	struct world *w = (struct world *)env;
	const uint8_t *at = bytes;
	assert_true(length >= 1 && length <= OUTPUT_MAX);
	see(w, device);
	for (size_t i = 0; i < length; i++)
		see(w, at[i]);
}

static void set_line(struct device_env *env, unsigned line, bool level)
{
	struct world *w = (struct world *)env;
	see(w, line << 1 | level);
	pic_set_line(&w->board.pic, line, level);
}

static struct world *new_world(uint32_t seed)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 9};
	struct world *w = calloc(1, sizeof *w);
	assert_non_null(w);
	uint8_t *all = mmap(NULL, MEMORY_SIZE + 2 * GUARD, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(all, MAP_FAILED);
	assert_int_equal(mprotect(all + GUARD, MEMORY_SIZE, PROT_READ | PROT_WRITE), 0);
	w->memory = (struct guest_memory){.base = all + GUARD, .size = MEMORY_SIZE, .fd = -1};
	w->env = (struct device_env){.memory = &w->memory,
		.clock = read_clock,
		.random = draw_random,
		.output = take_output,
		.irq = set_line};
	w->state = seed;
	board_reset(&w->board, mac);
	return w;
}

static void free_world(struct world *w)
{
	munmap(w->memory.base - GUARD, MEMORY_SIZE + 2 * GUARD);
	free(w);
}

static uint32_t next(struct world *w, uint32_t below)
{
	w->state = w->state * 1664525u + 1013904223u;
	return (uint32_t)(((uint64_t)w->state * below) >> 32);
}

/* Values at which something changes are more likely than others. */
static uint32_t any_value(struct world *w)
{
	static const uint32_t odd[] = {0, 1, 2, 3, 4, 7, 8, 0xb, 0xf, 0x40, 0x80, 0xff, 0x100,
		0x1000, MEMORY_SIZE - 1, MEMORY_SIZE, 0x7fffffff, 0x80000000, 0xffff0000,
		UINT32_MAX};
	switch (next(w, 4)) {
	case 0:
		return odd[next(w, sizeof odd / sizeof *odd)];
	case 1:
		return next(w, 16) << 12; /* a place in memory */
	case 2:
		return next(w, 256);
	default:
		return next(w, UINT32_MAX);
	}
}

static void use_port(struct world *w)
{
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42,
		0x43, 0x61, 0x64, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe,
		0x3ff, 0x604, 0x620, 0x622, 0x624, 0x625, 0x628, 0xcf9, 0xffff};
	uint16_t port = ports[next(w, sizeof ports / sizeof *ports)];
	unsigned size = 1u << next(w, 3);
	if (next(w, 2))
		board_port_write(&w->board, &w->env, port, size, any_value(w));
	else
		see(w, board_port_read(&w->board, &w->env, port, size));
}

static void use_register(struct world *w)
{
	uint64_t address = MMIO_NET + next(w, 3) * MMIO_VIRTIO_SIZE + next(w, 0x30) * 4;
	unsigned size = next(w, 8) ? 4 : 1u << next(w, 4);
	uint8_t bytes[8] = {0};
	uint32_t value = any_value(w);
	if (!next(w, 16))
		address += 0x100 + next(w, 0x100);
	memcpy(bytes, &value, sizeof value);
	if (next(w, 4))
		board_mmio_write(&w->board, &w->env, address, size, bytes);
	else
		board_mmio_read(&w->board, &w->env, address, size, bytes);
	see(w, bytes[0]);
}

/* Where each queue has its rings: a page, with descriptors, available and used ones. */
#define SIZE 8u
#define AVAILABLE 0x400u
#define USED 0x800u

static uint32_t rings_of(unsigned device, unsigned queue)
{
	return 0x1000u * (1 + device * 2 + queue);
}

static void put(struct world *w, unsigned device, uint32_t offset, uint32_t value)
{
	uint8_t bytes[8] = {0};
	memcpy(bytes, &value, sizeof value);
	board_mmio_write(
		&w->board, &w->env, MMIO_NET + device * MMIO_VIRTIO_SIZE + offset, 4, bytes);
}

/* As a driver does it, but for a slip now and then. */
static void put_as_driver(struct world *w, unsigned device, uint32_t offset, uint32_t value)
{
	put(w, device, offset, next(w, 100) ? value : any_value(w));
}

static void set_up_device(struct world *w)
{
	unsigned device = next(w, 3);
	uint8_t features[8];
	put_as_driver(w, device, STATUS, 0);
	put_as_driver(w, device, STATUS, 3);
	put(w, device, FEATURES_SELECT, 0);
	board_mmio_read(
		&w->board, &w->env, MMIO_NET + device * MMIO_VIRTIO_SIZE + FEATURES, 4, features);
	uint32_t low;
	memcpy(&low, features, sizeof low);
	put_as_driver(w, device, ACCEPTED_SELECT, 0);
	put_as_driver(w, device, ACCEPTED, next(w, 2) ? low : low & next(w, UINT32_MAX));
	put_as_driver(w, device, ACCEPTED_SELECT, 1);
	put_as_driver(w, device, ACCEPTED, 1);
	put_as_driver(w, device, STATUS, 11);
	for (unsigned queue = 0; queue < 2; queue++) {
		uint32_t rings = rings_of(device, queue);
		memset(w->memory.base + rings, 0, 0x1000);
		put_as_driver(w, device, QUEUE_SELECT, queue);
		put_as_driver(w, device, QUEUE_SIZE, SIZE);
		put_as_driver(w, device, QUEUE_DESC, rings);
		put_as_driver(w, device, QUEUE_DRIVER, rings + AVAILABLE);
		put_as_driver(w, device, QUEUE_DEVICE, rings + USED);
		put_as_driver(w, device, QUEUE_READY, 1);
	}
	put_as_driver(w, device, STATUS, 15);
}

/* A descriptor in a queue, mostly a right one, and mostly only if there is room. */
static void offer(struct world *w)
{
	unsigned device = next(w, 3), queue = next(w, 2);
	uint8_t *rings = w->memory.base + rings_of(device, queue);
	bool is_written = device == 2 || queue == 0, is_wild = !next(w, 100);
	uint64_t address =
		next(w, 100) ? 0x8000 + next(w, 0x7000) : (uint64_t)any_value(w) << next(w, 33);
	uint32_t length = next(w, 100) ? next(w, 3000) : any_value(w);
	uint16_t flags = (uint16_t)(next(w, 100) ? (is_written ? 2u : 0u) | (next(w, 8) ? 0u : 1u)
						 : next(w, 16));
	uint16_t slot = (uint16_t)next(w, SIZE), following = (uint16_t)next(w, SIZE + is_wild);
	uint16_t index, used;
	memcpy(rings + 16 * slot, &address, 8);
	memcpy(rings + 16 * slot + 8, &length, 4);
	memcpy(rings + 16 * slot + 12, &flags, 2);
	memcpy(rings + 16 * slot + 14, &following, 2);
	memcpy(&index, rings + AVAILABLE + 2, 2);
	memcpy(&used, rings + USED + 2, 2);
	if ((uint16_t)(index - used) < SIZE || is_wild) {
		memcpy(rings + AVAILABLE + 4 + 2 * (index % SIZE), &slot, 2);
		index = (uint16_t)(index + (is_wild ? any_value(w) : 1));
		memcpy(rings + AVAILABLE + 2, &index, 2);
	}
	if (next(w, 2))
		put(w, device, NOTIFY, next(w, 16) ? queue : any_value(w));
	if (!next(w, 256))
		w->memory.base[next(w, MEMORY_SIZE)] = (uint8_t)any_value(w);
}

/* What comes from outside, as live_inputs would take it. */
static void take_input(struct world *w)
{
	uint8_t bytes[4096];
	struct board *board = &w->board;
	memset(bytes, (int)next(w, 256), sizeof bytes);
	size_t length = FRAME_HEADER + ETHER_HEADER + next(w, 4000);
	uint32_t due = pit_due(&board->pit, w->now);
	switch (next(w, 5)) {
	case 0:
		see(w, virtio_net_can_receive(&board->net, &w->env, length));
		see(w, virtio_net_fits(&board->net, &w->env, length));
		virtio_net_receive(&board->net, &w->env, bytes, bytes + FRAME_HEADER, length - FRAME_HEADER);
		break;
	case 1:
		length = board_keys_room(board, &w->env, 256);
		see(w, length);
		board_keys(board, &w->env, bytes, next(w, 4) ? length : 256);
		break;
	case 2:
		if (due)
			pit_tick(&board->pit, &w->env, due);
		break;
	case 3:
		if (cmos_deadline(&board->cmos) <= w->now)
			cmos_tick(&board->cmos, &w->env, w->now);
		break;
	default:
		if (pic_pending(&board->pic))
			see(w, board_acknowledge(board, &w->env));
	}
}

static void step(struct world *w)
{
	w->now += next(w, 100) ? next(w, 100000) : (uint64_t)next(w, 100) * 1000000000u;
	switch (next(w, 16)) {
	case 0:
		set_up_device(w);
		break;
	case 1 ... 4:
		use_port(w);
		break;
	case 5 ... 7:
		use_register(w);
		break;
	case 8 ... 12:
		offer(w);
		break;
	default:
		take_input(w);
	}
	/* A machine would end here. */
	w->board.power_off = w->board.restart = 0;
}

/* Padding and all, which a saved machine has as it is. */
static void assert_same(const struct world *one, const struct world *other)
{
	assert_int_equal(one->seen, other->seen);
	assert_memory_equal(&one->board, &other->board, sizeof one->board);
	assert_memory_equal(one->memory.base, other->memory.base, MEMORY_SIZE);
}

static void whatever_a_guest_does_its_board_is_the_same_again(void **state)
{
	uint64_t frames = 0, sent = 0, keys = 0, random = 0;
	(void)state;
	for (uint32_t seed = 1; seed <= SEEDS; seed++) {
		struct world *first = new_world(seed), *second = new_world(seed);
		for (unsigned i = 0; i < STEPS; i++)
			step(first);
		for (unsigned i = 0; i < STEPS; i++) {
			if (i == STEPS / 2) {
				/* Another process goes on from what was saved. */
				struct world *third = new_world(0);
				third->board = second->board;
				memcpy(third->memory.base, second->memory.base, MEMORY_SIZE);
				third->now = second->now;
				third->seen = second->seen;
				third->state = second->state;
				free_world(second);
				second = third;
			}
			step(second);
		}
		assert_same(first, second);
		frames += first->board.net.rx_frames;
		sent += first->board.net.tx_frames;
		keys += first->board.console.rx_bytes;
		random += first->board.rng.bytes;
		free_world(first);
		free_world(second);
	}
	/* All of this is for nothing if the devices never work. */
	assert_true(frames > 1000 && sent > 1000 && keys > 1000 && random > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whatever_a_guest_does_its_board_is_the_same_again),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

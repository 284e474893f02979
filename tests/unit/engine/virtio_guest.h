/* A small driver for the tests of the virtio devices: one guest, its memory and one device. */
#pragma once

#include "engine/virtio_console.h"
#include "engine/virtio_net.h"
#include "engine/virtio_rng.h"

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
#define OFFLOADS (0x3983ull) /* checksums and TCP segments, both ways; ECN to be sent */
#define EVENT_IDX (1ull << 29)
#define VERSION_1 (1ull << 32)

/*
 * One guest: its memory between two stretches of nothing, so that an address gone wrong faults; its
 * device; and what has come out of it. The rings are where `desc`, `driver` and `device` say.
 */
struct guest {
	struct device_env env;
	struct guest_memory memory;
	const struct virtio_kind *kind;
	union {
		struct virtio_mmio mmio;
		struct virtio_net net;
		struct virtio_console console;
		struct virtio_rng rng;
	};
	struct frame_header header; /* of the frame sent last */
	uint8_t sent[OUTPUT_MAX + 1];
	size_t sent_length, sent_count;
	uint64_t sent_digest, random_count;
	bool line;
};

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint64_t desc[2] = {0x1000, 0x4000}, driver[2] = {0x2000, 0x5000};
static const uint64_t device[2] = {0x3000, 0x6000};
enum { SIZE = 8, BUFFERS = 0x10000 };

static inline void fake_output(
	struct device_env *env, enum output_device kind, const void *bytes, size_t length)
{
	struct guest *guest = (struct guest *)env;
	assert_int_equal(kind, guest->kind == &virtio_net_kind ? OUTPUT_NET : OUTPUT_CONSOLE);
	assert_true(length >= 1 && length <= OUTPUT_MAX);
	const uint8_t *from = bytes;
	if (kind == OUTPUT_NET) {
		assert_true(length >= FRAME_HEADER + ETHER_HEADER);
		memcpy(&guest->header, from, FRAME_HEADER);
		from += FRAME_HEADER;
		length -= FRAME_HEADER;
	}
	memcpy(guest->sent, from, length);
	guest->sent_length = length;
	guest->sent_count++;
	for (size_t i = 0; i < length; i++)
		guest->sent_digest = (guest->sent_digest ^ guest->sent[i]) * 0x100000001b3ull;
}

static inline void fake_random(struct device_env *env, void *bytes, size_t length)
{
	struct guest *guest = (struct guest *)env;
	assert_true(length >= 1 && length <= RANDOM_MAX);
	memset(bytes, (int)(0x80 + guest->random_count++), length);
}

static inline void fake_irq(struct device_env *env, unsigned line, bool level)
{
	struct guest *guest = (struct guest *)env;
	assert_int_equal(line, guest->kind->line);
	guest->line = level;
}

static inline struct guest *new_guest(const struct virtio_kind *kind)
{
	struct guest *guest = calloc(1, sizeof *guest);
	assert_non_null(guest);
	uint8_t *all = mmap(NULL, MEMORY_SIZE + 2 * GUARD, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(all, MAP_FAILED);
	assert_int_equal(mprotect(all + GUARD, MEMORY_SIZE, PROT_READ | PROT_WRITE), 0);
	guest->memory = (struct guest_memory){.base = all + GUARD, .size = MEMORY_SIZE, .fd = -1};
	guest->env = (struct device_env){.memory = &guest->memory,
		.output = fake_output,
		.random = fake_random,
		.irq = fake_irq};
	guest->kind = kind;
	if (kind == &virtio_net_kind)
		virtio_net_reset(&guest->net, mac);
	else if (kind == &virtio_console_kind)
		virtio_console_reset(&guest->console);
	else
		virtio_rng_reset(&guest->rng);
	return guest;
}

static inline void free_guest(struct guest *guest)
{
	munmap(guest->memory.base - GUARD, MEMORY_SIZE + 2 * GUARD);
	free(guest);
}

static struct guest *g;

static inline int set_up(void **state)
{
	(void)state;
	g = new_guest(&virtio_net_kind);
	return 0;
}

static inline int tear_down(void **state)
{
	(void)state;
	free_guest(g);
	return 0;
}

static inline uint64_t get_sized(uint32_t offset, unsigned size)
{
	return virtio_mmio_read(&g->mmio, g->kind, offset, size);
}

static inline void put_sized(uint32_t offset, unsigned size, uint64_t value)
{
	virtio_mmio_write(&g->mmio, g->kind, &g->env, offset, size, value);
}

static inline uint32_t get(uint32_t offset)
{
	return (uint32_t)get_sized(offset, 4);
}

static inline void put(uint32_t offset, uint64_t value)
{
	put_sized(offset, 4, value);
}

static inline void put_features(uint64_t features)
{
	put(DRIVER_FEATURES_SELECT, 0);
	put(DRIVER_FEATURES, (uint32_t)features);
	put(DRIVER_FEATURES_SELECT, 1);
	put(DRIVER_FEATURES, features >> 32);
}

static inline void put_address(uint32_t offset, uint64_t address)
{
	put(offset, (uint32_t)address);
	put(offset + 4, address >> 32);
}

static inline void start_queue(unsigned index, uint32_t size)
{
	put(QUEUE_SELECT, index);
	put(QUEUE_SIZE, size);
	put_address(QUEUE_DESC, desc[index]);
	put_address(QUEUE_DRIVER, driver[index]);
	put_address(QUEUE_DEVICE, device[index]);
	put(QUEUE_READY, 1);
}

/* What a driver does, from reset on. */
static inline void start(uint64_t features)
{
	memset(g->memory.base, 0, BUFFERS);
	put(STATUS, 0);
	put(STATUS, 1);
	put(STATUS, 3);
	put_features(features | VERSION_1);
	put(STATUS, 0xb);
	assert_int_equal(get(STATUS), 0xb);
	for (unsigned queue = 0; queue < g->kind->queues; queue++)
		start_queue(queue, SIZE);
	put(STATUS, READY);
	assert_int_equal(get(STATUS), READY);
}

static inline void store(uint64_t at, uint64_t value, unsigned size)
{
	memcpy(g->memory.base + at, &value, size);
}

static inline uint64_t load(uint64_t at, unsigned size)
{
	uint64_t value = 0;
	memcpy(&value, g->memory.base + at, size);
	return value;
}

static inline void describe(unsigned queue, unsigned index, uint64_t address, uint32_t length,
	unsigned flags, unsigned next)
{
	uint64_t at = desc[queue] + 16 * index;
	store(at, address, 8);
	store(at + 8, length, 4);
	store(at + 12, flags, 2);
	store(at + 14, next, 2);
}

static inline void offer(unsigned queue, unsigned head)
{
	uint16_t index = (uint16_t)load(driver[queue] + 2, 2);
	store(driver[queue] + 4 + 2 * (index % SIZE), head, 2);
	store(driver[queue] + 2, index + 1u, 2);
}

/* Offers one buffer; what the descriptor says is right. */
static inline void offer_buffer(unsigned queue, unsigned index, uint64_t address, uint32_t length)
{
	describe(queue, index, address, length, queue == RX ? WRITE : 0, 0);
	offer(queue, index);
}

static inline void fill(uint64_t at, size_t length, uint8_t first)
{
	for (size_t i = 0; i < length; i++)
		g->memory.base[at + i] = (uint8_t)(first + i * 7);
}

static inline bool can_receive(size_t length)
{
	return virtio_net_can_receive(&g->net, &g->env, FRAME_HEADER + length);
}

static inline void receive_with(const struct frame_header *header, const void *bytes, size_t length)
{
	virtio_net_receive(&g->net, &g->env, header, bytes, length);
}

/* A frame as the wire had it. */
static inline void receive(const void *bytes, size_t length)
{
	receive_with(&(struct frame_header){0}, bytes, length);
}

static uint8_t frame[OUTPUT_MAX];

static inline const uint8_t *test_frame(uint8_t first)
{
	for (size_t i = 0; i < sizeof frame; i++)
		frame[i] = (uint8_t)(first + i * 13 + i / 256);
	return frame;
}

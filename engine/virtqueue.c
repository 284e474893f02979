#include "engine/virtqueue.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

/* Layouts and flags: virtio 1.1, 2.6 (split virtqueues). */
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1 };

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};
_Static_assert(sizeof(struct descriptor) == 16, "shared with the guest");

struct used_element {
	uint32_t id, length;
};
_Static_assert(sizeof(struct used_element) == 8, "shared with the guest");

/* The rings of one queue, checked to lie in guest memory as a whole. */
struct rings {
	const uint8_t *desc;  /* size descriptors */
	const uint8_t *avail; /* flags, idx, size heads, used_event */
	uint8_t *used;        /* flags, idx, size elements, avail_event */
	uint16_t size;
};

static int find_rings(
	const struct virtqueue *queue, struct guest_memory *memory, struct rings *rings)
{
	uint16_t size = queue->size;
	if (!size || size > VIRTQUEUE_MAX || (size & (size - 1)))
		return fail(EINVAL, "the guest's queue has %u entries: not a power of two up to %u",
			size, VIRTQUEUE_MAX);
	rings->size = size;
	rings->desc = memory_read_ptr(memory, gpa_of(queue->desc), 16ull * size);
	rings->avail = memory_read_ptr(memory, gpa_of(queue->driver), 6 + 2ull * size);
	rings->used = memory_write_ptr(memory, gpa_of(queue->device), 6 + 8ull * size);
	if (!rings->desc || !rings->avail || !rings->used)
		return fail(
			EINVAL, "the guest's queue of %u entries lies outside its memory", size);
	return 0;
}

/* The guest aligns nothing unless it wants to. */
static uint16_t load16(const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof value);
	return value;
}

static void store16(uint8_t *at, uint16_t value)
{
	memcpy(at, &value, sizeof value);
}

int virtqueue_start(struct virtqueue *queue, struct guest_memory *memory)
{
	struct rings rings;
	int error = find_rings(queue, memory, &rings);
	if (error)
		return error;
	queue->last_avail = queue->used = 0;
	queue->ready = 1;
	return 0;
}

/* Adds the chain that begins at `head`. `*seen` counts the descriptors of the whole look. */
static int add_chain(const struct rings *rings, struct guest_memory *memory, bool writable,
	uint16_t head, uint32_t *seen, struct virtqueue_chains *chains)
{
	struct descriptor descriptor;
	uint64_t bytes = 0;
	uint16_t index = head;
	do {
		if (index >= rings->size)
			return fail(EINVAL, "the guest's descriptor %u is none of %u", index,
				rings->size);
		if ((*seen)++ == rings->size)
			return fail(EINVAL,
				"the guest's descriptor %u is part of a loop or offered twice",
				index);
		memcpy(&descriptor, rings->desc + 16ull * index, sizeof descriptor);
		if (descriptor.flags & DESC_INDIRECT)
			return fail(EINVAL,
				"the guest's descriptor %u is indirect, which was not offered",
				index);
		if (!!(descriptor.flags & DESC_WRITE) != writable)
			return fail(
				EINVAL, "the guest's descriptor %u has the wrong direction", index);
		uint8_t *at =
			memory_write_ptr(memory, gpa_of(descriptor.address), descriptor.length);
		if (!at)
			return fail(
				EINVAL, "the guest's descriptor %u lies outside its memory", index);
		if (descriptor.length) {
			chains->segment[chains->segments].at = at;
			chains->segment[chains->segments].length = descriptor.length;
			chains->segments++;
		}
		bytes += descriptor.length;
		index = descriptor.next;
	} while (descriptor.flags & DESC_NEXT);
	chains->chain[chains->count].head = head;
	chains->chain[chains->count].bytes = bytes;
	chains->count++;
	chains->bytes += bytes;
	return 0;
}

int virtqueue_look(const struct virtqueue *queue, struct guest_memory *memory, bool writable,
	uint32_t most, uint64_t enough, struct virtqueue_chains *chains)
{
	struct rings rings;
	chains->count = chains->segments = 0;
	chains->bytes = 0;
	int error = find_rings(queue, memory, &rings);
	if (error)
		return error;
	uint16_t index = load16(rings.avail + 2), offered = (uint16_t)(index - queue->last_avail);
	if (offered > rings.size)
		return fail(EINVAL,
			"the guest's available index jumped from %u to %u in a queue of %u",
			queue->last_avail, index, rings.size);
	uint32_t seen = 0;
	for (uint16_t i = 0; i < offered && chains->count < most && chains->bytes < enough; i++) {
		uint32_t slot = (uint32_t)(queue->last_avail + i) & (rings.size - 1u);
		uint16_t head = load16(rings.avail + 4 + 2 * slot);
		error = add_chain(&rings, memory, writable, head, &seen, chains);
		if (error)
			return error;
	}
	return 0;
}

/* Walks `length` bytes from `offset` on, one of `to` and `from` being NULL. */
static void copy(const struct virtqueue_chains *chains, uint64_t offset, uint8_t *to,
	const uint8_t *from, uint64_t length)
{
	CHECK(D1, offset <= chains->bytes && length <= chains->bytes - offset,
		"%llu bytes at %llu of a chain of %llu", (unsigned long long)length,
		(unsigned long long)offset, (unsigned long long)chains->bytes);
	for (uint32_t i = 0; length; i++) {
		uint64_t here = chains->segment[i].length;
		if (offset >= here) {
			offset -= here;
			continue;
		}
		uint8_t *at = chains->segment[i].at + offset;
		uint64_t part = here - offset < length ? here - offset : length;
		if (to) {
			memcpy(to, at, part);
			to += part;
		} else {
			memcpy(at, from, part);
			from += part;
		}
		length -= part;
		offset = 0;
	}
}

void virtqueue_copy_out(
	const struct virtqueue_chains *chains, uint64_t offset, void *to, uint64_t length)
{
	copy(chains, offset, to, NULL, length);
}

void virtqueue_copy_in(
	const struct virtqueue_chains *chains, uint64_t offset, const void *from, uint64_t length)
{
	copy(chains, offset, NULL, from, length);
}

/* The rings of a queue that was looked at: its fields are the device's own and still right. */
static struct rings rings_in_use(const struct virtqueue *queue, struct guest_memory *memory)
{
	struct rings rings;
	CHECK(D1, !find_rings(queue, memory, &rings), "a queue is written that was not looked at");
	return rings;
}

void virtqueue_return(struct virtqueue *queue, struct guest_memory *memory,
	const struct virtqueue_chains *chains, uint64_t written)
{
	struct rings rings = rings_in_use(queue, memory);
	for (uint32_t i = 0; i < chains->count; i++) {
		uint64_t length =
			chains->chain[i].bytes < written ? chains->chain[i].bytes : written;
		struct used_element element = {
			.id = chains->chain[i].head, .length = (uint32_t)length};
		uint32_t slot = (queue->used + i) & (rings.size - 1u);
		memcpy(rings.used + 4 + 8ull * slot, &element, sizeof element);
		written -= length;
	}
	queue->used = (uint16_t)(queue->used + chains->count);
	queue->last_avail = (uint16_t)(queue->last_avail + chains->count);
	store16(rings.used + 2, queue->used);
}

void virtqueue_ask_notify(const struct virtqueue *queue, struct guest_memory *memory)
{
	struct rings rings = rings_in_use(queue, memory);
	if (queue->event_idx)
		store16(rings.used + 4 + 8ull * rings.size, queue->last_avail);
	else
		store16(rings.used, 0);
}

bool virtqueue_wants_interrupt(
	const struct virtqueue *queue, struct guest_memory *memory, uint16_t used)
{
	struct rings rings = rings_in_use(queue, memory);
	if (queue->used == used)
		return false;
	if (!queue->event_idx)
		return !(load16(rings.avail) & AVAIL_NO_INTERRUPT);
	/* Whether used_event, after which the guest wants to hear, is among those returned. */
	uint16_t event = load16(rings.avail + 4 + 2ull * rings.size);
	return (uint16_t)(queue->used - event - 1) < (uint16_t)(queue->used - used);
}

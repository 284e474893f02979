/*
 * The device's side of a split virtqueue (virtio 1.x): everything that trusts a ring, in one place.
 *
 * A guest is hostile. virtqueue_look() reads each field once, checks it, and leaves behind a list
 * of ranges that lie inside guest memory; nothing later goes back to the descriptors, so what the
 * guest overlaps with them does not matter. Descriptors are all of one direction, since a network
 * card's chains are. No legitimate ring has a descriptor in two offered chains: together the chains
 * of one look have at most `size` descriptors, which also ends every loop.
 *
 * The vCPU stands still while the device looks, so plain accesses in program order suffice and the
 * offered chains cannot change in between.
 *
 * A look that returns an error has changed nothing; the device then asks for a reset.
 */
#pragma once

#include "engine/memory.h"

#define VIRTQUEUE_MAX 256

struct virtqueue {
	uint64_t desc, driver, device; /* guest addresses */
	uint16_t size;                 /* as set by the guest, at most VIRTQUEUE_MAX */
	uint16_t last_avail, used;
	uint8_t ready, event_idx; /* event_idx: VIRTIO_RING_F_EVENT_IDX was accepted */
	uint8_t pad[8];
};
_Static_assert(sizeof(struct virtqueue) == 40, "saved as it is");

/* Chains that the guest has offered, in its order, as checked ranges. */
struct virtqueue_chains {
	uint32_t count, segments;
	uint64_t bytes;
	struct {
		uint64_t bytes;
		uint16_t head;
	} chain[VIRTQUEUE_MAX];
	struct {
		uint8_t *at;
		uint64_t length; /* never 0 */
	} segment[VIRTQUEUE_MAX];
};

/* Begins to use the rings, from index 0. -EINVAL: size or place is wrong; it is not ready. */
int virtqueue_start(struct virtqueue *queue, struct guest_memory *memory) MUST_CHECK;

/*
 * Looks at the chains offered next, until `most` chains or at least `enough` bytes are found.
 * Changes nothing. `writable` is the direction that each descriptor must have. No chain at all is
 * not an error: chains->count is 0. -EINVAL: the ring or a chain is broken.
 */
int virtqueue_look(const struct virtqueue *queue, struct guest_memory *memory, bool writable,
	uint32_t most, uint64_t enough, struct virtqueue_chains *chains) MUST_CHECK;

/* Copies between the chains' bytes, from `offset` on, and a buffer; both within chains->bytes. */
void virtqueue_copy_out(
	const struct virtqueue_chains *chains, uint64_t offset, void *to, uint64_t length);
void virtqueue_copy_in(
	const struct virtqueue_chains *chains, uint64_t offset, const void *from, uint64_t length);

/* The three below need a look that has succeeded since the guest ran last. */

/* Gives the chains of the last look back, the first `written` bytes of them filled. */
void virtqueue_return(struct virtqueue *queue, struct guest_memory *memory,
	const struct virtqueue_chains *chains, uint64_t written);

/* Asks to be notified of the first chain after those taken so far. */
void virtqueue_ask_notify(const struct virtqueue *queue, struct guest_memory *memory);

/* Whether the guest wants an interrupt for the chains returned since `used` was the index. */
bool virtqueue_wants_interrupt(
	const struct virtqueue *queue, struct guest_memory *memory, uint16_t used);

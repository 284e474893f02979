/*
 * virtio-mmio, version 2 (virtio 1.x only): the registers that every virtio device has, for devices of
 * up to two queues. All offer VIRTIO_F_VERSION_1, without which they refuse to work, and
 * VIRTIO_RING_F_EVENT_IDX; a device's configuration never changes, nor does its generation.
 *
 * A device is a struct that begins with a struct virtio_mmio, and a struct virtio_kind that says what
 * is the same for all of its sort.
 *
 * Everything the guest puts into a queue is hostile: a descriptor loop, an address or a length
 * outside its memory, a chain in the wrong direction, an index that jumped, rings moved while they
 * are in use, makes the device stop and ask for a reset (VIRTIO_CONFIG_S_NEEDS_RESET); the process
 * goes on and no byte outside guest memory is touched. Each field of guest memory is read once,
 * then checked (engine/virtqueue.h).
 */
#pragma once

#include "engine/device.h"
#include "engine/virtqueue.h"

#define VIRTIO_QUEUES 2u
#define VIRTIO_CONFIG 8u /* bytes of configuration; zeros behind */

struct virtio_mmio {
	uint64_t features; /* accepted by the driver */
	uint32_t status, interrupt_status, features_select, driver_features_select, queue_select;
	uint8_t pad[4];
	uint8_t config[VIRTIO_CONFIG];
	struct virtqueue queue[VIRTIO_QUEUES];
};
_Static_assert(sizeof(struct virtio_mmio) == 120, "saved as it is");

struct virtio_kind {
	uint32_t id; /* virtio 1.1, 5 */
	uint32_t line;
	uint32_t queues;
	uint64_t features; /* offered beside those that all devices offer */
	/*
	 * The queue whose chains are taken as soon as the guest says that there are some, and whether they
	 * are to be written to. New receive buffers need nothing then: whoever has something for them asks at
	 * each exit.
	 */
	uint32_t served;
	bool is_written;
	/* Takes one of these chains; returns how many bytes of it were written. */
	uint64_t (*serve)(struct virtio_mmio *mmio, struct device_env *env,
		const struct virtqueue_chains *chain);
	/* The driver resets the device; NULL: nothing but the registers changes. */
	void (*reset)(struct virtio_mmio *mmio);
};

#define VIRTIO_EVENT_IDX (1ull << 29)
#define VIRTIO_VERSION_1 (1ull << 32)

void virtio_mmio_reset(struct virtio_mmio *mmio, const void *config, size_t length);
/* Register accesses within MMIO_VIRTIO_SIZE; `size` is 1, 2, 4 or 8. */
uint64_t virtio_mmio_read(const struct virtio_mmio *mmio, const struct virtio_kind *kind,
	uint32_t offset, unsigned size);
void virtio_mmio_write(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t offset, unsigned size, uint64_t value);

/* Whether a driver has set the device up and has not broken it since. */
bool virtio_mmio_is_live(const struct virtio_mmio *mmio);
/* The queue if the device may use it now, else NULL. */
struct virtqueue *virtio_mmio_queue(struct virtio_mmio *mmio, uint32_t index);

/* After chains were returned, `used` being the index before: notifications and the interrupt. */
void virtio_mmio_finish(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, struct virtqueue *queue, uint16_t used);
/* The guest broke the rules: nothing more is done for it until it resets the device. */
void virtio_mmio_ask_for_reset(
	struct virtio_mmio *mmio, const struct virtio_kind *kind, struct device_env *env);

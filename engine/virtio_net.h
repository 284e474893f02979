/*
 * virtio-net over virtio-mmio, virtio 1.x only (VIRTIO_F_VERSION_1), with VIRTIO_RING_F_EVENT_IDX,
 * VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF and VIRTIO_NET_F_STATUS. Queue 0 receives, queue 1
 * sends.
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

struct virtio_net {
	uint64_t features; /* accepted by the driver */
	uint32_t status, interrupt_status, features_select, driver_features_select, queue_select;
	uint8_t mac[6];
	uint8_t pad[6];
	struct virtqueue queue[2];
	uint64_t rx_frames, rx_dropped, tx_frames, tx_dropped; /* since the machine was made */
};
_Static_assert(sizeof(struct virtio_net) == 152, "saved as it is");

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6]);
/* Register accesses within MMIO_NET_SIZE; `size` is 1, 2, 4 or 8. */
uint64_t virtio_net_read(
	struct virtio_net *net, struct device_env *env, uint32_t offset, unsigned size);
void virtio_net_write(struct virtio_net *net, struct device_env *env, uint32_t offset,
	unsigned size, uint64_t value);

/*
 * Whether virtio_net_receive would do something with a frame of this length now. It does not while
 * the driver is not ready or has offered no buffer at all: then the frame can wait. A frame that
 * what is offered cannot hold is dropped, not kept waiting, since a driver may never offer more and
 * the frames behind it would wait for ever. Changes neither the device nor guest memory, so that
 * only the side that is live need ask.
 */
bool virtio_net_can_receive(struct virtio_net *net, struct device_env *env, size_t length);
/* Writes a frame into the guest's buffers. One that does not fit is dropped, the same everywhere.
 */
void virtio_net_receive(
	struct virtio_net *net, struct device_env *env, const void *frame, size_t length);

/*
 * virtio-net over virtio-mmio, virtio 1.x only (VIRTIO_F_VERSION_1), with VIRTIO_RING_F_EVENT_IDX,
 * VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF and VIRTIO_NET_F_STATUS. Queue 0 receives, queue 1 sends.
 *
 * Everything the guest puts into a queue is hostile: a descriptor loop, an address or a length outside
 * its memory, a chain in the wrong direction, an index that jumped, makes the device stop and ask for
 * a reset (VIRTIO_CONFIG_S_NEEDS_RESET); the process goes on and no byte outside guest memory is
 * touched. Each field of guest memory is read once, then checked.
 */
#pragma once

#include "engine/device.h"

#define VIRTQUEUE_MAX 256

struct virtqueue {
	uint64_t desc, driver, device; /* guest addresses */
	uint16_t size;                 /* as set by the guest, at most VIRTQUEUE_MAX */
	uint16_t last_avail, used, signalled;
	uint8_t ready, signalled_valid, pad[6];
};

struct virtio_net {
	uint64_t features; /* accepted by the driver */
	uint32_t status, interrupt_status, features_select, driver_features_select, queue_select;
	uint32_t config_generation;
	uint8_t mac[6];
	uint8_t pad[2];
	struct virtqueue queue[2];
	uint64_t rx_frames, tx_frames, tx_dropped;
};

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6]);
/* Register accesses within MMIO_NET_SIZE; `size` is 1, 2, 4 or 8. */
uint64_t virtio_net_read(struct virtio_net *net, struct device_env *env, uint32_t offset, unsigned size);
void virtio_net_write(struct virtio_net *net, struct device_env *env, uint32_t offset, unsigned size,
	uint64_t value);
/* Whether a frame of this length fits the buffers that the guest has offered. */
bool virtio_net_can_receive(struct virtio_net *net, struct device_env *env, size_t length);
/* Writes a frame into the guest's buffers. One that does not fit is dropped, the same everywhere. */
void virtio_net_receive(struct virtio_net *net, struct device_env *env, const void *frame, size_t length);

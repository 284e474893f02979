/*
 * virtio-net over virtio-mmio, with VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF and VIRTIO_NET_F_STATUS.
 * Queue 0 receives, queue 1 sends.
 */
#pragma once

#include "engine/virtio_mmio.h"

struct virtio_net {
	struct virtio_mmio mmio; /* its configuration begins with the MAC */
	uint64_t rx_frames, rx_dropped, tx_frames, tx_dropped; /* since the machine was made */
};
_Static_assert(sizeof(struct virtio_net) == 152, "saved as it is");

extern const struct virtio_kind virtio_net_kind;

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6]);

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

/*
 * virtio-net over virtio-mmio, with VIRTIO_NET_F_MAC, STATUS and MRG_RXBUF. Queue 0 receives, queue 1
 * sends.
 *
 * Checksums and segmentation are left to the dataplane, both ways: VIRTIO_NET_F_CSUM, HOST_TSO4, TSO6
 * and ECN, GUEST_CSUM, TSO4 and TSO6. A frame of up to 64 KiB travels whole, behind its header
 * (dataplane/frame.h), between guest and hold or log. The device does not look into frames; of the
 * header it lets nothing through that the driver has not agreed to.
 */
#pragma once

#include "dataplane/frame.h"

#include "engine/virtio_mmio.h"

struct virtio_net {
	struct virtio_mmio mmio; /* its configuration begins with the MAC */
	uint64_t rx_frames, rx_dropped, tx_frames, tx_dropped; /* since the machine was made */
};
_Static_assert(sizeof(struct virtio_net) == 152, "saved as it is");

extern const struct virtio_kind virtio_net_kind;

/* Whether a merged frame (dataplane/gro.h) would be taken. */
bool virtio_net_takes_merged(const struct virtio_net *net);

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6]);

/*
 * Whether virtio_net_receive would do something with a frame of this length, header
 * included, now. It does not while
 * the driver is not ready or has offered no buffer at all: then the frame can wait. A frame that
 * what is offered cannot hold is dropped, not kept waiting, since a driver may never offer more and
 * the frames behind it would wait for ever. Changes neither the device nor guest memory, so that
 * only the side that is live need ask.
 */
bool virtio_net_can_receive(struct virtio_net *net, struct device_env *env, size_t length);
/* Whether what is offered holds the frame, or never will: of buffers that are shared more may come soon. */
bool virtio_net_fits(struct virtio_net *net, struct device_env *env, size_t length);
/* How many of the first `count` frames, VIRTQUEUE_MAX at most, of these lengths fit into what is offered, one behind the other. */
unsigned virtio_net_fitting(
	struct virtio_net *net, struct device_env *env, const uint32_t *lengths, unsigned count);
/* Writes a frame, a struct frame_header and `length` bytes, into the guest's buffers. One that does not fit, or that
 * its driver could not understand, is dropped, the same everywhere. */
void virtio_net_receive(struct virtio_net *net, struct device_env *env, const void *header,
	const void *bytes, size_t length);

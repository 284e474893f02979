/*
 * Cutting a frame from the guest into what a network takes: generic segmentation offload.
 *
 * Of the guest's large TCP segment (struct frame_header) each call makes the next frame, with headers of
 * its own and all checksums, straight into the buffer that is sent; any other frame is one piece, whose
 * checksum is completed if the guest has left that to us. Nothing depends on what the port's device can
 * do. DPDK's rte_gso is not used: it knows no IPv6, computes no checksums, and wants the frame in its
 * buffers first, which copies once more than this does.
 */
#pragma once

#include "dataplane/frame.h"

struct gso {
	const uint8_t *frame;
	uint32_t length;
	struct frame_header header;
	struct frame_tcp tcp; /* of a frame that is cut */
	uint32_t done;        /* bytes of payload, or of the frame if it is not cut */
	uint32_t number;      /* frames made */
};

/* `output` begins with a struct frame_header. False: no piece of it can be sent, being no frame, one whose
 * header is wrong, or one whose pieces are longer than `mtu` bytes behind their Ethernet header and tag. */
bool gso_begin(struct gso *gso, const void *output, size_t length, uint32_t mtu);
bool gso_ended(const struct gso *gso);
/* How long the next piece is, and the piece itself. */
uint32_t gso_length(const struct gso *gso);
void gso_next(struct gso *gso, uint8_t *to);

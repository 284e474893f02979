/*
 * Merging what a network has cut: generic receive offload, the way back of gso.h.
 *
 * Segments of one TCP stream that arrive directly behind one another, with equal headers and right
 * checksums, become one frame that the guest takes in one piece. It is as if the sender had given its
 * large segment to us: cut again it is what arrived. DPDK's rte_gro is not used: it knows no IPv6, checks
 * no checksums, gives chains of buffers where the log wants one, and lets a segment with PSH overtake.
 */
#pragma once

#include "dataplane/frame.h"

struct gro {
	const uint8_t *first; /* the first segment, which must stay until gro_headers */
	struct frame_tcp tcp;
	uint32_t length; /* of the merged frame so far */
	uint32_t count;  /* segments */
	uint32_t sequence;
	uint16_t size; /* of the first one's payload; the others are no longer */
	uint8_t push;  /* TCP_PSH, of the last one */
	bool ended;    /* a shorter one, or one with PSH, was the last */
};

/* Whether others may be merged with this frame. */
bool gro_begin(struct gro *gro, const uint8_t *frame, size_t length);
/* Whether this frame is the next segment, and the merged frame is at most `most` bytes with it; then it is
 * counted in, its payload being `length` bytes behind `from`. */
bool gro_add(struct gro *gro, const uint8_t *frame, size_t frame_length, size_t most,
	const uint8_t **from, uint32_t *length);
/* Writes the headers of the merged frame, tcp.payload bytes, and what the guest is told of it. */
void gro_headers(const struct gro *gro, struct frame_header *header, uint8_t *frame);

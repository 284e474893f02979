/*
 * The rate of a client's link, one direction of it: what may be sent, or taken, counted in bytes on a wire. A
 * frame takes 24 bytes more there than it has here: preamble, checksum, gap.
 *
 * A wire goes on while the client's process is asleep or without a processor, as long as there is something to
 * carry: its card's rings hold that. So what is found behind a pause may have been on the wire since the pass
 * before found nothing, and never since earlier: time in which the guest had nothing for it is lost.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LINK_FRAME_EXTRA 24u
#define LINK_FRAME_LEAST 60u
#define LINK_RING_NS 10000000u /* as much as a card's ring holds */

struct link {
	double ns_per_byte; /* 0: no limit */
	double free_ns;     /* when it has carried all that it was given, on now_ns()'s clock */
	double rested_ns;   /* when there was last nothing to carry */
};

static inline void link_start(struct link *link, double bits_per_second)
{
	*link = (struct link){.ns_per_byte = bits_per_second > 0 ? 8e9 / bits_per_second : 0};
}

static inline bool link_is_free(const struct link *link, uint64_t now)
{
	return link->free_ns <= (double)now;
}

/* It is free, and there is nothing to carry. */
static inline void link_rest(struct link *link, uint64_t now)
{
	link->rested_ns = (double)now;
}

/* A frame without its checksum goes over it. */
static inline void link_take(struct link *link, uint64_t now, uint32_t frame)
{
	uint32_t bytes = (frame > LINK_FRAME_LEAST ? frame : LINK_FRAME_LEAST) + LINK_FRAME_EXTRA;
	double earliest = (double)now - LINK_RING_NS;
	if (earliest < link->rested_ns)
		earliest = link->rested_ns;
	if (link->free_ns < earliest)
		link->free_ns = earliest;
	link->free_ns += link->ns_per_byte * bytes;
}

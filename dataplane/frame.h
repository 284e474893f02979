/*
 * A frame on its way between the guest and the port: a header that says what is still to be done to it,
 * and the Ethernet frame behind. The header has virtio's layout (virtio 1.1, 5.1.6), so that the guest's
 * own is carried through hold and log as it is; the last field belongs to the guest's buffers and is 0.
 *
 * Here also is what is to be known of TCP in a frame, for cutting (gso.h) and merging (gro.h). Every
 * length and offset is checked before it is used: frames are hostile, from either side.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_NEEDS_CHECKSUM                                                                       \
	1u /* of flags: checksum_offset behind checksum_start is a partial one */

enum { FRAME_WHOLE = 0, FRAME_TCP4 = 1, FRAME_TCP6 = 4, FRAME_ECN = 0x80 }; /* of gso_type */

struct frame_header {
	uint8_t flags, gso_type;
	uint16_t header_length, gso_size, checksum_start, checksum_offset;
	uint16_t unused;
};
#define FRAME_HEADER 12u
_Static_assert(sizeof(struct frame_header) == FRAME_HEADER, "shared with the guest and the log");

#define ETHER_HEADER 14u

/* Where things are in a frame that carries TCP over IPv4 or IPv6, without extension headers. */
struct frame_tcp {
	bool v6;
	uint16_t ip, tcp, payload; /* offsets in the frame */
	uint32_t end;              /* of the payload, as IP says; what follows is padding */
};

enum { TCP_CHECKSUM = 16, TCP_FLAGS = 13, TCP_SEQUENCE = 4 }; /* offsets in the TCP header */
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_CWR = 0x80 };

/* False when the frame is something else, a fragment, or not what its lengths say. One VLAN tag may be
 * in front of IP. */
bool frame_find_tcp(const uint8_t *frame, size_t length, struct frame_tcp *tcp);

/* The Internet checksum (RFC 1071): a sum of 16-bit words to go on with, and its end. */
uint64_t frame_sum(uint64_t sum, const uint8_t *bytes, size_t length);
uint16_t frame_fold(uint64_t sum);
/* The sum of TCP's pseudo header for a TCP header and payload of `length` bytes. */
uint64_t frame_pseudo_sum(const uint8_t *frame, const struct frame_tcp *tcp, uint32_t length);

/* IP's own length, and IPv4's checksum, for a frame whose payload ends at `end`. */
void frame_set_ip(uint8_t *frame, const struct frame_tcp *tcp, uint32_t end);

static inline unsigned frame_get16(const uint8_t *bytes)
{
	return (unsigned)bytes[0] << 8 | bytes[1];
}

static inline uint32_t frame_get32(const uint8_t *bytes)
{
	return (uint32_t)frame_get16(bytes) << 16 | frame_get16(bytes + 2);
}

static inline void frame_put16(uint8_t *bytes, unsigned value)
{
	bytes[0] = (uint8_t)(value >> 8);
	bytes[1] = (uint8_t)value;
}

static inline void frame_put32(uint8_t *bytes, uint32_t value)
{
	frame_put16(bytes, value >> 16);
	frame_put16(bytes + 2, value & 0xffffu);
}

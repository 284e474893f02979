/* Frames with TCP in them, made and judged byte by byte: an independent opinion of their checksums. */
#pragma once

#include "dataplane/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What a test frame is made of. Options: 12 bytes, as timestamps have. */
struct plan {
	bool v6, tagged;
	uint8_t flags;
	uint32_t sequence;
	uint32_t payload, first; /* bytes, and a number that begins them */
	unsigned number;         /* IPv4's */
};

#define SEQUENCE 0xfffffff0u /* it wraps */

static inline size_t ip_at(const struct plan *plan)
{
	return plan->tagged ? 18 : 14;
}

static inline size_t tcp_at(const struct plan *plan)
{
	return ip_at(plan) + (plan->v6 ? 40 : 20);
}

static inline size_t payload_at(const struct plan *plan)
{
	return tcp_at(plan) + 32;
}

/* The Internet checksum as RFC 1071 tells it, of bytes with one zero behind. */
static inline unsigned slow_sum(unsigned sum, const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		sum += i % 2 ? bytes[i] : (unsigned)bytes[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static inline unsigned slow_pseudo(const uint8_t *ip, unsigned length)
{
	uint8_t rest[4] = {0, 6, (uint8_t)(length >> 8), (uint8_t)length};
	unsigned sum = slow_sum(0, rest, sizeof rest);
	return ip[0] >> 4 == 6 ? slow_sum(sum, ip + 8, 32) : slow_sum(sum, ip + 12, 8);
}

/* Returns the frame's length. Its checksums are right; with `partial` TCP's is the pseudo header's. */
static inline size_t make_frame(uint8_t *frame, const struct plan *plan, bool partial)
{
	size_t length = payload_at(plan) + plan->payload;
	uint8_t *ip = frame + ip_at(plan), *tcp = frame + tcp_at(plan);
	memset(frame, 0, payload_at(plan));
	memcpy(frame, "\x52\x54\0\0\0\1\x52\x54\0\0\0\2", 12);
	if (plan->tagged)
		memcpy(frame + 12, "\x81\0\0\7", 4);
	frame_put16(ip - 2, plan->v6 ? 0x86dd : 0x0800);
	unsigned segment = (unsigned)(length - tcp_at(plan));
	if (plan->v6) {
		ip[0] = 0x60;
		frame_put16(ip + 4, segment);
		memcpy(ip + 6, "\x06\x40", 2);
		memcpy(ip + 8,
			"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2", 32);
	} else {
		ip[0] = 0x45;
		frame_put16(ip + 2, 20 + segment);
		frame_put16(ip + 4, plan->number);
		memcpy(ip + 6, "\x40\0\x40\x06", 4);
		memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
		frame_put16(ip + 10, ~slow_sum(0, ip, 20) & 0xffff);
	}
	memcpy(tcp, "\x30\x39\x00\x50", 4);
	frame_put32(tcp + 4, plan->sequence);
	frame_put32(tcp + 8, 77);
	tcp[12] = 0x80;
	tcp[13] = plan->flags;
	memcpy(tcp + 14, "\x01\xf6", 2);
	memcpy(tcp + 20, "\1\1\x08\x0a\0\0\0\5\0\0\0\6", 12);
	for (uint32_t i = 0; i < plan->payload; i++)
		frame[payload_at(plan) + i] =
			(uint8_t)((plan->first + i) * 31 + (plan->first + i) / 256);
	unsigned pseudo = slow_pseudo(ip, segment);
	frame_put16(tcp + 16, partial ? pseudo : ~slow_sum(pseudo, tcp, segment) & 0xffff);
	return length;
}

static inline bool checksums_are_right(const uint8_t *frame, const struct plan *plan, size_t length)
{
	const uint8_t *ip = frame + ip_at(plan);
	size_t segment = length - tcp_at(plan);
	return (plan->v6 || slow_sum(0, ip, 20) == 0xffff) &&
	       slow_sum(slow_pseudo(ip, (unsigned)segment), frame + tcp_at(plan), segment) ==
		       0xffff;
}

/* A large segment as a guest leaves it to its card, header in front. Returns the length of both. */
static inline size_t make_large(uint8_t *output, const struct plan *plan, uint16_t size)
{
	struct frame_header header = {.flags = FRAME_NEEDS_CHECKSUM,
		.gso_type = plan->v6 ? FRAME_TCP6 : FRAME_TCP4,
		.header_length = (uint16_t)payload_at(plan),
		.gso_size = size,
		.checksum_start = (uint16_t)tcp_at(plan),
		.checksum_offset = 16};
	memcpy(output, &header, sizeof header);
	return FRAME_HEADER + make_frame(output + FRAME_HEADER, plan, true);
}

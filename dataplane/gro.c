#include "dataplane/gro.h"

#include <string.h>

#define IP_LENGTH_MAX 65535u

static bool checksums_right(const uint8_t *frame, const struct frame_tcp *tcp)
{
	uint32_t length = tcp->end - tcp->tcp;
	uint64_t pseudo = frame_pseudo_sum(frame, tcp, length);
	if (!tcp->v6 &&
		frame_fold(frame_sum(0, frame + tcp->ip, (size_t)(tcp->tcp - tcp->ip))) != 0xffffu)
		return false;
	return frame_fold(frame_sum(pseudo, frame + tcp->tcp, length)) == 0xffffu;
}

bool gro_begin(struct gro *gro, const uint8_t *frame, size_t length)
{
	*gro = (struct gro){.first = frame, .count = 1};
	if (!frame_find_tcp(frame, length, &gro->tcp) || gro->tcp.end == gro->tcp.payload ||
		frame[gro->tcp.tcp + TCP_FLAGS] != TCP_ACK)
		return false;
	gro->length = gro->tcp.end;
	gro->size = (uint16_t)(gro->tcp.end - gro->tcp.payload);
	gro->sequence = frame_get32(frame + gro->tcp.tcp + TCP_SEQUENCE) + gro->size;
	return true;
}

/* All but what differs between the segments of one: lengths, IPv4's number, checksums, the sequence, PSH. */
static bool headers_equal(const struct gro *gro, const uint8_t *frame)
{
	const struct frame_tcp *tcp = &gro->tcp;
	const uint8_t *a = gro->first, *b = frame;
	const uint8_t *ip_a = a + tcp->ip, *ip_b = b + tcp->ip;
	size_t ip = (size_t)(tcp->tcp - tcp->ip);
	if (memcmp(a, b, tcp->ip) != 0)
		return false;
	if (tcp->v6 ? memcmp(ip_a, ip_b, 4) != 0 || memcmp(ip_a + 6, ip_b + 6, ip - 6) != 0
		    : memcmp(ip_a, ip_b, 2) != 0 || memcmp(ip_a + 6, ip_b + 6, 4) != 0 ||
				memcmp(ip_a + 12, ip_b + 12, ip - 12) != 0)
		return false;
	a += tcp->tcp;
	b += tcp->tcp;
	return memcmp(a, b, 4) == 0 && memcmp(a + 8, b + 8, 5) == 0 &&
	       a[TCP_FLAGS] == (b[TCP_FLAGS] & (uint8_t)~TCP_PSH) &&
	       memcmp(a + 14, b + 14, 2) == 0 &&
	       memcmp(a + 18, b + 18, (size_t)(tcp->payload - tcp->tcp - 18)) == 0;
}

bool gro_add(struct gro *gro, const uint8_t *frame, size_t frame_length, size_t most,
	const uint8_t **from, uint32_t *length)
{
	struct frame_tcp tcp;
	if (gro->ended || !frame_find_tcp(frame, frame_length, &tcp) || tcp.v6 != gro->tcp.v6 ||
		tcp.ip != gro->tcp.ip || tcp.tcp != gro->tcp.tcp || tcp.payload != gro->tcp.payload)
		return false;
	uint32_t payload = tcp.end - tcp.payload;
	if (payload == 0 || payload > gro->size || gro->length + payload > most ||
		gro->length + payload - tcp.ip > IP_LENGTH_MAX ||
		frame_get32(frame + tcp.tcp + TCP_SEQUENCE) != gro->sequence ||
		!headers_equal(gro, frame) || !checksums_right(frame, &tcp) ||
		(gro->count == 1 && !checksums_right(gro->first, &gro->tcp)))
		return false;
	gro->ended = payload < gro->size || (frame[tcp.tcp + TCP_FLAGS] & TCP_PSH);
	gro->push = frame[tcp.tcp + TCP_FLAGS] & TCP_PSH;
	gro->sequence += payload;
	gro->length += payload;
	gro->count++;
	*from = frame + tcp.payload;
	*length = payload;
	return true;
}

void gro_headers(const struct gro *gro, struct frame_header *header, uint8_t *frame)
{
	const struct frame_tcp *place = &gro->tcp;
	memcpy(frame, gro->first, place->payload);
	frame_set_ip(frame, place, gro->length);
	uint8_t *tcp = frame + place->tcp;
	tcp[TCP_FLAGS] |= gro->push;
	uint32_t length = gro->length - place->tcp;
	frame_put16(tcp + TCP_CHECKSUM, frame_fold(frame_pseudo_sum(frame, place, length)));
	*header = (struct frame_header){
		.flags = FRAME_NEEDS_CHECKSUM,
		.gso_type = place->v6 ? FRAME_TCP6 : FRAME_TCP4,
		.header_length = place->payload,
		.gso_size = gro->size,
		.checksum_start = place->tcp,
		.checksum_offset = TCP_CHECKSUM,
	};
}

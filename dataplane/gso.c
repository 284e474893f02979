#include "dataplane/gso.h"

#include <string.h>

#define VLAN_TAG 4u
#define PIECES_MAX 2048u /* a guest's smallest segment size makes fewer of 64 KiB */

static bool is_cut(const struct gso *gso)
{
	return gso->header.gso_type != FRAME_WHOLE;
}

static bool may_be_cut(struct gso *gso)
{
	struct frame_header *header = &gso->header;
	uint8_t type = header->gso_type & (uint8_t)~FRAME_ECN;
	return (type == FRAME_TCP4 || type == FRAME_TCP6) &&
	       frame_find_tcp(gso->frame, gso->length, &gso->tcp) &&
	       gso->tcp.v6 == (type == FRAME_TCP6) && gso->tcp.end == gso->length &&
	       (header->flags & FRAME_NEEDS_CHECKSUM) && header->checksum_start == gso->tcp.tcp &&
	       header->checksum_offset == TCP_CHECKSUM && header->gso_size > 0 &&
	       (gso->length - gso->tcp.payload) / header->gso_size < PIECES_MAX;
}

static bool checksum_fits(const struct gso *gso)
{
	const struct frame_header *header = &gso->header;
	uint32_t at = (uint32_t)header->checksum_start + header->checksum_offset;
	return !(header->flags & FRAME_NEEDS_CHECKSUM) ||
	       (header->checksum_start < gso->length && at + 2 <= gso->length);
}

bool gso_begin(struct gso *gso, const void *output, size_t length, uint32_t mtu)
{
	const uint8_t *bytes = output;
	if (length < FRAME_HEADER + ETHER_HEADER || length > UINT32_MAX)
		return false;
	*gso = (struct gso){
		.frame = bytes + FRAME_HEADER, .length = (uint32_t)(length - FRAME_HEADER)};
	memcpy(&gso->header, bytes, sizeof gso->header);
	if (is_cut(gso) ? !may_be_cut(gso) : !checksum_fits(gso))
		return false;
	bool tagged = frame_get16(gso->frame + ETHER_HEADER - 2) == 0x8100u;
	return gso_length(gso) <= mtu + ETHER_HEADER + (tagged ? VLAN_TAG : 0);
}

bool gso_ended(const struct gso *gso)
{
	/* A large segment without a payload is one piece all the same. */
	return is_cut(gso) ? gso->number > 0 && gso->tcp.payload + gso->done == gso->length
			   : gso->number > 0;
}

static uint32_t next_payload(const struct gso *gso)
{
	uint32_t left = gso->length - gso->tcp.payload - gso->done;
	return left < gso->header.gso_size ? left : gso->header.gso_size;
}

uint32_t gso_length(const struct gso *gso)
{
	return is_cut(gso) ? gso->tcp.payload + next_payload(gso) : gso->length;
}

/* Zero would say that there is no checksum; all ones are worth the same. */
static void put_checksum(uint8_t *at, uint64_t sum)
{
	uint16_t checksum = (uint16_t)~frame_fold(sum);
	frame_put16(at, checksum ? checksum : 0xffffu);
}

static void next_whole(const struct gso *gso, uint8_t *to)
{
	const struct frame_header *header = &gso->header;
	memcpy(to, gso->frame, gso->length);
	if (header->flags & FRAME_NEEDS_CHECKSUM) {
		/* The field has the pseudo header's sum, which is summed with the rest. */
		uint32_t start = header->checksum_start;
		put_checksum(to + start + header->checksum_offset,
			frame_sum(0, to + start, gso->length - start));
	}
}

static void next_cut(struct gso *gso, uint8_t *to)
{
	uint32_t payload = next_payload(gso), headers = gso->tcp.payload, end = headers + payload;
	memcpy(to, gso->frame, headers);
	memcpy(to + headers, gso->frame + headers + gso->done, payload);
	bool last = headers + gso->done + payload == gso->length;
	uint8_t *ip = to + gso->tcp.ip, *tcp = to + gso->tcp.tcp;
	if (!gso->tcp.v6)
		frame_put16(ip + 4, (frame_get16(ip + 4) + gso->number) & 0xffffu); /* its number */
	frame_set_ip(to, &gso->tcp, end);
	frame_put32(tcp + TCP_SEQUENCE, frame_get32(tcp + TCP_SEQUENCE) + gso->done);
	if (!last)
		tcp[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (gso->number > 0)
		tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
	frame_put16(tcp + TCP_CHECKSUM, 0);
	uint32_t length = end - gso->tcp.tcp;
	put_checksum(tcp + TCP_CHECKSUM,
		frame_sum(frame_pseudo_sum(to, &gso->tcp, length), tcp, length));
	gso->done += payload;
}

void gso_next(struct gso *gso, uint8_t *to)
{
	if (is_cut(gso))
		next_cut(gso, to);
	else
		next_whole(gso, to);
	gso->number++;
}

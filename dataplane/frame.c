#include "dataplane/frame.h"

#include <string.h>

#define VLAN_TAG 4u
#define TYPE_VLAN 0x8100u
#define TYPE_IP4 0x0800u
#define TYPE_IP6 0x86ddu
#define IP4_HEADER 20u
#define IP6_HEADER 40u
#define TCP_HEADER 20u
#define PROTOCOL_TCP 6u

/* Offsets in the headers of IPv4 (RFC 791) and IPv6 (RFC 8200). */
enum { IP4_LENGTH = 2, IP4_FRAGMENT = 6, IP4_PROTOCOL = 9, IP4_CHECKSUM = 10, IP4_ADDRESSES = 12 };
enum { IP6_LENGTH = 4, IP6_NEXT = 6, IP6_ADDRESSES = 8 };

static bool find_ip4(const uint8_t *frame, size_t length, struct frame_tcp *tcp)
{
	const uint8_t *ip = frame + tcp->ip;
	if (length < tcp->ip + IP4_HEADER || ip[0] >> 4 != 4)
		return false;
	unsigned header = 4u * (ip[0] & 15u);
	tcp->tcp = (uint16_t)(tcp->ip + header);
	tcp->end = tcp->ip + frame_get16(ip + IP4_LENGTH);
	/* More fragments, or an offset. */
	return header >= IP4_HEADER && ip[IP4_PROTOCOL] == PROTOCOL_TCP &&
	       (frame_get16(ip + IP4_FRAGMENT) & 0x3fffu) == 0;
}

static bool find_ip6(const uint8_t *frame, size_t length, struct frame_tcp *tcp)
{
	const uint8_t *ip = frame + tcp->ip;
	if (length < tcp->ip + IP6_HEADER || ip[0] >> 4 != 6)
		return false;
	tcp->tcp = (uint16_t)(tcp->ip + IP6_HEADER);
	tcp->end = tcp->tcp + frame_get16(ip + IP6_LENGTH);
	return ip[IP6_NEXT] == PROTOCOL_TCP;
}

bool frame_find_tcp(const uint8_t *frame, size_t length, struct frame_tcp *tcp)
{
	*tcp = (struct frame_tcp){.ip = ETHER_HEADER};
	if (length < ETHER_HEADER + VLAN_TAG)
		return false;
	unsigned type = frame_get16(frame + ETHER_HEADER - 2);
	if (type == TYPE_VLAN) {
		tcp->ip += VLAN_TAG;
		type = frame_get16(frame + tcp->ip - 2);
	}
	tcp->v6 = type == TYPE_IP6;
	if (!(tcp->v6 ? find_ip6(frame, length, tcp)
		      : type == TYPE_IP4 && find_ip4(frame, length, tcp)))
		return false;
	if (tcp->end > length || tcp->end < tcp->tcp + TCP_HEADER)
		return false;
	unsigned header = 4u * (frame[tcp->tcp + 12] >> 4);
	tcp->payload = (uint16_t)(tcp->tcp + header);
	return header >= TCP_HEADER && tcp->payload <= tcp->end;
}

/* Words as they lie in memory: the sum of swapped words is the swapped sum, and frame_fold swaps. */
uint64_t frame_sum(uint64_t sum, const uint8_t *bytes, size_t length)
{
	for (; length >= 4; length -= 4, bytes += 4) {
		uint32_t word;
		memcpy(&word, bytes, sizeof word);
		sum += word;
	}
	uint32_t rest = 0;
	memcpy(&rest, bytes, length);
	return sum + rest;
}

uint16_t frame_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffffu) + (sum >> 16);
	return __builtin_bswap16((uint16_t)sum);
}

uint64_t frame_pseudo_sum(const uint8_t *frame, const struct frame_tcp *tcp, uint32_t length)
{
	uint8_t rest[8] = {[7] = PROTOCOL_TCP};
	frame_put32(rest, length);
	uint64_t sum = frame_sum(0, rest, sizeof rest);
	return tcp->v6 ? frame_sum(sum, frame + tcp->ip + IP6_ADDRESSES, 32)
		       : frame_sum(sum, frame + tcp->ip + IP4_ADDRESSES, 8);
}

void frame_set_ip(uint8_t *frame, const struct frame_tcp *tcp, uint32_t end)
{
	uint8_t *ip = frame + tcp->ip;
	if (tcp->v6) {
		frame_put16(ip + IP6_LENGTH, end - tcp->tcp);
		return;
	}
	frame_put16(ip + IP4_LENGTH, end - tcp->ip);
	frame_put16(ip + IP4_CHECKSUM, 0);
	uint16_t sum = frame_fold(frame_sum(0, ip, (size_t)(tcp->tcp - tcp->ip)));
	frame_put16(ip + IP4_CHECKSUM, (uint16_t)~sum);
}

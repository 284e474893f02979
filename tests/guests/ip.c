#include "tests/guests/ip.h"

#include "tests/guests/runtime.h"

#define ETHERNET_HEADER 14u
#define IP_HEADER 20u

enum { TYPE_IP = 0x0800, TYPE_ARP = 0x0806 };
enum { ICMP = 1, UDP = 17 };

struct arp {
	uint8_t ethernet_to[6], ethernet_from[6];
	uint16_t ethernet_type;
	uint16_t hardware, protocol;
	uint8_t hardware_length, protocol_length;
	uint16_t operation;
	uint8_t sender_mac[6];
	uint32_t sender_ip;
	uint8_t target_mac[6];
	uint32_t target_ip;
} __attribute__((packed));

struct icmp_headers {
	uint8_t ethernet_and_ip[ETHERNET_HEADER + IP_HEADER];
	uint8_t type, code;
	uint16_t checksum;
} __attribute__((packed));
enum { ECHO_REPLY = 0, ECHO = 8 };

_Static_assert(sizeof(struct udp_headers) == ETHERNET_HEADER + IP_HEADER + 8, "as on the wire");
_Static_assert(sizeof(struct arp) == 42, "as on the wire");

static uint32_t own_ip; /* big-endian */

static uint16_t be16(unsigned value)
{
	return __builtin_bswap16((uint16_t)value);
}

/* The one's complement sum of the IP header (RFC 1071), which is 0xffff when its checksum is right.
 * The sum is the same in any byte order. */
static uint16_t ip_sum(const struct udp_headers *headers)
{
	const uint8_t *at = &headers->version;
	uint64_t sum = 0;
	for (unsigned i = 0; i < IP_HEADER; i += 4) {
		uint32_t word;
		__builtin_memcpy(&word, at + i, sizeof word);
		sum += word;
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

static void copy_mac(uint8_t to[6], const uint8_t from[6])
{
	__builtin_memcpy(to, from, 6);
}

static void turn_ethernet(struct udp_headers *headers)
{
	copy_mac(headers->ethernet_to, headers->ethernet_from);
	copy_mac(headers->ethernet_from, net_mac);
}

static void turn_ip(struct udp_headers *headers)
{
	turn_ethernet(headers);
	headers->ip_to = headers->ip_from;
	headers->ip_from = own_ip;
	headers->hops = 64;
	headers->service = 0;
	headers->identification = 0;
	headers->fragment =
		be16(0x4000); /* don't: then the identification means nothing (RFC 6864) */
}

static void set_ip_length(struct udp_headers *headers, size_t length)
{
	headers->ip_length = be16((unsigned)length);
	headers->ip_checksum = 0;
	headers->ip_checksum = (uint16_t)~ip_sum(headers);
}

void udp_turn(struct udp_headers *headers)
{
	turn_ip(headers);
	uint16_t port = headers->port_from;
	headers->port_from = headers->port_to;
	headers->port_to = port;
	/* None, which UDP allows over IPv4: summing would cost more than serving. Nor are received
	 * sums looked at: a sender on the same host may leave them to a card that is not there. */
	headers->udp_checksum = 0;
}

void udp_set_length(struct udp_headers *headers, size_t payload_length)
{
	headers->udp_length = be16((unsigned)payload_length + 8);
	set_ip_length(headers, payload_length + 8 + IP_HEADER);
}

void udp_answer(struct packet *packet, size_t length)
{
	struct udp_headers *headers = (struct udp_headers *)packet->frame;
	udp_turn(headers);
	udp_set_length(headers, length);
	packet->length = (uint32_t)(sizeof *headers + length);
	net_send(packet, NULL, 0);
}

static void arp_input(struct packet *packet)
{
	struct arp *arp = (struct arp *)packet->frame;
	if (packet->length < sizeof *arp || arp->hardware != be16(1) ||
		arp->protocol != be16(TYPE_IP) || arp->operation != be16(1) ||
		arp->target_ip != own_ip) {
		net_drop(packet);
		return;
	}
	turn_ethernet((struct udp_headers *)packet->frame);
	arp->operation = be16(2);
	copy_mac(arp->target_mac, arp->sender_mac);
	copy_mac(arp->sender_mac, net_mac);
	arp->target_ip = arp->sender_ip;
	arp->sender_ip = own_ip;
	packet->length = sizeof *arp;
	net_send(packet, NULL, 0);
}

static void icmp_input(struct packet *packet, size_t ip_length)
{
	struct icmp_headers *icmp = (struct icmp_headers *)packet->frame;
	if (ip_length < IP_HEADER + 8 || icmp->type != ECHO || icmp->code != 0) {
		net_drop(packet);
		return;
	}
	/* The sum changes by what the type changes by (RFC 1624), so the data need not be read. */
	unsigned sum = (uint16_t)~icmp->checksum + (0xffffu - (unsigned)ECHO);
	icmp->checksum = (uint16_t) ~((sum & 0xffff) + (sum >> 16));
	icmp->type = ECHO_REPLY;
	turn_ip((struct udp_headers *)packet->frame);
	set_ip_length((struct udp_headers *)packet->frame, ip_length);
	packet->length = (uint32_t)(ETHERNET_HEADER + ip_length);
	net_send(packet, NULL, 0);
}

static void udp_input(struct packet *packet, size_t ip_length)
{
	struct udp_headers *headers = (struct udp_headers *)packet->frame;
	size_t length = be16(headers->udp_length);
	if (length < 8 || length > ip_length - IP_HEADER) {
		net_drop(packet);
		return;
	}
	on_datagram(packet, be16(headers->port_to), (char *)(headers + 1), length - 8);
}

void ip_start(uint32_t address)
{
	own_ip = __builtin_bswap32(address);
}

void ip_input(struct packet *packet)
{
	const struct udp_headers *headers = (const struct udp_headers *)packet->frame;
	if (packet->length >= ETHERNET_HEADER && headers->ethernet_type == be16(TYPE_ARP)) {
		arp_input(packet);
		return;
	}
	if (packet->length < sizeof *headers || headers->ethernet_type != be16(TYPE_IP) ||
		headers->ip_to != own_ip || headers->version != 0x45)
		goto drop;
	size_t length = be16(headers->ip_length);
	bool is_fragment = headers->fragment & be16(0x3fff);
	if (length < IP_HEADER + 8 || length > packet->length - ETHERNET_HEADER || is_fragment ||
		ip_sum(headers) != 0xffff)
		goto drop;
	if (headers->protocol == ICMP)
		icmp_input(packet, length);
	else if (headers->protocol == UDP)
		udp_input(packet, length);
	else
		goto drop;
	return;

drop:
	net_drop(packet);
}

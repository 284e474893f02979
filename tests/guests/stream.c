/*
 * stream: a guest that moves data over its network device as fast as it can, in ring 3.
 *
 * It speaks TCP's segments, and of TCP only what clocks a sender: a window, and an acknowledgement for
 * every second full segment. There is no handshake; a SYN from another port begins a service anew. One client
 * at a time, and nothing that is lost is sent again.
 *
 *     7   echo      sends each payload back
 *     9   discard   acknowledges what comes
 *     19  chargen   sends as much as the newest acknowledgement's window allows (its field times 4,096 bytes)
 *
 * Full is 1,460 bytes of payload; for the ports 1009 and 1019 it is 64,240, in frames of nearly 64 KiB, which the
 * device cuts when they are sent, and merges of what is received.
 */
#include "tests/guests/net.h"
#include "tests/guests/ring_3.h"
#include "tests/guests/runtime.h"

#define SEGMENT 1460u
#define LARGE_SEGMENT (44 * SEGMENT) /* in one IPv4 packet */
#define WINDOW_UNIT 4096u
#define TCP_AT 34u
#define HEADERS 54u
#define ECHO_MAX (NET_FRAME_MAX - HEADERS)
#define BATCH 64u

enum { ECHO = 7, DISCARD = 9, CHARGEN = 19, LARGE = 1000 };
enum { SYN = 0x02, ACK = 0x10 };

/* Ethernet, IPv4 and TCP, big-endian. */
struct __attribute__((packed)) headers {
	uint8_t ethernet_to[6], ethernet_from[6];
	uint16_t ethernet_type;
	uint8_t version, service;
	uint16_t ip_length, identification, fragment;
	uint8_t hops, protocol;
	uint16_t ip_checksum;
	uint32_t ip_from, ip_to;
	uint16_t port_from, port_to;
	uint32_t sequence, acknowledged;
	uint8_t offset, flags;
	uint16_t window, checksum, urgent;
};
_Static_assert(sizeof(struct headers) == HEADERS, "as on the wire");

static uint8_t payload[LARGE_SEGMENT]; /* of what chargen sends */

static struct {
	struct headers headers;                     /* of an acknowledgement */
	uint32_t segment, expected, unacknowledged; /* bytes */
	bool begun;
} discard;

static struct {
	struct headers headers; /* of a full frame */
	uint32_t segment, next, limit;
	bool begun;
} chargen;

static uint16_t swap16(uint16_t value)
{
	return __builtin_bswap16(value);
}

static uint32_t swap32(uint32_t value)
{
	return __builtin_bswap32(value);
}

static uint32_t sum(uint32_t so_far, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;
	for (size_t i = 0; i + 1 < length; i += 2)
		so_far += (uint32_t)at[i] << 8 | at[i + 1];
	return so_far;
}

static uint16_t fold(uint32_t value)
{
	while (value >> 16)
		value = (value & 0xffff) + (value >> 16);
	return (uint16_t)value;
}

/* The way back to whom a segment came from; with that much payload. The device completes TCP's checksum. */
static void turn(struct headers *headers, const struct headers *from, uint32_t length)
{
	*headers = *from;
	memcpy(headers->ethernet_to, from->ethernet_from, 6);
	memcpy(headers->ethernet_from, net_mac, 6);
	headers->ip_length = swap16((uint16_t)(HEADERS - 14 + length));
	headers->ip_from = from->ip_to;
	headers->ip_to = from->ip_from;
	headers->port_from = from->port_to;
	headers->port_to = from->port_from;
	headers->flags = ACK;
	headers->window = 0xffff;
	headers->ip_checksum = 0;
	headers->ip_checksum = swap16((uint16_t)~fold(sum(0, &headers->version, 20)));
	headers->checksum = swap16(fold(sum(6 + 20 + length, &headers->ip_from, 8)));
}

static void send(const struct headers *headers, uint32_t length)
{
	struct packet *packet = net_packet();
	packet->header = (struct net_header){
		.flags = NET_CHECKSUM, .checksum_start = TCP_AT, .checksum_offset = 16};
	if (length > SEGMENT) {
		packet->header.gso_type = NET_TCP4;
		packet->header.gso_size = SEGMENT;
		packet->header.header_length = HEADERS;
	}
	memcpy(packet->frame, headers, HEADERS);
	packet->length = HEADERS;
	net_send(packet, payload, length);
}

/* An acknowledgement goes with every second full segment, and, `now`, with whatever is left. */
static void acknowledge(bool now)
{
	if (discard.unacknowledged < (now ? 1 : 2 * discard.segment) || net_room() == 0)
		return;
	discard.headers.acknowledged = swap32(discard.expected);
	send(&discard.headers, 0);
	discard.unacknowledged = 0;
}

/* Of the connection that `headers` answer. */
static bool is_of(const struct headers *headers, const struct headers *from)
{
	return headers->port_to == from->port_from;
}

/* A SYN that comes again begins nothing anew. */
static void discard_takes(const struct headers *from, uint32_t length, uint32_t segment)
{
	if ((from->flags & SYN) && !(discard.begun && is_of(&discard.headers, from))) {
		turn(&discard.headers, from, 0);
		discard.segment = segment;
		discard.expected = swap32(from->sequence);
		discard.unacknowledged = 0;
		discard.begun = true;
		return;
	}
	/* What was merged on its way may begin with bytes that have come before. */
	uint32_t known = discard.expected - swap32(from->sequence);
	if (!discard.begun || !is_of(&discard.headers, from) || known >= length)
		return;
	discard.expected += length - known;
	discard.unacknowledged += length - known;
	acknowledge(false);
}

static void chargen_takes(const struct headers *from, uint32_t segment)
{
	uint32_t acknowledged = swap32(from->acknowledged);
	if ((from->flags & SYN) && !(chargen.begun && is_of(&chargen.headers, from))) {
		turn(&chargen.headers, from, segment);
		chargen.segment = segment;
		chargen.next = acknowledged;
		chargen.begun = true;
	} else if ((from->flags & SYN) || !chargen.begun || !is_of(&chargen.headers, from)) {
		return;
	}
	chargen.limit = acknowledged + swap16(from->window) * WINDOW_UNIT;
}

static void echo(struct packet *packet, uint32_t length)
{
	struct headers headers;
	if (length > ECHO_MAX) {
		net_drop(packet);
		return;
	}
	turn(&headers, (const struct headers *)packet->frame, length);
	headers.sequence = ((const struct headers *)packet->frame)->sequence;
	memcpy(packet->frame, &headers, HEADERS);
	packet->header = (struct net_header){
		.flags = NET_CHECKSUM, .checksum_start = TCP_AT, .checksum_offset = 16};
	packet->length = HEADERS + length;
	net_send(packet, NULL, 0);
}

static void dispatch(struct packet *packet)
{
	const struct headers *headers = (const struct headers *)packet->frame;
	uint32_t end = 14u + swap16(headers->ip_length);
	if (packet->length < HEADERS || headers->ethernet_type != swap16(0x0800) ||
		headers->version != 0x45 || headers->protocol != 6 || headers->offset != 0x50 ||
		end < HEADERS || end > packet->length) {
		net_drop(packet);
		return;
	}
	uint32_t length = end - HEADERS;
	switch (swap16(headers->port_to)) {
	case ECHO:
		echo(packet, length);
		return;
	case DISCARD:
		discard_takes(headers, length, SEGMENT);
		break;
	case DISCARD + LARGE:
		discard_takes(headers, length, LARGE_SEGMENT);
		break;
	case CHARGEN:
		chargen_takes(headers, SEGMENT);
		break;
	case CHARGEN + LARGE:
		chargen_takes(headers, LARGE_SEGMENT);
		break;
	default:
		break;
	}
	net_drop(packet);
}

static bool may_generate(void)
{
	return chargen.begun && (int32_t)(chargen.limit - chargen.next - chargen.segment) >= 0;
}

/* As much as the window and the device allow. */
static void generate(void)
{
	for (unsigned room = net_room(); room > 0 && may_generate(); room--) {
		chargen.headers.sequence = swap32(chargen.next);
		send(&chargen.headers, chargen.segment);
		chargen.next += chargen.segment;
	}
}

static void serve(void)
{
	for (;;) {
		struct packet *packet;
		unsigned taken = 0;
		/* Each exit brings more: one for a batch. */
		for (; taken < BATCH && (packet = net_receive()); taken++)
			dispatch(packet);
		generate();
		if (taken == 0)
			acknowledge(true);
		net_flush();
		if (taken == 0 && net_listen(may_generate()))
			ring_3_sleep();
	}
}

void on_interrupt(unsigned line, const struct registers *interrupted)
{
	(void)line, (void)interrupted;
}

int guest_main(uint64_t memory_size, const char *command_line)
{
	(void)memory_size, (void)command_line;
	const char *wrong = net_start(NET_SEND_CHECKSUM | NET_SEND_LARGE | NET_RECEIVE_LARGE);
	if (wrong) {
		print(wrong);
		return 1;
	}
	print("stream: serving");
	ring_3_run(serve);
}

#include "dataplane/announce.h"

#include <string.h>

#define ETHER_HEADER 14u
#define ARP_BODY 28u
#define TYPE_ARP 0x0806u
#define TYPE_RARP 0x8035u
#define REQUEST 1u
#define REVERSE_REQUEST 3u

/* Offsets in an ARP packet for IPv4 over Ethernet (RFC 826), from the start of the frame. */
enum {
	AT_SOURCE = 6,
	AT_TYPE = 12,
	AT_HARDWARE = 14,
	AT_PROTOCOL = 16,
	AT_HARDWARE_LENGTH = 18,
	AT_PROTOCOL_LENGTH = 19,
	AT_OPERATION = 20,
	AT_SENDER_MAC = 22,
	AT_SENDER_IP = 28,
	AT_TARGET_MAC = 32,
	AT_TARGET_IP = 38,
};

static unsigned get16(const uint8_t *bytes)
{
	return (unsigned)bytes[0] << 8 | bytes[1];
}

static void put16(uint8_t *bytes, unsigned value)
{
	bytes[0] = (uint8_t)(value >> 8);
	bytes[1] = (uint8_t)value;
}

void announce_learn(struct announce *announce, const void *frame, size_t length)
{
	static const uint8_t nobody[4];
	const uint8_t *bytes = frame;
	if (length < ETHER_HEADER + ARP_BODY || get16(bytes + AT_TYPE) != TYPE_ARP)
		return;
	if (get16(bytes + AT_HARDWARE) != 1 || get16(bytes + AT_PROTOCOL) != 0x0800 ||
		bytes[AT_HARDWARE_LENGTH] != 6 || bytes[AT_PROTOCOL_LENGTH] != 4)
		return;
	/* A guest that forwards or answers for others must not make us announce their addresses; a
	 * sender of 0.0.0.0 is a probe for an address that the guest does not have yet (RFC 5227).
	 */
	if (memcmp(bytes + AT_SENDER_MAC, announce->mac, 6) != 0 ||
		memcmp(bytes + AT_SENDER_IP, nobody, 4) == 0)
		return;
	memcpy(announce->ip, bytes + AT_SENDER_IP, 4);
	announce->ip_known = true;
}

bool announce_frame(const struct announce *announce, unsigned number, uint8_t frame[ANNOUNCE_FRAME])
{
	if (number > 1 || (number == 1 && !announce->ip_known))
		return false;

	memset(frame, 0, ANNOUNCE_FRAME);
	memset(frame, 0xff, 6);
	memcpy(frame + AT_SOURCE, announce->mac, 6);
	put16(frame + AT_HARDWARE, 1);
	put16(frame + AT_PROTOCOL, 0x0800);
	frame[AT_HARDWARE_LENGTH] = 6;
	frame[AT_PROTOCOL_LENGTH] = 4;
	memcpy(frame + AT_SENDER_MAC, announce->mac, 6);
	if (number == 0) {
		/* Who am I? Nobody answers; every switch on the way learns the port (RFC 903). */
		put16(frame + AT_TYPE, TYPE_RARP);
		put16(frame + AT_OPERATION, REVERSE_REQUEST);
		memcpy(frame + AT_TARGET_MAC, announce->mac, 6);
	} else {
		/* An announcement: sender and target are the same address (RFC 5227, section 2.3).
		 */
		put16(frame + AT_TYPE, TYPE_ARP);
		put16(frame + AT_OPERATION, REQUEST);
		memcpy(frame + AT_SENDER_IP, announce->ip, 4);
		memcpy(frame + AT_TARGET_IP, announce->ip, 4);
	}
	return true;
}

/*
 * The frames that tell a switch where the guest lives now: a RARP announcement with its MAC, which
 * needs nothing else, and a gratuitous ARP once an IPv4 address of the guest has been seen in what it
 * sends.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct announce {
	uint8_t mac[6];
	uint8_t ip[4];
	bool ip_known;
};

/* Learns the guest's addresses from a frame it sends (ARP). Hostile bytes. */
void announce_learn(struct announce *announce, const void *frame, size_t length);

#define ANNOUNCE_FRAME 60
/* Builds the `number`th announcement frame (0: RARP, 1: gratuitous ARP); false when there is none. */
bool announce_frame(
	const struct announce *announce, unsigned number, uint8_t frame[ANNOUNCE_FRAME]);

/*
 * A driver for virtio-net over virtio-mmio (virtio 1.2: 4.2, 5.1), written for few exits: with
 * VIRTIO_RING_F_EVENT_IDX the device is told of new buffers only when it waits for them, and
 * interrupts only a guest that is about to sleep.
 *
 * Packets change hands and are never copied: one that came from net_receive() or net_packet()
 * belongs to the caller until net_send() or net_drop() takes it back.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NET_FRAME_MAX 1514u /* no VLAN tag, no checksum at the end */

/* What is still to be done to a frame (struct virtio_net_hdr_v1). All 0, as in a packet that one is given: nothing. */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t header_length, gso_size, checksum_start, checksum_offset, buffers;
};
enum { NET_CHECKSUM = 1, NET_TCP4 = 1 }; /* flags; gso_type */

#ifndef NET_ROOM
#define NET_ROOM 2032 /* bytes in a packet */
#endif
struct packet {
	uint32_t length; /* of the frame, in bytes */
	struct net_header header;
	uint8_t frame[NET_ROOM];
};

/* Which of these the guest wants (5.1.3). */
#define NET_SEND_CHECKSUM (1u << 0)
#define NET_SEND_LARGE (1u << 11)
#define NET_RECEIVE_LARGE (1u << 1 | 1u << 7 | 1u << 8)

/* Sets the device up. NULL, or what is wrong with it. */
const char *net_start(uint32_t offloads);
extern uint8_t net_mac[6];

/* The next received packet, or NULL. */
struct packet *net_receive(void);

/* How many packets net_send() would take now. */
unsigned net_room(void);
/* An unused packet. There is one whenever net_room() is not 0. */
struct packet *net_packet(void);
/* Queues a packet, followed by `more_length` bytes at `more`, which must stay as they are until the
 * device is done; drops it when there is no room. */
void net_send(struct packet *packet, const void *more, uint32_t more_length);
void net_drop(struct packet *packet);
/* Tells the device what has been queued since the last call. */
void net_flush(void);

/* Asks for an interrupt once there is something to receive, or, with `for_room`, once something has
 * been sent. False when that has happened already: then do not sleep. */
bool net_listen(bool for_room);
/* Ends the device's interrupt. */
void net_acknowledge(void);

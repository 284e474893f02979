/*
 * Just enough IPv4 for one address on one Ethernet: ARP, ICMP echo and UDP, without fragments and
 * without routes. An answer goes to the station that the question came from, in the packet that the
 * question came in.
 */
#pragma once

#include "tests/guests/net.h"

#include <stddef.h>
#include <stdint.h>

/* Numbers in headers are big-endian, as on the wire. */
struct udp_headers {
	uint8_t ethernet_to[6], ethernet_from[6];
	uint16_t ethernet_type;
	uint8_t version, service;
	uint16_t ip_length, identification, fragment;
	uint8_t hops, protocol;
	uint16_t ip_checksum;
	uint32_t ip_from, ip_to;
	uint16_t port_from, port_to, udp_length, udp_checksum;
} __attribute__((packed));

#define UDP_PAYLOAD_MAX (NET_FRAME_MAX - sizeof(struct udp_headers))

/* Answers to this address, in host order. */
void ip_start(uint32_t address);

/* Takes a received packet. */
void ip_input(struct packet *packet);

/* The guest provides this: it takes a datagram that came to `port`, and must send or drop its
 * packet. */
void on_datagram(struct packet *packet, uint16_t port, char *payload, size_t length);

/* Sends the packet back with the first `length` bytes of payload, whatever they are by now. */
void udp_answer(struct packet *packet, size_t length);

/* The two steps of udp_answer, for headers that serve more than one datagram. */
void udp_turn(struct udp_headers *headers);
void udp_set_length(struct udp_headers *headers, size_t payload_length);

/*
 * stream_host: the streaming guest's program (tests/guests/stream.c) as a process, on a DPDK port instead of a virtual
 * network card: what traffic and a port can do at most, with no machine between them.
 *
 *     stream_host DEVICE     until it is killed
 */
#include "base/idle.h"
#include "dataplane/frame.h"
#include "dataplane/port.h"
#include "tests/guests/net.h"
#include "tests/guests/ring_3.h"

#include <stdio.h>
#include <string.h>

#define BURST 32u
#define PACKETS 256u
#define SLEEP_NS 50000u

int guest_main(uint64_t memory_size, const char *command_line);
void print(const char *line);

_Static_assert(sizeof(struct net_header) == FRAME_HEADER, "one in the guest, the other here");
_Static_assert(offsetof(struct packet, frame) == offsetof(struct packet, header) + FRAME_HEADER,
	"sent as they lie");

uint8_t net_mac[6] = {2, 0, 0, 0, 0, 1};

static struct port *port;
static struct bell never;
static struct idle idle = {.bell = &never, .longest_ns = SLEEP_NS};
static struct packet packets[PACKETS], *free_packet[PACKETS];
static unsigned free_packets;
static struct port_frame received[BURST];
static unsigned received_count, received_taken;
static struct packet *queue[PACKETS]; /* to be sent */
static unsigned queued, sent;         /* ever */

const char *net_start(uint32_t offloads)
{
	(void)offloads;
	for (unsigned i = 0; i < PACKETS; i++)
		net_drop(&packets[i]);
	return NULL;
}

void net_drop(struct packet *packet)
{
	free_packet[free_packets++] = packet;
}

struct packet *net_packet(void)
{
	struct packet *packet = free_packet[--free_packets];
	packet->header = (struct net_header){0};
	return packet;
}

struct packet *net_receive(void)
{
	if (received_taken == received_count) {
		received_count = port_receive(port, received, BURST, true);
		received_taken = 0;
	}
	if (received_taken == received_count || free_packets == 0)
		return NULL;
	struct port_frame *frame = &received[received_taken++];
	struct packet *packet = net_packet();
	packet->length = frame->length - FRAME_HEADER;
	memcpy(&packet->header, frame->bytes, frame->length);
	packet->header = (struct net_header){0};
	port_frame_free(frame);
	return packet;
}

/* A packet may be in the caller's hands, and another is needed for what it is answered with. */
unsigned net_room(void)
{
	return free_packets > 2 ? free_packets - 2 : 0;
}

void net_send(struct packet *packet, const void *more, uint32_t more_length)
{
	if (more_length)
		memcpy(packet->frame + packet->length, more, more_length);
	packet->length += more_length;
	queue[queued++ % PACKETS] = packet;
}

void net_flush(void)
{
	struct hold_output outputs[BURST];
	while (sent != queued) {
		unsigned count = 0;
		for (; count < BURST && sent + count != queued; count++) {
			const struct packet *packet = queue[(sent + count) % PACKETS];
			outputs[count] = (struct hold_output){
				&packet->header, FRAME_HEADER + packet->length};
		}
		unsigned taken = port_send(port, outputs, count);
		for (unsigned i = 0; i < taken; i++)
			net_drop(queue[sent++ % PACKETS]);
		idle_watch(&idle);
		if (taken < count)
			idle_pause(&idle);
	}
}

bool net_listen(bool for_room)
{
	(void)for_room;
	idle_watch(&idle);
	if (received_taken == received_count)
		received_count = received_taken = 0;
	received_count =
		received_count ? received_count : port_receive(port, received, BURST, true);
	if (received_taken != received_count)
		idle_busy(&idle);
	return received_taken == received_count;
}

void ring_3_sleep(void)
{
	idle_pause(&idle);
}

void ring_3_run(void (*program)(void))
{
	for (;;)
		program();
}

void print(const char *line)
{
	puts(line);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: stream_host DEVICE\n", stderr);
		return 2;
	}
	port_block_signals();
	if (port_open(&port, argv[1]) < 0) {
		say("%s", fail_message());
		return 3;
	}
	return guest_main(0, "");
}

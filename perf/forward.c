/*
 * forward: Doppel's dataplane alone, to be measured beside dpdk-testpmd's io forwarding. Each frame that comes goes
 * into the hold, as an output whose ack is always ready, and back to the port.
 *
 *     forward DEVICE     until it is killed
 */
#include "dataplane/dataplane.h"

#include <stdio.h>
#include <unistd.h>

#define HOLD_BYTES (8u << 20)
#define SESSION 1u

static struct hold *net, *console;
static uint64_t lsn;
static bool is_open; /* a burst that is not sealed yet */

static bool take_frame(void *context, struct port_frame *frame)
{
	(void)context;
	if (!hold_has_room(net, 1, frame->length))
		return false;
	hold_put(net, frame->bytes, frame->length);
	is_open = true;
	port_frame_free(frame);
	return true;
}

/* Asked before each burst: the one before is sealed, as an exit's outputs are. */
static bool may_merge(void *context)
{
	(void)context;
	if (is_open)
		hold_seal(net, SESSION, lsn += 64);
	is_open = false;
	return false;
}

static uint64_t acked(void *context, const struct hold *hold, uint32_t session)
{
	(void)context, (void)hold, (void)session;
	return UINT64_MAX;
}

static size_t to_console(void *context, const void *bytes, size_t length)
{
	(void)context, (void)bytes;
	return length;
}

static void set_live(void *context)
{
	dataplane_set_live(context, true);
}

int main(int argc, char **argv)
{
	static const struct dataplane_user user = {.take_frame = take_frame,
		.may_merge = may_merge,
		.acked = acked,
		.console = to_console};
	struct port *port;
	struct dataplane *dataplane;
	if (argc != 2) {
		fputs("usage: forward DEVICE\n", stderr);
		return 2;
	}
	port_block_signals();
	int error = port_open(&port, argv[1]);
	if (!error)
		error = hold_create(&net, HOLD_BYTES);
	if (!error)
		error = hold_create(&console, 65536);
	if (!error)
		error = dataplane_start(&dataplane, port, net, console, &user);
	if (error) {
		say("%s", fail_message());
		return 3;
	}
	dataplane_call(dataplane, set_live, dataplane);
	for (;;)
		pause();
}

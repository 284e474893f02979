/*
 * dataplane/ joins the guest's network card and console to the outside, and is where outputs wait.
 *
 *   frames in  ─▶ port ─▶ take_frame() ─▶ the engine's input queue
 *   outputs    ─▶ hold ─(covered by an ack)─▶ port, console ─▶ the world
 *
 * Files:   port       a DPDK port from an EAL device string; the only file that includes DPDK
 *          frame      a frame with its header, and what is to be known of TCP in it
 *          gso, gro   cutting large frames from the guest, merging small ones for it
 *          hold       where outputs wait: the one place that releases them (O2)
 *          announce   the frames that tell a switch where the guest lives now
 *          dataplane  this file: the polling loop
 *
 * Threads: the dataplane thread polls; it owns the port, the hold's consumer end and the console's
 * output. The vCPU thread produces into the holds. Everybody else uses dataplane_call().
 *
 * Rules:   knows nothing of engine/ or transport/. Idle polling follows base/idle.h and nothing else.
 */
#pragma once

#include "base/fail.h"
#include "base/idle.h"
#include "dataplane/hold.h"
#include "dataplane/port.h"

#include <stdbool.h>

/* What the loop asks of its user. All are called on the dataplane thread and must not block. */
struct dataplane_user {
	/* A frame has arrived; takes it over (then port_frame_free later, any thread) and returns true,
	 * or returns false: there is no room, the frame stays with the dataplane and is offered again. */
	bool (*take_frame)(void *context, struct port_frame *frame);
	/* Whether the guest takes frames that are merged of received ones (gro.h) now. */
	bool (*may_merge)(void *context);
	/* The LSN up to which outputs of `session` in `hold` may leave now; 0 for a session that is over. While
	 * not live: up to which they have left elsewhere. */
	uint64_t (*acked)(void *context, const struct hold *hold, uint32_t session);
	/* Console bytes that may leave. Returns how many were taken (0: later). */
	size_t (*console)(void *context, const void *bytes, size_t length);
	void *context;
};

struct dataplane;

/* `port` may be NULL (no network). Owns none of its arguments. Starts the thread with every signal
 * blocked but those that the port's driver uses. */
int dataplane_start(struct dataplane **out, struct port *port, struct hold *net,
	struct hold *console, const struct dataplane_user *user) MUST_CHECK;

/* Live: frames are taken in and outputs sent. Not live: frames are received and thrown away, and an
 * output that is covered is dropped, since it has left elsewhere (O3). Through dataplane_call only. */
void dataplane_set_live(struct dataplane *dp, bool live);

/* The bell the loop sleeps on; NULL: its own. Through dataplane_call only. */
void dataplane_set_bell(struct dataplane *dp, struct bell *bell);

/* Runs `function` on the dataplane thread between two passes, and waits for it. Any other thread. */
void dataplane_call(struct dataplane *dp, void (*function)(void *argument), void *argument);

/* Wakes the loop: there is something in a hold, or room in the input queue. Any thread. */
void dataplane_wake(struct dataplane *dp);

/* Sends `frame`, up to 1,518 bytes, ahead of everything held; for announcements. Through dataplane_call only. */
void dataplane_send(struct dataplane *dp, const void *frame, size_t length);

void dataplane_stop(struct dataplane *dp);

/* rx_dropped: received while not live. tx_*: handed to the port, which may have dropped some of them
 * (port_dropped). */
struct dataplane_counters {
	uint64_t rx_frames, rx_bytes, rx_dropped, tx_frames, tx_bytes, console_bytes;
};
struct dataplane_counters dataplane_counters(const struct dataplane *dp); /* any thread */

/*
 * A network port: one DPDK device, named by an EAL device string such as "net_tap0,iface=dop0",
 * "net_af_packet0,iface=veth1" or "net_memif0,role=client". One port a process, one queue each way.
 *
 * A driver may announce frames with a signal (net_tap does, with the first real-time signal behind
 * SIGRTMIN that has no handler, sent to the process). It belongs to the dataplane thread: every
 * other thread blocks it, because main calls port_block_signals() before it starts any. A part that
 * wants a real-time signal for itself takes SIGRTMIN, or unblocks its own and installs its handler
 * first.
 */
#pragma once

#include "base/fail.h"
#include "base/idle.h"
#include "dataplane/hold.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct port;

struct port_frame {
	const void *bytes; /* a struct frame_header and the frame (frame.h) */
	uint32_t length;   /* of both */
	void *owner;       /* the driver's buffer */
};

/* main, first of all: blocks the signals that drivers use, in this thread and all it will start. */
void port_block_signals(void);

/* Starts DPDK for this device; before other threads are started. -ENODEV when the string names no
 * driver or the driver refuses it, -EPERM without the rights, -EBUSY when the interface is another
 * process's. DPDK leaves no file behind. Once a process, whether it worked or not. */
int port_open(struct port **out, const char *device) MUST_CHECK;
/* When no frame is left with anybody and the dataplane has stopped. */
void port_close(struct port *port);

/* Dataplane thread: takes the driver's signals from now on, each of which rings the bell that
 * `*bell` then is, so that a frame that arrives just before a sleep ends it. Returns whether the
 * driver wakes us at all; when it does not, sleeps must be short. NULL: rings nothing any more. */
bool port_wakes(struct port *port, struct bell *const *bell);

/* Dataplane thread. Up to `capacity` frames, each one's bytes contiguous; returns how many. With
 * `may_merge` TCP segments that belong together are one frame (gro.h). None while nearly all of the 4,096 buffers are with the user: the frames wait in the device. */
unsigned port_receive(
	struct port *port, struct port_frame *frames, unsigned capacity, bool may_merge);
/* Copies the frames, each behind its header (frame.h), to the driver, in order, a large one in pieces
 * (gso.h); returns how many it has taken whole. The frame behind those may be taken in part: it goes on
 * there when it comes first the next time, at the same address. A frame that the device
 * can never take (longer than its MTU allows, a wrong header, or no frame at all) is counted as dropped and as
 * taken, and so is every frame once the device has taken nothing for 100 ms: a link that is down
 * loses frames, it does not stop the guest. */
unsigned port_send(struct port *port, const struct hold_output *frames, unsigned count);

void port_frame_free(struct port_frame *frame); /* any thread */

/* The memory in which received frames lie, for who lets a device read them from there. */
void port_packets(const struct port *port, void **base, size_t *size);

uint32_t port_mtu(const struct port *port);     /* of the device; 1,500 for most */
uint64_t port_dropped(const struct port *port); /* frames to be sent; any thread */

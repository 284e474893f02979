/*
 * A network port: one DPDK device, named by an EAL device string such as "net_tap0,iface=dop0",
 * "net_af_packet0,iface=veth1" or "net_memif0,role=client". One port a process, one queue each way.
 */
#pragma once

#include "base/fail.h"
#include "dataplane/hold.h"

#include <stddef.h>
#include <stdint.h>

struct port;

struct port_frame {
	const void *bytes;
	uint32_t length;
	void *owner; /* the driver's buffer */
};

/* Starts DPDK for this device. -ENODEV when the string names no driver or the driver refuses it. DPDK
 * leaves no file behind. Once a process. */
int port_open(struct port **out, const char *device) MUST_CHECK;
void port_close(struct port *port);

/* Dataplane thread. Up to `capacity` frames, each one's bytes contiguous; returns how many. */
unsigned port_receive(struct port *port, struct port_frame *frames, unsigned capacity);
/* Copies the frames to the driver, in order; returns how many it has taken. A frame that the device
 * can never take (too long for it) is counted as dropped and as taken. */
unsigned port_send(struct port *port, const struct hold_output *frames, unsigned count);

void port_frame_free(struct port_frame *frame); /* any thread */

uint32_t port_mtu(const struct port *port); /* of the device; 1,500 for most */
uint64_t port_dropped(const struct port *port); /* any thread */

/*
 * What a tcp connection carries: frames, in order, in both directions of one stream.
 *
 *   offset  bytes
 *        0      4   length of the body that follows the frame's 16 bytes
 *        4      2   type (enum frame_type)
 *        6      2   counter (enum ack_counter) in ACK, otherwise zero
 *        8      8   at: see below, zero where nothing is said
 *
 *   type         from     body                                 at
 *   MESSAGE      either   a message, at most MESSAGE_MAX
 *   EXPOSED      standby  struct tcp_exposed
 *   ATTACHED     primary  none
 *   MEMORY       primary  bytes for the guest's memory         offset there
 *   MEMORY_END   primary  none                                 a number, which
 *   MEMORY_DONE  standby  none                                 is repeated here
 *   LOG          primary  bytes for the ring, none of them     LSN of the first
 *                         of a frame that was sent before
 *   ACK          standby  none                                 value of the counter
 *
 * All numbers are little-endian. EXPOSED is sent once and ATTACHED answers it; before that there
 * are only MESSAGEs. Who receives anything else than the table allows, a size out of bounds, or a
 * LOG that does not begin where the last one ended or that reaches over what has not been consumed
 * (L3), ends the connection.
 */
#pragma once

#include "transport/checksum.h" /* which asserts that we are little-endian */
#include "transport/transport.h"

enum frame_type {
	FRAME_MESSAGE = 1,
	FRAME_EXPOSED,
	FRAME_ATTACHED,
	FRAME_MEMORY,
	FRAME_MEMORY_END,
	FRAME_MEMORY_DONE,
	FRAME_LOG,
	FRAME_ACK,
};

struct tcp_frame {
	uint32_t length;
	uint16_t type;
	uint16_t counter;
	uint64_t at;
};
_Static_assert(sizeof(struct tcp_frame) == 16, "the wire's bytes");

struct tcp_exposed {
	uint64_t ring_size;
	uint64_t memory_size;
};
_Static_assert(sizeof(struct tcp_exposed) == 16, "the wire's bytes");

/*
 * The ack block: how far the backup is, in memory of the primary that the backup writes.
 *
 * Each counter has a cache line of its own and is 16 bytes, a value and its check word, because
 * one-sided writes of 8 bytes were seen to tear. A reader takes only a pair that matches, does not go
 * back, and does not pass the head of the log (L3); anything else leaves it with the value it had.
 */
#pragma once

#include "base/idle.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum ack_counter {
	ACK_RECEIVED, /* entries up to here are whole and checked (L1) */
	ACK_REPLAYED, /* executed, with digests equal */
	ACK_DURABLE,  /* persistent */
	ACK_CONSUMED, /* the ring may be overwritten up to here + its size (L3) */
	ACK_BEAT,     /* grows while the receiver lives; an event count, not an LSN */
	ACK_COUNTERS,
};

struct ack_cell {
	_Atomic uint64_t value;
	_Atomic uint64_t check;
	uint8_t pad[48];
};
_Static_assert(sizeof(struct ack_cell) == 64, "one cache line a counter");

struct ack_block {
	struct ack_cell cell[ACK_COUNTERS];
	struct bell bell; /* rung by providers that can */
	uint8_t pad[56];
};
_Static_assert(sizeof(struct ack_block) == 384, "shared between hosts");

/* What belongs beside a value in the session with this secret. */
uint64_t ack_check_word(uint64_t secret, enum ack_counter counter, uint64_t value);

/* Writes a pair into a block that this process can reach: how shm places it, and tests. */
void ack_store(struct ack_block *block, uint64_t secret, enum ack_counter counter, uint64_t value);

/* One reader's view of one counter. Each thread has its own. */
struct ack_reader {
	const struct ack_block *block;
	uint64_t secret;
	enum ack_counter counter;
	uint64_t last; /* the newest value taken; set it to the session's first LSN */
};

/* The newest acceptable value. `head`: no value above it is believed (UINT64_MAX for ACK_BEAT). */
uint64_t ack_read(struct ack_reader *reader, uint64_t head);

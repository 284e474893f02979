/*
 * What travels over the log's link: on the primary the log, as chains of gathered writes into the
 * ring of the standby; on the standby the acks, as small writes into the ack block of the primary.
 *
 * Every chain of log writes and every ack ends with a sound if somebody over there sleeps
 * (verbs_sound).
 *
 * When the queue has no room the rest waits here, and leaves as completions free slots: neither
 * side ever waits for the other within a call.
 */
#pragma once

#include "transport/ack.h"
#include "transport/verbs_sound.h"

#include <sys/uio.h>

#define VERBS_GATHER 16u
#define VERBS_SOURCES 16u
/* Pieces that may wait for room. Neighbours count as one, as all flushes of a staging ring are. */
#define VERBS_PIECES 4096u
#define VERBS_ACK_BYTES 16u
/* What is asked for: a few small entries, or an ack. */
#define VERBS_INLINE 256u

struct verbs_source {
	const uint8_t *base;
	size_t size;
	struct ibv_mr *mr;
};

struct verbs_piece {
	uint64_t lsn;
	const uint8_t *at;
	size_t length;
	uint32_t key;
};

struct verbs_log {
	struct verbs_queue *queue;
	const struct verbs_sound *sound;
	uint64_t ring; /* of the standby: address, key, size */
	uint32_t ring_key;
	size_t ring_size;
	unsigned source_count;
	struct verbs_source sources[VERBS_SOURCES];
	unsigned first, count; /* of the pieces that wait, a ring */
	struct verbs_piece pieces[VERBS_PIECES];
	_Atomic bool waits; /* count > 0, for who looks without the lock */
	struct ibv_send_wr requests[VERBS_QUEUE_DEPTH];
	struct ibv_sge gathers[VERBS_QUEUE_DEPTH][VERBS_GATHER];
};

/* Memory that writes may come from. */
int verbs_log_source(struct verbs_log *log, struct ibv_pd *pd, void *base, size_t size) MUST_CHECK;
/* write_log and written of struct provider. */
int verbs_log_write(
	struct verbs_log *log, uint64_t lsn, const struct iovec *pieces, int count) MUST_CHECK;
uint64_t verbs_log_written(struct verbs_log *log);
/* Posts what waits, as far as there is room. Any thread. */
void verbs_log_resume(struct verbs_log *log);
void verbs_log_close(struct verbs_log *log);

struct verbs_ack {
	uint64_t value, check;
};
_Static_assert(sizeof(struct verbs_ack) == VERBS_ACK_BYTES, "what a counter is on the wire");

struct verbs_acks {
	struct verbs_queue *queue;
	const struct verbs_sound *sound;
	uint64_t block; /* the primary's ack block: address, key */
	uint32_t block_key;
	uint64_t secret;
	uint64_t latest[ACK_COUNTERS];
	bool waiting[ACK_COUNTERS];
	_Atomic bool waits;
	/* For a device that takes no inline data: what its requests read, one for each slot. */
	struct verbs_ack *sources;
	struct ibv_mr *sources_mr;
};

int verbs_acks_open(struct verbs_acks *acks, struct verbs_queue *queue,
	const struct verbs_sound *sound, struct ibv_pd *pd) MUST_CHECK;
int verbs_acks_write(struct verbs_acks *acks, enum ack_counter counter, uint64_t value) MUST_CHECK;
void verbs_acks_resume(struct verbs_acks *acks);
void verbs_acks_close(struct verbs_acks *acks);

/*
 * What travels over the other link: messages both ways, and the primary's writes into the standby's
 * guest memory, in one order, so that a message proves that what was written before it has arrived.
 *
 * A message lies in the registered buffer it arrived in until recv takes it, and only then the
 * buffer is posted again: a peer that sends too much waits, and is told nothing else.
 *
 * Guest memory is copied into registered buffers first, neighbours together, and leaves from there:
 * pinning it would take longer than copying it, and give each page that was never used one.
 */
#pragma once

#include "transport/transport.h"
#include "transport/verbs_queue.h"

#define VERBS_RECEIVES 4u
#define VERBS_COPIES 16u
#define VERBS_COPY_BYTES (64u * 1024u)
#define VERBS_BULK_SENDS 32u
_Static_assert(VERBS_COPIES + 1 < VERBS_BULK_SENDS, "copies and a message always find slots");

struct verbs_messages {
	struct verbs_queue *queue;
	uint64_t sent;    /* requests ever posted: their tags */
	struct bell bell; /* rung when the send queue has completions, by the connection's thread */
	uint8_t *buffers; /* one to send, then the receives */
	struct ibv_mr *buffers_mr;

	pthread_mutex_t lock; /* of the inbox */
	struct {
		unsigned buffer;
		uint32_t length;
	} inbox[VERBS_RECEIVES];
	unsigned first, count;
	bool is_closed; /* nothing more will arrive */
	int ready; /* eventfd: readable while there is something to receive, or nothing ever again
		    */

	/* Primary: copies on their way into guest memory, and whether more may follow. */
	bool is_open;
	uint8_t *copies;
	struct ibv_mr *copies_mr;
	uint64_t tags[VERBS_COPIES]; /* of the request that reads each */
	unsigned current;            /* the copy that is being filled */
	size_t filled;
	uint64_t filled_for; /* the offset it belongs to */
	uint64_t memory;     /* of the standby: address, key, size */
	uint32_t memory_key;
	size_t memory_size;
};

/* Makes the buffers and posts the receives; the link is open and not yet connected. Close after a
 * failure, too, and after the link: a device that still knows the buffers may write them. */
int verbs_messages_open(
	struct verbs_messages *messages, struct verbs_queue *queue, struct ibv_pd *pd) MUST_CHECK;
void verbs_messages_close(struct verbs_messages *messages);

/* Control thread. As send and recv of struct provider, for messages of one type. */
int verbs_messages_send(
	struct verbs_messages *messages, uint32_t type, const void *body, size_t length) MUST_CHECK;
int verbs_messages_recv(struct verbs_messages *messages, uint32_t type, void *body, size_t capacity,
	size_t *length, unsigned timeout_ms) MUST_CHECK;

/* The connection's thread: takes in what has arrived, and returns why nothing more can; says that
 * nothing will any more. */
enum ibv_wc_status verbs_messages_take(struct verbs_messages *messages) MUST_CHECK;
void verbs_messages_end(struct verbs_messages *messages);

/* Primary, control thread: opens, writes, waits for, and ends the writes into guest memory. */
int verbs_messages_copy_to(struct verbs_messages *messages, struct ibv_pd *pd, uint64_t memory,
	uint32_t key, size_t size) MUST_CHECK;
int verbs_messages_copy(struct verbs_messages *messages, uint64_t offset, const void *bytes,
	size_t length) MUST_CHECK;
int verbs_messages_finish(struct verbs_messages *messages, unsigned timeout_ms) MUST_CHECK;
void verbs_messages_withdraw(struct verbs_messages *messages);

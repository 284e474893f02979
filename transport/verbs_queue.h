/*
 * The send queue of a link, with its slots counted here: soft-RoCE never refuses a post, it
 * overwrites.
 *
 * Requests complete in order. Few ask for a completion: the last of a chain whose end somebody
 * waits for, and one every quarter of the queue, so that slots become free in any case. A
 * completion frees all slots up to its own, and says that all of these are done.
 */
#pragma once

#include "base/idle.h"
#include "transport/verbs_link.h"

#define VERBS_QUEUE_DEPTH 256u

struct verbs_queue {
	struct verbs_link *link;
	struct verbs_fate *fate;
	/* Held by whoever posts or reaps: fence passes through it, and behind it nothing is posted.
	 */
	pthread_mutex_t lock;
	uint64_t posted, retired; /* slots used ever, and how many of them are free again */
	unsigned unsignalled;     /* requests since the last that asks for a completion */
	bool is_armed;            /* the next completion will be told to the connection's thread */
	uint64_t tags[VERBS_QUEUE_DEPTH];
	_Atomic uint64_t done; /* the tag of the newest request that is known to be done */
};

void verbs_queue_open(struct verbs_queue *queue, struct verbs_link *link, struct verbs_fate *fate);
void verbs_queue_close(struct verbs_queue *queue);

/* The following with the lock held. */

static inline unsigned verbs_queue_room(const struct verbs_queue *queue)
{
	return queue->link->sends - (unsigned)(queue->posted - queue->retired);
}

/* The tag of the newest request, for one that has none of its own. */
static inline uint64_t verbs_queue_newest(const struct verbs_queue *queue)
{
	return queue->posted ? queue->tags[(queue->posted - 1) % VERBS_QUEUE_DEPTH] : 0;
}

/* Posts requests as one chain; there must be room. Each brings its tag as wr_id. -ECONNRESET. */
int verbs_queue_post(struct verbs_queue *queue, struct ibv_send_wr *requests, unsigned count,
	bool signal_last) MUST_CHECK;

/* Takes in completions. A failed one ends the connection. */
void verbs_queue_reap(struct verbs_queue *queue);

/* The next completion will be told to the connection's thread; reap after it what came before. */
void verbs_queue_arm(struct verbs_queue *queue);

/* Without the lock: the connection's thread has been told. */
void verbs_queue_heard(struct verbs_queue *queue);

/* Without the lock: waits until a tag is done; tags must grow. `bell` is rung when an armed queue
 * has a completion and when the connection is over. -ETIMEDOUT without a message; -ECONNRESET. */
int verbs_queue_wait(
	struct verbs_queue *queue, uint64_t tag, struct bell *bell, unsigned timeout_ms) MUST_CHECK;

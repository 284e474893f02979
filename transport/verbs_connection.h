/*
 * A connection of the verbs provider: two links, what travels over them, and a thread that waits
 * for whatever comes without being asked for.
 *
 * The thread takes in messages, reposts the receives that arrivals consume, rings the bell, posts
 * what waited for room, and learns of the end: an event of librdmacm, a completion with an error,
 * or a note in the fate. Then it cuts the connection, as fence does.
 *
 * Keys. What a peer may write is registered by expose and attach, one region for each thing and
 * none besides, and taken away at the cut; guest memory before that, at its withdrawal.
 *
 * Cutting, in this order: the fate is settled, so that nothing is posted any more; whoever is
 * posting has left; both queue pairs go to error, so that nothing leaves or arrives; the keys are
 * taken away; the peer is told. Only then the inbox is closed, so that what came before the end can
 * be received.
 */
#pragma once

#include "transport/verbs_log.h"
#include "transport/verbs_messages.h"

#define VERBS_TOKEN 16u

enum verbs_which { VERBS_BULK, VERBS_LOG, VERBS_LINKS };

struct connection {
	bool is_standby;
	struct verbs_fate fate;
	struct rdma_event_channel *events; /* NULL while the listener has it */
	struct ibv_pd *pd;
	struct ibv_comp_channel *completions;
	struct verbs_link links[VERBS_LINKS];
	struct verbs_queue queues[VERBS_LINKS];
	struct verbs_sound sound; /* on the log's link */
	struct verbs_log log;
	struct verbs_acks acks_out;
	struct verbs_messages messages;
	struct bell bell;
	_Atomic bool is_placed; /* finished writes ring the bell, too */
	bool is_shared;         /* expose or attach has succeeded */

	/* How the primary's two links find each other on the standby; when the first came. */
	uint8_t token[VERBS_TOKEN];
	uint64_t began_ns;

	pthread_t thread;
	bool has_thread;
	_Atomic bool stopping;
	bool is_armed;         /* the thread's: an arrival will wake it */
	int look_ms;           /* the thread's: how long to wait before it looks again */
	uint64_t written_seen; /* the thread's */

	pthread_mutex_t cutting;
	bool is_cut;

	/* What the peer may write. */
	pthread_mutex_t keys;
	struct ibv_mr *ring_mr, *memory_mr, *acks_mr;
	uint8_t *ring; /* standby: twice in a row */
	size_t ring_size;
	uint8_t *memory; /* standby: the guest's memory, mapped here as long as the key lives */
	size_t memory_size;
	struct ack_block *acks; /* primary */
};

int verbs_connection_make(struct connection **out, const char *where, bool is_standby) MUST_CHECK;

/* An event channel that never blocks. `what` is for the message: "listen on". */
int verbs_connection_channel(
	struct rdma_event_channel **out, const char *where, const char *what) MUST_CHECK;

/* Takes over `id`, also when it fails. The bulk link comes first. It can then be connected or
 * accepted. */
int verbs_connection_add(
	struct connection *c, enum verbs_which which, struct rdma_cm_id *id) MUST_CHECK;

/* Both links are established and their ids on c->events: from here on the thread serves them. */
int verbs_connection_start(struct connection *c) MUST_CHECK;

/* Makes a region that the peer may write, unless the connection is over. */
int verbs_connection_share(struct connection *c, struct ibv_mr **mr, void *base, size_t size,
	const char *what) MUST_CHECK;
/* Takes it away. */
void verbs_connection_unshare(struct connection *c, struct ibv_mr **mr);

/* From now on finished writes of the log ring the bell. */
void verbs_connection_hear_written(struct connection *c);

/* Ends the connection, for the reason `why` unless it has ended before. Any thread, any number of
 * times. */
void verbs_connection_cut(struct connection *c, const char *why);

/* At any stage of its making. */
void verbs_connection_close(struct connection *c);

/*
 * A link: one reliable connection of RDMA, that is an id of librdmacm with its queue pair and its
 * two completion queues. A connection of the provider has two, and one fate that both share.
 */
#pragma once

#include "transport/verbs_device.h"

#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>
#include <stdint.h>

/* Whether a connection still carries anything, and if not, why. */
struct verbs_fate {
	_Atomic bool is_over;
	pthread_mutex_t lock;
	char where[VERBS_WHERE_MAX];
	char why[160]; /* the first reason; settled once is_over */
	int wake;      /* eventfd: the connection's own thread has something to look at */
};

int verbs_fate_open(struct verbs_fate *fate, const char *where) MUST_CHECK;
void verbs_fate_close(struct verbs_fate *fate);

/* The connection is of no use any more. Any thread, also with locks held: it only takes note, and
 * the connection's thread does the rest. The calling thread's message stays as it is. */
void verbs_fate_end(struct verbs_fate *fate, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static inline bool verbs_fate_is_over(const struct verbs_fate *fate)
{
	/* F2: pairs with F1 in verbs_fate_end. */
	return atomic_load_explicit(&fate->is_over, memory_order_acquire);
}

/* -ECONNRESET, with the reason. */
int verbs_fate_error(struct verbs_fate *fate);

struct verbs_link {
	struct rdma_cm_id *id;
	struct ibv_cq *send_cq, *recv_cq;
	unsigned sends, receives; /* slots of its queues */
	unsigned gather;          /* pieces a request may have */
	unsigned inline_bytes;    /* that a request may carry itself */
	bool is_iwarp;
	bool established;
};

/* What is asked for; a device may give less of each, down to a few. */
struct verbs_link_size {
	unsigned sends, receives, gather, inline_bytes;
};

/* provider_set_silence: about then a peer that does not answer is given up. */
void verbs_link_set_silence(unsigned ms);

/* Takes over `id`, which is bound to a device, also when it fails. The queue pair can then take
 * receives, and the id be connected or accepted. */
int verbs_link_open(struct verbs_link *link, struct rdma_cm_id *id, struct ibv_pd *pd,
	struct ibv_comp_channel *events, const struct verbs_link_size *size,
	const char *where) MUST_CHECK;
void verbs_link_close(struct verbs_link *link);

/* The parameters with which both sides meet; `data` is what the peer is told. */
struct rdma_conn_param verbs_link_parameters(const void *data, size_t size);

/* Once the queue pair may send. */
void verbs_link_tune(struct verbs_link *link);

/* To error: nothing more leaves or arrives, and what is under way is flushed. */
void verbs_link_break(struct verbs_link *link);

/* Posts `count` receives without a buffer: each takes one arrival that rings. */
int verbs_link_post_bells(struct verbs_link *link, unsigned count) MUST_CHECK;

/* Words for a completion that is not a success. */
const char *verbs_link_status(enum ibv_wc_status status);

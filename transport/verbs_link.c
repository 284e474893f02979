#include "transport/verbs_link.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A peer that vanishes is given up after seven times 4.096 us << ack_timeout, 67 ms to begin with and half a
 * minute at most: 7 retries would mean for ever on soft-RoCE, and librdmacm's own timeout 15 s. */
#define RETRIES 6
#define ACK_TIMEOUT_MAX 20
static uint8_t ack_timeout = 14;
/* A receiver that is not ready is asked again for ever, each 0.64 ms: who waits decides for how
 * long. librdmacm's own interval is 0.66 s. */
#define RNR_RETRIES 7
#define RNR_TIMER 12

/* Fewer slots than these and nothing works well; every device has them. */
#define SLOTS_MIN 16u

/* ---- Fate ---- */

int verbs_fate_open(struct verbs_fate *fate, const char *where)
{
	snprintf(fate->where, sizeof fate->where, "%s", where);
	fate->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fate->wake < 0)
		return fail(errno, "no descriptor for a connection on rdma:%s: %s", where,
			strerror(errno));
	pthread_mutex_init(&fate->lock, NULL);
	return 0;
}

void verbs_fate_close(struct verbs_fate *fate)
{
	close(fate->wake);
	pthread_mutex_destroy(&fate->lock);
}

void verbs_fate_end(struct verbs_fate *fate, const char *format, ...)
{
	pthread_mutex_lock(&fate->lock);
	if (!atomic_load_explicit(&fate->is_over, memory_order_relaxed)) {
		va_list args;
		va_start(args, format);
		vsnprintf(fate->why, sizeof fate->why, format, args);
		va_end(args);
		/* F1: the reason comes before; pairs with F2 in verbs_fate_is_over. */
		atomic_store_explicit(&fate->is_over, true, memory_order_release);
		eventfd_write(fate->wake, 1);
	}
	pthread_mutex_unlock(&fate->lock);
}

int verbs_fate_error(struct verbs_fate *fate)
{
	return fail(ECONNRESET, "the connection rdma:%s is over: %s", fate->where, fate->why);
}

/* ---- The queue pair ---- */

static unsigned at_most(unsigned wanted, int limit)
{
	return limit > 0 && (unsigned)limit < wanted ? (unsigned)limit : wanted;
}

static int make_queue_pair(
	struct verbs_link *link, struct ibv_pd *pd, unsigned inline_bytes, const char *where)
{
	struct ibv_qp_init_attr attributes = {
		.send_cq = link->send_cq,
		.recv_cq = link->recv_cq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = link->sends,
			.max_recv_wr = link->receives,
			.max_send_sge = link->gather,
			.max_recv_sge = 1,
			.max_inline_data = inline_bytes},
	};
	if (rdma_create_qp(link->id, pd, &attributes) == 0) {
		link->inline_bytes = attributes.cap.max_inline_data;
		return 0;
	}
	/* Less will do, and none. */
	if (inline_bytes > 0)
		return make_queue_pair(
			link, pd, inline_bytes / 4 < 16 ? 0 : inline_bytes / 4, where);
	return verbs_device_refused(where, "make a queue pair for", errno);
}

int verbs_link_open(struct verbs_link *link, struct rdma_cm_id *id, struct ibv_pd *pd,
	struct ibv_comp_channel *events, const struct verbs_link_size *size, const char *where)
{
	struct ibv_device_attr device;
	*link = (struct verbs_link){.id = id};
	int error = ibv_query_device(id->verbs, &device);
	if (error) {
		error = verbs_device_refused(where, "ask the device of", error);
		goto undo;
	}
	link->is_iwarp = id->verbs->device->transport_type == IBV_TRANSPORT_IWARP;
	link->sends = at_most(size->sends, device.max_qp_wr);
	link->receives = at_most(size->receives, device.max_qp_wr);
	link->gather = at_most(size->gather, device.max_sge);
	if (link->sends < SLOTS_MIN) {
		error = fail(EOPNOTSUPP,
			"the RDMA device of rdma:%s queues %u requests; %u are needed", where,
			link->sends, SLOTS_MIN);
		goto undo;
	}
	/* As large as the queues, since an error completes every request. */
	link->send_cq = ibv_create_cq(id->verbs, (int)link->sends, NULL, events, 0);
	link->recv_cq = ibv_create_cq(id->verbs, (int)link->receives, NULL, events, 0);
	if (!link->send_cq || !link->recv_cq)
		error = verbs_device_refused(where, "make a completion queue for", errno);
	if (!error)
		error = make_queue_pair(link, pd, size->inline_bytes, where);
	if (!error) {
		/* Before it is connected or accepted. Kernels older than 5.1 do not know it: then a
		 * silent peer is noticed later, by its heartbeats all the same in time. */
		uint8_t timeout = ack_timeout;
		(void)!rdma_set_option(
			id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof timeout);
		return 0;
	}
undo:
	verbs_link_close(link);
	return error;
}

void verbs_link_close(struct verbs_link *link)
{
	if (!link->id)
		return;
	if (link->id->qp)
		rdma_destroy_qp(link->id);
	if (link->send_cq)
		(void)!ibv_destroy_cq(link->send_cq);
	if (link->recv_cq)
		(void)!ibv_destroy_cq(link->recv_cq);
	rdma_destroy_id(link->id);
	*link = (struct verbs_link){0};
}

void verbs_link_set_silence(unsigned ms)
{
	uint64_t each_ns = (uint64_t)ms * 1000000u / (RETRIES + 1);
	ack_timeout = 0;
	while (ack_timeout < ACK_TIMEOUT_MAX && 4096ull << (ack_timeout + 1) <= each_ns)
		ack_timeout++;
}

struct rdma_conn_param verbs_link_parameters(const void *data, size_t size)
{
	/* Nothing is ever read from a peer: no resources for that. */
	return (struct rdma_conn_param){
		.private_data = data,
		.private_data_len = (uint8_t)size,
		.retry_count = RETRIES,
		.rnr_retry_count = RNR_RETRIES,
	};
}

void verbs_link_tune(struct verbs_link *link)
{
	struct ibv_qp_attr attributes = {.min_rnr_timer = RNR_TIMER};
	/* A device that refuses is only slower where a peer is behind with its receives. */
	if (!link->is_iwarp)
		(void)!ibv_modify_qp(link->id->qp, &attributes, IBV_QP_MIN_RNR_TIMER);
}

void verbs_link_break(struct verbs_link *link)
{
	struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
	if (!link->id)
		return;
	/* Neither can fail but where the device is gone, and then nothing passes either. */
	(void)!ibv_modify_qp(link->id->qp, &attributes, IBV_QP_STATE);
	(void)!rdma_disconnect(link->id);
}

int verbs_link_post_bells(struct verbs_link *link, unsigned count)
{
	struct ibv_recv_wr requests[64], *bad;
	while (count > 0) {
		unsigned n = count < 64 ? count : 64;
		for (unsigned i = 0; i < n; i++)
			requests[i] =
				(struct ibv_recv_wr){.next = i + 1 < n ? &requests[i + 1] : NULL};
		int error = ibv_post_recv(link->id->qp, requests, &bad);
		if (error)
			return fail(
				error, "the RDMA device takes no receives: %s", strerror(error));
		count -= n;
	}
	return 0;
}

const char *verbs_link_status(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
		return "the peer does not answer";
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return "the peer takes nothing any more";
	case IBV_WC_REM_ACCESS_ERR:
		return "the peer has withdrawn its memory";
	case IBV_WC_WR_FLUSH_ERR:
		return "its queue pair is in error";
	default:
		return ibv_wc_status_str(status);
	}
}

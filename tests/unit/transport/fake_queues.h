/* The fake device's queues (fake_verbs.h), and what it does with the requests in them. */
#pragma once

#include "fake_device.h"

/* ---- Completion queues ---- */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_COMP_CHANNEL);
	pthread_mutex_unlock(&fake.lock);
	if (error)
		return NULL;
	struct fake_completions *completions = fake_new(sizeof *completions);
	completions->channel.context = context;
	completions->channel.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return &completions->channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	close(channel->fd);
	free(channel);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int size, void *cq_context,
	struct ibv_comp_channel *channel, int vector)
{
	(void)vector;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_CREATE_CQ);
	pthread_mutex_unlock(&fake.lock);
	if (error)
		return NULL;
	struct fake_cq *cq = fake_new(sizeof *cq);
	cq->cq = (struct ibv_cq){
		.context = context, .channel = channel, .cq_context = cq_context, .cqe = size};
	return &cq->cq;
}

int ibv_destroy_cq(struct ibv_cq *at)
{
	struct fake_completions *completions = (struct fake_completions *)at->channel;
	pthread_mutex_lock(&fake.lock);
	/* Events that were taken must have been acknowledged; those that were not are dropped. */
	if (at->comp_events_completed != 0)
		abort();
	unsigned kept = 0;
	for (unsigned i = 0; i < completions->count; i++) {
		if (completions->events[i] != at)
			completions->events[kept++] = completions->events[i];
	}
	completions->count = kept;
	pthread_mutex_unlock(&fake.lock);
	free(at);
	return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context)
{
	struct fake_completions *completions = (struct fake_completions *)channel;
	eventfd_t count;
	pthread_mutex_lock(&fake.lock);
	bool any = completions->count > 0;
	if (any) {
		*cq = completions->events[0];
		*context = (*cq)->cq_context;
		(*cq)->comp_events_completed++;
		completions->count--;
		memmove(completions->events, completions->events + 1,
			completions->count * sizeof completions->events[0]);
	}
	if (completions->count == 0)
		eventfd_read(channel->fd, &count);
	pthread_mutex_unlock(&fake.lock);
	errno = EAGAIN;
	return any ? 0 : -1;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned count)
{
	pthread_mutex_lock(&fake.lock);
	cq->comp_events_completed -= count;
	pthread_mutex_unlock(&fake.lock);
}

static inline int fake_req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
	(void)solicited_only;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_NOTIFY_CQ);
	((struct fake_cq *)cq)->armed = !error;
	fake.notifications++;
	pthread_mutex_unlock(&fake.lock);
	return error;
}

/* Not before whoever was told of the last completion has looked at it. */
static inline bool fake_is_armed(const struct ibv_cq *cq)
{
	pthread_mutex_lock(&fake.lock);
	bool armed = ((const struct fake_cq *)cq)->armed;
	pthread_mutex_unlock(&fake.lock);
	return armed;
}

static inline void fake_complete(struct ibv_cq *at, const struct ibv_wc *wc)
{
	struct fake_cq *cq = (struct fake_cq *)at;
	struct fake_completions *completions = (struct fake_completions *)at->channel;
	if (cq->count == FAKE_CQ_MAX || (int)cq->count >= at->cqe)
		abort(); /* a completion queue that overruns breaks everything */
	cq->done[(cq->first + cq->count++) % FAKE_CQ_MAX] = *wc;
	if (cq->armed && completions->count < 64) {
		cq->armed = false;
		completions->events[completions->count++] = at;
		eventfd_write(completions->channel.fd, 1);
	}
}

static inline int fake_poll_cq(struct ibv_cq *at, int count, struct ibv_wc *wc)
{
	struct fake_cq *cq = (struct fake_cq *)at;
	int n = 0;
	pthread_mutex_lock(&fake.lock);
	if (fake_fails(FAKE_POLL_CQ))
		n = -1;
	while (n >= 0 && n < count && cq->count > 0) {
		wc[n++] = cq->done[cq->first];
		cq->first = (cq->first + 1) % FAKE_CQ_MAX;
		cq->count--;
	}
	pthread_mutex_unlock(&fake.lock);
	return n;
}

const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	return status == IBV_WC_SUCCESS ? "success" : "some failure";
}

/* ---- Queue pairs ---- */

static inline void fake_carry_out(void);

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attributes)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_CREATE_QP);
	if (!error && (attributes->cap.max_inline_data > fake.max_inline ||
			      (int)attributes->cap.max_send_wr > fake.max_qp_wr ||
			      (int)attributes->cap.max_recv_wr > fake.max_qp_wr ||
			      (int)attributes->cap.max_send_sge > fake.max_sge))
		error = errno = EINVAL;
	if (!error) {
		struct fake_qp *qp = fake_new(sizeof *qp);
		/* A little more than was asked for, as is usual. */
		attributes->cap.max_inline_data =
			attributes->cap.max_inline_data > 0 ? fake.max_inline : 0;
		qp->qp = (struct ibv_qp){.context = id->verbs,
			.pd = pd,
			.send_cq = attributes->send_cq,
			.recv_cq = attributes->recv_cq,
			.state = IBV_QPS_INIT,
			.qp_num = ++fake.next_qp};
		qp->cap = attributes->cap;
		qp->sends_end = &qp->sends;
		qp->id = (struct fake_id *)id;
		qp->next = fake.qps;
		fake.qps = qp;
		id->qp = &qp->qp;
		id->pd = pd;
	}
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

static inline void fake_drop_request(struct fake_qp *qp)
{
	struct fake_request *request = qp->sends;
	qp->sends = request->next;
	if (!qp->sends)
		qp->sends_end = &qp->sends;
	qp->send_count--;
	free(request->inline_data);
	free(request->placed);
	free(request);
}

/* The oldest request is done, well or not. */
static inline void fake_finish(struct fake_qp *qp, enum ibv_wc_status status)
{
	const struct fake_request *request = qp->sends;
	if ((request->wr.send_flags & IBV_SEND_SIGNALED) || status != IBV_WC_SUCCESS) {
		struct ibv_wc wc = {.wr_id = request->wr.wr_id, .status = status};
		fake_complete(qp->qp.send_cq, &wc);
	}
	fake_drop_request(qp);
}

static inline void fake_break(struct fake_qp *qp)
{
	if (qp->qp.state == IBV_QPS_ERR)
		return;
	qp->qp.state = IBV_QPS_ERR;
	while (qp->sends)
		fake_finish(qp, IBV_WC_WR_FLUSH_ERR);
	for (; qp->receive_count > 0; qp->receive_count--) {
		struct ibv_wc wc = {.wr_id = qp->receives[qp->first_receive].wr_id,
			.status = IBV_WC_WR_FLUSH_ERR};
		qp->first_receive = (qp->first_receive + 1) % FAKE_CQ_MAX;
		fake_complete(qp->qp.recv_cq, &wc);
	}
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	struct fake_qp *qp = (struct fake_qp *)id->qp, **link = &fake.qps;
	pthread_mutex_lock(&fake.lock);
	while (qp->sends)
		fake_drop_request(qp);
	while (*link != qp)
		link = &(*link)->next;
	*link = qp->next;
	id->qp = NULL;
	pthread_mutex_unlock(&fake.lock);
	free(qp);
}

int ibv_modify_qp(struct ibv_qp *at, struct ibv_qp_attr *attributes, int mask)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_MODIFY_QP);
	if (!error && (mask & IBV_QP_MIN_RNR_TIMER))
		((struct fake_qp *)at)->rnr_timer = attributes->min_rnr_timer;
	if (!error && (mask & IBV_QP_STATE) && attributes->qp_state == IBV_QPS_ERR)
		fake_break((struct fake_qp *)at);
	pthread_mutex_unlock(&fake.lock);
	return error;
}

static inline int fake_post_recv(
	struct ibv_qp *at, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)at;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_POST_RECV);
	for (; wr && !error; wr = wr->next) {
		if (qp->receive_count >= qp->cap.max_recv_wr) {
			error = ENOMEM;
			break;
		}
		if (at->state == IBV_QPS_ERR) {
			struct ibv_wc wc = {.wr_id = wr->wr_id, .status = IBV_WC_WR_FLUSH_ERR};
			fake_complete(at->recv_cq, &wc);
			continue;
		}
		unsigned index = (qp->first_receive + qp->receive_count++) % FAKE_CQ_MAX;
		qp->receives[index] = *wr;
		if (wr->num_sge > 0)
			qp->receive_gather[index] = wr->sg_list[0];
	}
	if (error)
		*bad = wr;
	else
		fake_carry_out();
	pthread_mutex_unlock(&fake.lock);
	return error;
}

/* ---- Requests ---- */

/* What a request reads, from `offset`. */
static inline void fake_read(
	const struct fake_request *request, size_t offset, uint8_t *to, size_t length)
{
	if (request->inline_data) {
		memcpy(to, request->inline_data + offset, length);
		return;
	}
	for (int i = 0; i < request->wr.num_sge && length > 0; i++) {
		const struct ibv_sge *sge = &request->gather[i];
		if (offset >= sge->length) {
			offset -= sge->length;
			continue;
		}
		size_t part = length < sge->length - offset ? length : sge->length - offset;
		memcpy(to, (const uint8_t *)(uintptr_t)sge->addr + offset, part);
		to += part;
		length -= part;
		offset = 0;
	}
}

static inline uint64_t fake_sum(const struct fake_request *request)
{
	uint64_t sum = 0, word;
	for (size_t at = 0; at < request->length; at += 8) {
		word = 0;
		fake_read(request, at, (uint8_t *)&word,
			request->length - at < 8 ? request->length - at : 8);
		sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
		sum ^= sum >> 29;
	}
	return sum;
}

/* Readers look at memory that changes: bytes are stored as a device would, without their knowing.
 */
static inline void fake_store(uint64_t address, const uint8_t *bytes, size_t length)
{
	uint8_t *to = (uint8_t *)(uintptr_t)address;
	for (size_t i = 0; i < length; i++)
		__atomic_store_n(&to[i], bytes[i], __ATOMIC_RELEASE);
}

static inline void fake_place_word(struct fake_request *request, size_t index)
{
	uint8_t word[8];
	size_t at = index * 8, length = request->length - at < 8 ? request->length - at : 8;
	fake_read(request, at, word, length);
	fake_store(request->wr.wr.rdma.remote_addr + at, word, length);
	request->placed[index] = 1;
}

static inline struct fake_qp *fake_peer(const struct fake_qp *qp)
{
	struct fake_id *peer = qp->id->peer;
	return peer && peer->id.qp && peer->id.qp->state == IBV_QPS_RTS
		       ? (struct fake_qp *)peer->id.qp
		       : NULL;
}

static inline bool fake_is_write(const struct fake_request *request)
{
	return request->wr.opcode == IBV_WR_RDMA_WRITE ||
	       request->wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

/* Why a request cannot be carried out, or success. */
static inline enum ibv_wc_status fake_check(
	const struct fake_qp *qp, const struct fake_qp *peer, const struct fake_request *request)
{
	for (int i = 0; i < request->wr.num_sge && !request->inline_data; i++) {
		const struct ibv_sge *sge = &request->gather[i];
		if (!fake_allows(qp->qp.pd, sge->lkey, sge->addr, sge->length, 0))
			return IBV_WC_LOC_PROT_ERR;
	}
	if (fake_is_write(request) &&
		!fake_allows(peer->qp.pd, request->wr.wr.rdma.rkey, request->wr.wr.rdma.remote_addr,
			request->length, IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE))
		return IBV_WC_REM_ACCESS_ERR;
	return IBV_WC_SUCCESS;
}

/* Carries out the oldest request; false: it must wait. */
static inline bool fake_step(struct fake_qp *qp)
{
	struct fake_request *request = qp->sends;
	struct fake_qp *peer = fake_peer(qp);
	if (!peer || qp->qp.state != IBV_QPS_RTS)
		return false;
	bool takes_receive = request->wr.opcode != IBV_WR_RDMA_WRITE;
	enum ibv_wc_status status = fake.fail_request;
	fake.fail_request = IBV_WC_SUCCESS;
	if (status == IBV_WC_SUCCESS)
		status = fake_check(qp, peer, request);
	if (status == IBV_WC_SUCCESS && takes_receive && peer->receive_count == 0) {
		fake.held_back++;
		return false;
	}
	if (status != IBV_WC_SUCCESS) {
		fake_finish(qp, status);
		fake_break(qp);
		if (status == IBV_WC_REM_ACCESS_ERR)
			fake_break(peer);
		return true;
	}
	if (fake_sum(request) != request->sum)
		fake.changed++;
	if (fake_is_write(request)) {
		for (size_t i = 0; i * 8 < request->length; i++) {
			if (!request->placed[i])
				fake_place_word(request, i);
		}
	}
	if (takes_receive) {
		unsigned index = peer->first_receive;
		struct ibv_wc wc = {.wr_id = peer->receives[index].wr_id,
			.byte_len = (uint32_t)request->length};
		if (request->wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM ||
			request->wr.opcode == IBV_WR_SEND_WITH_IMM) {
			wc.wc_flags = IBV_WC_WITH_IMM;
			wc.imm_data = request->wr.imm_data;
		}
		fake.heard++;
		if (!fake_is_write(request) && request->length > 0) {
			uint8_t *bytes = fake_new(request->length);
			if (peer->receive_gather[index].length < request->length)
				abort();
			fake_read(request, 0, bytes, request->length);
			fake_store(peer->receive_gather[index].addr, bytes, request->length);
			free(bytes);
		}
		peer->first_receive = (index + 1) % FAKE_CQ_MAX;
		peer->receive_count--;
		fake_complete(peer->qp.recv_cq, &wc);
	}
	fake_finish(qp, IBV_WC_SUCCESS);
	return true;
}

static inline void fake_carry_out(void)
{
	for (struct fake_qp *qp = fake.qps; qp && !fake.paused; qp = qp->next) {
		while (qp->sends && fake_step(qp))
			;
	}
}

static inline int fake_post_send(
	struct ibv_qp *at, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)at;
	unsigned chain = 0;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_POST_SEND);
	for (; wr && !error; wr = wr->next) {
		struct fake_request *request = fake_new(sizeof *request);
		if (wr->num_sge > (int)qp->cap.max_send_sge)
			abort();
		request->wr = *wr;
		request->wr.next = NULL;
		for (int i = 0; i < wr->num_sge; i++) {
			request->gather[i] = wr->sg_list[i];
			request->length += wr->sg_list[i].length;
		}
		if (wr->send_flags & IBV_SEND_INLINE) {
			if (request->length > qp->cap.max_inline_data)
				abort();
			uint8_t *data = fake_new(request->length);
			fake_read(request, 0, data, request->length);
			request->inline_data = data;
		}
		request->sum = fake_sum(request);
		request->placed = fake_new(request->length / 8 + 1);
		/* Soft-RoCE would overwrite the oldest. */
		if (++qp->send_count > qp->cap.max_send_wr)
			fake.overruns++;
		*qp->sends_end = request;
		qp->sends_end = &request->next;
		chain++;
		fake.requests++;
		if (wr->send_flags & IBV_SEND_SIGNALED)
			fake.signalled++;
		if ((unsigned)wr->num_sge > fake.longest_gather)
			fake.longest_gather = (unsigned)wr->num_sge;
		if (at->state == IBV_QPS_ERR) {
			while (qp->sends)
				fake_finish(qp, IBV_WC_WR_FLUSH_ERR);
		}
	}
	if (error)
		*bad = wr;
	if (chain > fake.longest_chain)
		fake.longest_chain = chain;
	fake_carry_out();
	pthread_mutex_unlock(&fake.lock);
	return error;
}

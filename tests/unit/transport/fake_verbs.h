/*
 * An RDMA device that is not there: librdmacm's and libibverbs' functions, as far as the verbs
 * provider calls them, between two ends in one process. It moves bytes as a device would, checks
 * what a device would not (that slots are not overrun, that sources do not change while they are
 * read), and fails on request.
 *
 * Requests of a queue pair are carried out in order and complete in order. While fake.paused is set
 * they wait, and fake_place() places bytes of the oldest ones in any order, as a network may.
 *
 * To be included by one test's only source file: these definitions take the place of the
 * libraries'.
 */
#pragma once

#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <sys/mman.h>
#include <sys/eventfd.h>

enum fake_call {
	FAKE_CHANNEL,
	FAKE_CREATE_ID,
	FAKE_BIND,
	FAKE_LISTEN,
	FAKE_RESOLVE_ADDR,
	FAKE_RESOLVE_ROUTE,
	FAKE_CONNECT,
	FAKE_ACCEPT,
	FAKE_MIGRATE,
	FAKE_OPTION,
	FAKE_QUERY_DEVICE,
	FAKE_ALLOC_PD,
	FAKE_COMP_CHANNEL,
	FAKE_CREATE_CQ,
	FAKE_CREATE_QP,
	FAKE_REG_MR,
	FAKE_DEREG_MR,
	FAKE_MODIFY_QP,
	FAKE_POST_SEND,
	FAKE_POST_RECV,
	FAKE_POLL_CQ,
	FAKE_NOTIFY_CQ,
	FAKE_CALLS,
};

#define FAKE_GATHER 32
#define FAKE_CQ_MAX 2048

struct fake_event {
	struct fake_event *next;
	struct rdma_cm_event event;
	struct fake_id *owner;
	uint8_t data[64];
};

struct fake_channel {
	struct rdma_event_channel channel;
	struct fake_event *events;
};

struct fake_id {
	struct rdma_cm_id id;
	struct fake_id *next, *peer;
	struct sockaddr_in address;
	bool listens, connected, incoming;
	unsigned unacked;
	uint8_t ack_timeout;
	struct rdma_conn_param parameters; /* given by this side */
};

struct fake_completions {
	struct ibv_comp_channel channel;
	struct ibv_cq *events[64];
	unsigned count;
};

struct fake_cq {
	struct ibv_cq cq;
	struct ibv_wc done[FAKE_CQ_MAX];
	unsigned first, count;
	bool armed;
};

struct fake_request {
	struct fake_request *next;
	struct ibv_send_wr wr;
	struct ibv_sge gather[FAKE_GATHER];
	uint8_t *inline_data;
	size_t length;
	uint64_t sum;    /* of the source when it was posted */
	uint8_t *placed; /* a flag for each 8 bytes that have been */
};

struct fake_qp {
	struct ibv_qp qp;
	struct fake_qp *next;
	struct fake_id *id;
	struct ibv_qp_cap cap;
	struct fake_request *sends, **sends_end;
	unsigned send_count, unfreed; /* slots in use: not yet covered by a completion */
	struct ibv_recv_wr receives[FAKE_CQ_MAX];
	struct ibv_sge receive_gather[FAKE_CQ_MAX];
	unsigned first_receive, receive_count;
	uint8_t rnr_timer;
};

struct fake_mr {
	struct ibv_mr mr;
	struct fake_mr *next;
	unsigned access;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t acked;
	struct fake_id *ids;
	struct fake_qp *qps;
	struct fake_mr *mrs;
	uint32_t next_key, next_qp;
	uint64_t random;

	/* What the device has and does. */
	int devices;
	int max_sge, max_qp_wr;
	unsigned max_inline;
	bool iwarp;
	bool paused;                                    /* nothing is carried out */
	bool deaf;                                      /* requests to connect are not answered */
	int fail_at[FAKE_CALLS], fail_with[FAKE_CALLS]; /* the n-th call from now fails */
	enum ibv_wc_status fail_request;                /* and so does the next request */

	/* What was seen. */
	unsigned calls[FAKE_CALLS];
	unsigned requests, signalled, longest_chain, longest_gather, notifications;
	unsigned overruns, changed, held_back; /* slots overwritten, sources changed, RNR */
	unsigned heard;                        /* requests that took a receive */
	size_t registered;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .acked = PTHREAD_COND_INITIALIZER};

static struct ibv_device fake_device = {.name = "fake0", .transport_type = IBV_TRANSPORT_IB};
static struct ibv_context fake_context;

/* As new; between tests, when all objects are gone. */
static inline void fake_reset(void)
{
	pthread_mutex_lock(&fake.lock);
	fake.devices = 1;
	fake.max_sge = FAKE_GATHER;
	fake.max_qp_wr = 1 << 14;
	fake.max_inline = 512;
	fake.iwarp = fake.paused = fake.deaf = false;
	fake.random = 88172645463325252u;
	memset(fake.fail_at, 0, sizeof fake.fail_at);
	memset(fake.calls, 0, sizeof fake.calls);
	fake.fail_request = IBV_WC_SUCCESS;
	fake.requests = fake.signalled = fake.longest_chain = fake.longest_gather = 0;
	fake.notifications = fake.overruns = fake.changed = fake.held_back = fake.heard = 0;
	fake_device.transport_type = IBV_TRANSPORT_IB;
	pthread_mutex_unlock(&fake.lock);
}

/* Lets the n-th of these calls from now fail. */
static inline void fake_fail(enum fake_call call, int n, int error)
{
	pthread_mutex_lock(&fake.lock);
	fake.fail_at[call] = n;
	fake.fail_with[call] = error;
	pthread_mutex_unlock(&fake.lock);
}

/* Whether this call is to fail; sets errno. With the lock held. */
static inline int fake_fails(enum fake_call call)
{
	fake.calls[call]++;
	if (fake.fail_at[call] == 0 || --fake.fail_at[call] > 0)
		return 0;
	errno = fake.fail_with[call];
	return errno;
}

static inline void *fake_new(size_t size)
{
	void *at = calloc(1, size);
	if (!at)
		abort();
	return at;
}

/* ---- Events of the connection manager ---- */

static inline void fake_tell(
	struct fake_id *id, enum rdma_cm_event_type type, int status, const void *data, size_t size)
{
	struct fake_channel *channel = (struct fake_channel *)id->id.channel;
	struct fake_event *event = fake_new(sizeof *event), **at = &channel->events;
	event->owner = id;
	event->event.id = &id->id;
	event->event.event = type;
	event->event.status = status;
	if (size > 0) {
		memcpy(event->data, data, size);
		event->event.param.conn.private_data = event->data;
		/* Padded, as in real life. */
		event->event.param.conn.private_data_len = sizeof event->data;
	}
	while (*at)
		at = &(*at)->next;
	*at = event;
	eventfd_write(channel->channel.fd, 1);
}

static inline void fake_settle_channel(struct fake_channel *channel)
{
	eventfd_t count;
	if (!channel->events)
		eventfd_read(channel->channel.fd, &count);
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct fake_channel *channel = NULL;
	pthread_mutex_lock(&fake.lock);
	if (fake.devices == 0)
		errno = ENODEV;
	else if (!fake_fails(FAKE_CHANNEL)) {
		channel = fake_new(sizeof *channel);
		channel->channel.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
	pthread_mutex_unlock(&fake.lock);
	return channel ? &channel->channel : NULL;
}

void rdma_destroy_event_channel(struct rdma_event_channel *at)
{
	struct fake_channel *channel = (struct fake_channel *)at;
	if (channel->events)
		abort();
	close(at->fd);
	free(channel);
}

int rdma_get_cm_event(struct rdma_event_channel *at, struct rdma_cm_event **out)
{
	struct fake_channel *channel = (struct fake_channel *)at;
	pthread_mutex_lock(&fake.lock);
	struct fake_event *event = channel->events;
	if (event) {
		channel->events = event->next;
		event->owner->unacked++;
		fake_settle_channel(channel);
		*out = &event->event;
	}
	pthread_mutex_unlock(&fake.lock);
	if (!event)
		errno = EAGAIN;
	return event ? 0 : -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *at)
{
	struct fake_event *event =
		(struct fake_event *)((uint8_t *)at - offsetof(struct fake_event, event));
	pthread_mutex_lock(&fake.lock);
	event->owner->unacked--;
	pthread_cond_broadcast(&fake.acked);
	pthread_mutex_unlock(&fake.lock);
	free(event);
	return 0;
}

const char *rdma_event_str(enum rdma_cm_event_type event)
{
	(void)event;
	return "RDMA_CM_EVENT";
}

/* Waits until no event of `id` is being looked at: whoever forgets to acknowledge hangs here. */
static inline void fake_wait_acked(struct fake_id *id)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	while (id->unacked > 0) {
		if (pthread_cond_timedwait(&fake.acked, &fake.lock, &until) == ETIMEDOUT)
			abort();
	}
}

/* ---- Ids ---- */

static inline struct fake_id *fake_make_id(struct rdma_event_channel *channel, void *context)
{
	struct fake_id *id = fake_new(sizeof *id);
	id->id.channel = channel;
	id->id.context = context;
	id->id.ps = RDMA_PS_TCP;
	id->next = fake.ids;
	fake.ids = id;
	return id;
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **out, void *context,
	enum rdma_port_space ps)
{
	(void)ps;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_CREATE_ID);
	if (!error)
		*out = &fake_make_id(channel, context)->id;
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

static inline void fake_disconnect(struct fake_id *id, bool tell_self)
{
	struct fake_id *peer = id->peer;
	if (!id->connected)
		return;
	id->connected = false;
	if (tell_self)
		fake_tell(id, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
	if (peer && peer->connected) {
		peer->connected = false;
		fake_tell(peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
	}
}

int rdma_destroy_id(struct rdma_cm_id *at)
{
	struct fake_id *id = (struct fake_id *)at;
	struct fake_channel *channel = (struct fake_channel *)at->channel;
	pthread_mutex_lock(&fake.lock);
	if (at->qp)
		abort();
	fake_disconnect(id, false);
	if (id->incoming && id->peer)
		fake_tell(id->peer, RDMA_CM_EVENT_REJECTED, 28, NULL, 0);
	fake_wait_acked(id);
	for (struct fake_event **link = &channel->events; *link;) {
		struct fake_event *event = *link;
		if (event->owner != id) {
			link = &event->next;
			continue;
		}
		*link = event->next;
		free(event);
	}
	fake_settle_channel(channel);
	if (id->peer)
		id->peer->peer = NULL;
	struct fake_id **link = &fake.ids;
	while (*link != id)
		link = &(*link)->next;
	*link = id->next;
	pthread_mutex_unlock(&fake.lock);
	free(id);
	return 0;
}

int rdma_migrate_id(struct rdma_cm_id *at, struct rdma_event_channel *to)
{
	struct fake_id *id = (struct fake_id *)at;
	struct fake_channel *old = (struct fake_channel *)at->channel,
			    *channel = (struct fake_channel *)to;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_MIGRATE);
	if (!error) {
		struct fake_event **end = &channel->events;
		while (*end)
			end = &(*end)->next;
		for (struct fake_event **link = &old->events; *link;) {
			struct fake_event *event = *link;
			if (event->owner != id) {
				link = &event->next;
				continue;
			}
			*link = event->next;
			event->next = NULL;
			*end = event;
			end = &event->next;
			eventfd_write(to->fd, 1);
		}
		fake_settle_channel(old);
		at->channel = to;
		fake_wait_acked(id);
	}
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t size)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_OPTION);
	if (!error && level == RDMA_OPTION_ID && name == RDMA_OPTION_ID_ACK_TIMEOUT && size == 1)
		((struct fake_id *)id)->ack_timeout = *(uint8_t *)value;
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

static inline struct fake_id *fake_listener(const struct sockaddr_in *address)
{
	for (struct fake_id *id = fake.ids; id; id = id->next) {
		if (id->listens && id->address.sin_port == address->sin_port)
			return id;
	}
	return NULL;
}

int rdma_bind_addr(struct rdma_cm_id *at, struct sockaddr *address)
{
	struct fake_id *id = (struct fake_id *)at;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_BIND);
	if (!error) {
		memcpy(&id->address, address, sizeof id->address);
		error = fake_listener(&id->address) ? EADDRINUSE : 0;
	}
	pthread_mutex_unlock(&fake.lock);
	errno = error;
	return error ? -1 : 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	(void)backlog;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_LISTEN);
	((struct fake_id *)id)->listens = !error;
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

int rdma_resolve_addr(
	struct rdma_cm_id *at, struct sockaddr *source, struct sockaddr *address, int timeout_ms)
{
	struct fake_id *id = (struct fake_id *)at;
	(void)source, (void)timeout_ms;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_RESOLVE_ADDR);
	memcpy(&id->address, address, sizeof id->address);
	at->verbs = &fake_context;
	/* A negative number fails by an event. */
	if (error <= 0)
		fake_tell(id, error ? RDMA_CM_EVENT_ADDR_ERROR : RDMA_CM_EVENT_ADDR_RESOLVED, error,
			NULL, 0);
	pthread_mutex_unlock(&fake.lock);
	return error > 0 ? -1 : 0;
}

int rdma_resolve_route(struct rdma_cm_id *at, int timeout_ms)
{
	(void)timeout_ms;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_RESOLVE_ROUTE);
	if (error <= 0)
		fake_tell((struct fake_id *)at,
			error ? RDMA_CM_EVENT_ROUTE_ERROR : RDMA_CM_EVENT_ROUTE_RESOLVED, error,
			NULL, 0);
	pthread_mutex_unlock(&fake.lock);
	return error > 0 ? -1 : 0;
}

int rdma_connect(struct rdma_cm_id *at, struct rdma_conn_param *parameters)
{
	struct fake_id *id = (struct fake_id *)at;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_CONNECT);
	struct fake_id *listener = fake_listener(&id->address);
	id->parameters = *parameters;
	if (error < 0) {
		fake_tell(id, RDMA_CM_EVENT_UNREACHABLE, error, NULL, 0);
	} else if (!error && !listener) {
		fake_tell(id, RDMA_CM_EVENT_REJECTED, 8, NULL, 0);
	} else if (!error && !fake.deaf) {
		struct fake_id *incoming = fake_make_id(listener->id.channel, listener->id.context);
		incoming->id.verbs = &fake_context;
		incoming->peer = id;
		incoming->incoming = true;
		id->peer = incoming;
		fake_tell(listener, RDMA_CM_EVENT_CONNECT_REQUEST, 0, parameters->private_data,
			parameters->private_data_len);
		struct fake_event *event = ((struct fake_channel *)listener->id.channel)->events;
		while (event->next)
			event = event->next;
		event->event.listen_id = event->event.id;
		event->event.id = &incoming->id;
	}
	pthread_mutex_unlock(&fake.lock);
	return error > 0 ? -1 : 0;
}

int rdma_reject(struct rdma_cm_id *at, const void *data, uint8_t size)
{
	struct fake_id *id = (struct fake_id *)at;
	pthread_mutex_lock(&fake.lock);
	id->incoming = false;
	if (id->peer)
		fake_tell(id->peer, RDMA_CM_EVENT_REJECTED, 28, data, size);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static inline void fake_carry_out(void);

int rdma_accept(struct rdma_cm_id *at, struct rdma_conn_param *parameters)
{
	struct fake_id *id = (struct fake_id *)at;
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_ACCEPT);
	if (!error && !id->peer)
		error = errno = EINVAL;
	if (!error) {
		id->parameters = *parameters;
		id->incoming = false;
		id->connected = id->peer->connected = true;
		id->id.qp->state = id->peer->id.qp->state = IBV_QPS_RTS;
		fake_tell(id, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
		fake_tell(id->peer, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
		fake_carry_out();
	}
	pthread_mutex_unlock(&fake.lock);
	return error ? -1 : 0;
}

static inline void fake_break(struct fake_qp *qp);

int rdma_disconnect(struct rdma_cm_id *at)
{
	pthread_mutex_lock(&fake.lock);
	bool connected = ((struct fake_id *)at)->connected;
	if (at->qp)
		fake_break((struct fake_qp *)at->qp);
	fake_disconnect((struct fake_id *)at, true);
	pthread_mutex_unlock(&fake.lock);
	errno = EINVAL;
	return connected ? 0 : -1;
}

/* The device goes away: every id hears of it, nothing passes. */
static inline void fake_remove_device(void)
{
	pthread_mutex_lock(&fake.lock);
	fake.paused = true;
	for (struct fake_id *id = fake.ids; id; id = id->next)
		fake_tell(id, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, 0);
	pthread_mutex_unlock(&fake.lock);
}

/* ---- Devices, domains, memory ---- */

struct ibv_device **ibv_get_device_list(int *count)
{
	struct ibv_device **list = fake_new(2 * sizeof *list);
	*count = fake.devices;
	if (fake.devices)
		list[0] = &fake_device;
	return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *out)
{
	(void)context;
	pthread_mutex_lock(&fake.lock);
	*out = (struct ibv_device_attr){.max_sge = fake.max_sge, .max_qp_wr = fake.max_qp_wr};
	int error = fake_fails(FAKE_QUERY_DEVICE);
	pthread_mutex_unlock(&fake.lock);
	return error;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_ALLOC_PD);
	pthread_mutex_unlock(&fake.lock);
	if (error)
		return NULL;
	struct ibv_pd *pd = fake_new(sizeof *pd);
	pd->context = context;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_mr *mr = fake.mrs; mr; mr = mr->next) {
		if (mr->mr.pd == pd)
			abort();
	}
	pthread_mutex_unlock(&fake.lock);
	free(pd);
	return 0;
}

#undef ibv_reg_mr
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t length, int access)
{
	struct fake_mr *mr = NULL;
	pthread_mutex_lock(&fake.lock);
	if (!fake_fails(FAKE_REG_MR)) {
		mr = fake_new(sizeof *mr);
		fake.next_key += 0x101;
		mr->mr = (struct ibv_mr){.context = pd->context,
			.pd = pd,
			.addr = address,
			.length = length,
			.lkey = fake.next_key,
			.rkey = fake.next_key};
		mr->access = (unsigned)access;
		mr->next = fake.mrs;
		fake.mrs = mr;
		fake.registered += length;
	}
	pthread_mutex_unlock(&fake.lock);
	return mr ? &mr->mr : NULL;
}

struct ibv_mr *ibv_reg_mr_iova2(
	struct ibv_pd *pd, void *address, size_t length, uint64_t iova, unsigned access)
{
	(void)iova;
	return ibv_reg_mr(pd, address, length, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *at)
{
	pthread_mutex_lock(&fake.lock);
	int error = fake_fails(FAKE_DEREG_MR);
	struct fake_mr **link = &fake.mrs;
	while (&(*link)->mr != at)
		link = &(*link)->next;
	struct fake_mr *mr = *link;
	*link = mr->next;
	fake.registered -= at->length;
	pthread_mutex_unlock(&fake.lock);
	free(mr);
	return error;
}

static inline struct fake_mr *fake_find_mr(struct ibv_pd *pd, uint32_t key)
{
	for (struct fake_mr *mr = fake.mrs; mr; mr = mr->next) {
		if (mr->mr.rkey == key && mr->mr.pd == pd)
			return mr;
	}
	return NULL;
}

static inline bool fake_allows(
	struct ibv_pd *pd, uint32_t key, uint64_t address, size_t length, unsigned access)
{
	struct fake_mr *mr = fake_find_mr(pd, key);
	uint64_t base = mr ? (uintptr_t)mr->mr.addr : 0;
	return mr && (mr->access & access) == access && address >= base &&
	       length <= mr->mr.length && address - base <= mr->mr.length - length;
}

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

/* ---- For the tests ---- */

static struct ibv_context fake_context = {
	.device = &fake_device,
	.ops = {.poll_cq = fake_poll_cq,
		.req_notify_cq = fake_req_notify_cq,
		.post_send = fake_post_send,
		.post_recv = fake_post_recv},
};

/* Nothing is carried out any more, until it is switched on again. */
static inline void fake_pause(bool paused)
{
	pthread_mutex_lock(&fake.lock);
	fake.paused = paused;
	fake_carry_out();
	pthread_mutex_unlock(&fake.lock);
}

/* Carries out `count` requests in spite of a pause. */
static inline void fake_proceed(unsigned count)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		while (count > 0 && qp->sends && fake_step(qp))
			count--;
	}
	pthread_mutex_unlock(&fake.lock);
}

/* Places one word of one write that waits, any of them; false: all are placed. */
static inline bool fake_place(void)
{
	struct fake_request *found = NULL;
	size_t found_word = 0, seen = 0;
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		for (struct fake_request *request = qp->sends; request; request = request->next) {
			for (size_t i = 0; fake_is_write(request) && i * 8 < request->length; i++) {
				if (request->placed[i] || next_random(&fake.random) % ++seen != 0)
					continue;
				found = request;
				found_word = i;
			}
		}
	}
	if (found)
		fake_place_word(found, found_word);
	pthread_mutex_unlock(&fake.lock);
	return found != NULL;
}

/* The next request ends so. */
static inline void fake_fail_request(enum ibv_wc_status status)
{
	pthread_mutex_lock(&fake.lock);
	fake.fail_request = status;
	pthread_mutex_unlock(&fake.lock);
}

/* What happens when a peer is silent for all retries: what waits fails. */
static inline void fake_exhaust(void)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		if (qp->sends) {
			fake_finish(qp, IBV_WC_RETRY_EXC_ERR);
			fake_break(qp);
		}
	}
	pthread_mutex_unlock(&fake.lock);
}

/* All queue pairs fall into error, without a request that could tell. */
static inline void fake_break_all(void)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next)
		fake_break(qp);
	pthread_mutex_unlock(&fake.lock);
}

static inline unsigned fake_waiting(void)
{
	unsigned count = 0;
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next)
		count += qp->send_count;
	pthread_mutex_unlock(&fake.lock);
	return count;
}

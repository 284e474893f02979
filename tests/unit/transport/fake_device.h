/* The fake device (fake_verbs.h): what it is made of, its domains and memory, and which of its calls fail. */
#pragma once

#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

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

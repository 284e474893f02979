#include "transport/verbs_meeting.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

/* What librdmacm reports when nobody listens there. */
#define REJECTED_NO_SERVICE 8

struct attempt {
	struct connection *c;
	uint64_t deadline;
	unsigned timeout_ms;
};

static unsigned left_ms(const struct attempt *attempt)
{
	uint64_t now = now_ns();
	return attempt->deadline > now ? (unsigned)((attempt->deadline - now) / 1000000u) + 1 : 0;
}

static int too_late(const struct attempt *attempt)
{
	return fail(ETIMEDOUT,
		"no standby answers on rdma:%s within %u ms; does its host have RDMA on that "
		"address?",
		attempt->c->fate.where, attempt->timeout_ms);
}

static int refused(const struct connection *c, const struct rdma_cm_event *event)
{
	struct verbs_answer answer = {0};
	if (event->param.conn.private_data && event->param.conn.private_data_len >= sizeof answer)
		memcpy(&answer, event->param.conn.private_data, sizeof answer);
	if (answer.magic == VERBS_MAGIC && answer.refusal == REFUSED_VERSION)
		return fail(EPROTO,
			"the standby on rdma:%s speaks another version of the protocol; run the "
			"same "
			"on both hosts",
			c->fate.where);
	if (answer.magic == VERBS_MAGIC)
		return fail(ECONNREFUSED, "the standby on rdma:%s takes nobody just now",
			c->fate.where);
	if (event->status == REJECTED_NO_SERVICE || event->status == -ECONNREFUSED)
		return fail(ECONNREFUSED, "no standby waits on rdma:%s; start one there first",
			c->fate.where);
	return fail(ECONNREFUSED,
		"rdma:%s refuses the connection, reason %d; is a standby there, and has it memory?",
		c->fate.where, event->status);
}

static int unexpected(const struct attempt *attempt, const struct rdma_cm_event *event)
{
	const char *where = attempt->c->fate.where;
	int status = event->status < 0 ? -event->status : 0;
	switch (event->event) {
	case RDMA_CM_EVENT_REJECTED:
		return refused(attempt->c, event);
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		if (status == ETIMEDOUT)
			return too_late(attempt);
		return verbs_device_refused(where, "find a way to", status ? status : EHOSTUNREACH);
	case RDMA_CM_EVENT_UNREACHABLE:
		return too_late(attempt);
	default:
		return fail(status ? status : EIO, "cannot connect to rdma:%s: %s, status %d",
			where, rdma_event_str(event->event), event->status);
	}
}

/* Waits for the next event, which should be `wanted`. */
static int await(const struct attempt *attempt, enum rdma_cm_event_type wanted)
{
	struct rdma_event_channel *channel = attempt->c->events;
	struct rdma_cm_event *event;
	for (;;) {
		struct pollfd pollfd = {.fd = channel->fd, .events = POLLIN};
		if (rdma_get_cm_event(channel, &event) == 0) {
			int error = event->event == wanted ? 0 : unexpected(attempt, event);
			rdma_ack_cm_event(event);
			return error;
		}
		if (errno != EAGAIN && errno != EINTR)
			return fail(errno, "cannot read events of rdma:%s: %s",
				attempt->c->fate.where, strerror(errno));
		unsigned left = left_ms(attempt);
		if (left == 0)
			return too_late(attempt);
		(void)!poll(&pollfd, 1, (int)left);
	}
}

/* Finds the device that leads there, and the way. */
static int resolve(const struct attempt *attempt, struct rdma_cm_id *id, struct sockaddr *address)
{
	const char *where = attempt->c->fate.where;
	/* No time at all is not taken for an answer by all kernels. */
	if (rdma_resolve_addr(id, NULL, address, (int)left_ms(attempt) + 1) != 0)
		return verbs_device_refused(where, "find a way to", errno);
	int error = await(attempt, RDMA_CM_EVENT_ADDR_RESOLVED);
	if (error)
		return error;
	if (rdma_resolve_route(id, (int)left_ms(attempt) + 1) != 0)
		return verbs_device_refused(where, "find a way to", errno);
	return await(attempt, RDMA_CM_EVENT_ROUTE_RESOLVED);
}

static int connect_link(struct attempt *attempt, enum verbs_which which, struct sockaddr *address)
{
	struct connection *c = attempt->c;
	const char *where = c->fate.where;
	struct rdma_cm_id *id;
	if (rdma_create_id(c->events, &id, NULL, RDMA_PS_TCP) != 0)
		return verbs_device_refused(where, "connect to", errno);
	int error = resolve(attempt, id, address);
	if (error) {
		rdma_destroy_id(id);
		return error;
	}
	error = verbs_connection_add(c, which, id);
	if (error)
		return error;
	struct verbs_greeting greeting = {
		.magic = VERBS_MAGIC, .version = VERBS_VERSION, .which = (uint16_t)which};
	memcpy(greeting.token, c->token, sizeof greeting.token);
	struct rdma_conn_param parameters = verbs_link_parameters(&greeting, sizeof greeting);
	if (rdma_connect(id, &parameters) != 0)
		return verbs_device_refused(where, "connect to", errno);
	error = await(attempt, RDMA_CM_EVENT_ESTABLISHED);
	if (!error)
		verbs_link_tune(&c->links[which]);
	return error;
}

/* Until the standby's word that it has both links. */
static int await_welcome(const struct attempt *attempt)
{
	struct connection *c = attempt->c;
	unsigned left;
	while (!c->links[VERBS_LOG].is_iwarp &&
		atomic_load_explicit(&c->bell.rung, memory_order_acquire) == 0) {
		if (verbs_fate_is_over(&c->fate))
			return verbs_fate_error(&c->fate);
		left = left_ms(attempt);
		if (left == 0)
			return too_late(attempt);
		bell_sleep(&c->bell, 0, (uint64_t)left * 1000000u);
	}
	return verbs_fate_is_over(&c->fate) ? verbs_fate_error(&c->fate) : 0;
}

int verbs_connect(const char *where, unsigned timeout_ms, struct connection **out)
{
	struct sockaddr_storage address;
	struct attempt attempt = {
		.timeout_ms = timeout_ms,
		.deadline = now_ns() + (uint64_t)timeout_ms * 1000000u,
	};
	int error = verbs_device_address(where, false, &address);
	if (!error)
		error = verbs_connection_make(&attempt.c, where, false);
	if (error)
		return error;
	struct connection *c = attempt.c;
	if (getrandom(c->token, sizeof c->token, 0) != sizeof c->token)
		error = fail(EIO, "the kernel gives no random bytes");
	if (!error)
		error = verbs_connection_channel(&c->events, where, "connect to");
	if (!error)
		error = connect_link(&attempt, VERBS_BULK, (struct sockaddr *)&address);
	if (!error)
		error = connect_link(&attempt, VERBS_LOG, (struct sockaddr *)&address);
	if (!error)
		error = verbs_connection_start(c);
	if (!error)
		error = await_welcome(&attempt);
	if (error)
		verbs_connection_close(c);
	else
		*out = c;
	return error;
}

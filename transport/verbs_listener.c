#include "transport/verbs_meeting.h"

#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Connections that are half made, or made and not yet accepted. */
#define WAITING 4u
/* How long one may take to get its second link. */
#define HALF_NS 5000000000u

struct listener {
	char where[VERBS_WHERE_MAX];
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	pthread_t thread;
	int stop;  /* eventfd for the thread */
	int ready; /* eventfd: as many as accept has something to do */
	pthread_mutex_t lock;
	struct connection
		*waiting[WAITING]; /* oldest first; made ones have both links established */
	unsigned count;
	bool is_gone; /* its device was removed, and accept has not said so yet */
};

static bool is_made(const struct connection *c)
{
	return c->links[VERBS_BULK].established && c->links[VERBS_LOG].established;
}

/* With the lock held. */
static struct connection *take_out(struct listener *listener, unsigned index)
{
	struct connection *c = listener->waiting[index];
	listener->count--;
	memmove(&listener->waiting[index], &listener->waiting[index + 1],
		(listener->count - index) * sizeof listener->waiting[0]);
	return c;
}

static void refuse(struct rdma_cm_id *id, enum verbs_refusal refusal)
{
	struct verbs_answer answer = {.magic = VERBS_MAGIC, .refusal = refusal};
	/* One that does not hear of it times out. */
	(void)!rdma_reject(id, &answer, sizeof answer);
}

static int accept_link(struct connection *c, enum verbs_which which, struct rdma_cm_id *id)
{
	struct verbs_link *link = &c->links[which];
	int error = verbs_connection_add(c, which, id);
	if (error)
		return error;
	struct rdma_conn_param parameters = verbs_link_parameters(NULL, 0);
	if (rdma_accept(link->id, &parameters) != 0)
		return fail(errno, "cannot accept a link on rdma:%s: %s", c->fate.where,
			strerror(errno));
	verbs_link_tune(link);
	return 0;
}

/* The first link of a connection. */
static enum verbs_refusal begin_connection(
	struct listener *listener, struct rdma_cm_id *id, const struct verbs_greeting *greeting)
{
	struct connection *c;
	if (listener->count == WAITING)
		return REFUSED_BUSY;
	if (verbs_connection_make(&c, listener->where, true) < 0)
		return REFUSED_FAILED;
	memcpy(c->token, greeting->token, sizeof c->token);
	if (accept_link(c, VERBS_BULK, id) < 0) {
		say("refused a connection: %s", fail_message());
		verbs_connection_close(c);
		return REFUSED_NOT;
	}
	listener->waiting[listener->count++] = c;
	return REFUSED_NOT;
}

/* The second one. */
static enum verbs_refusal complete_connection(
	struct listener *listener, struct rdma_cm_id *id, const struct verbs_greeting *greeting)
{
	for (unsigned i = 0; i < listener->count; i++) {
		struct connection *c = listener->waiting[i];
		if (c->links[VERBS_LOG].id ||
			memcmp(c->token, greeting->token, sizeof c->token) != 0)
			continue;
		if (accept_link(c, VERBS_LOG, id) < 0) {
			say("refused a connection: %s", fail_message());
			verbs_connection_close(take_out(listener, i));
		}
		return REFUSED_NOT;
	}
	return REFUSED_FAILED;
}

static void on_request(
	struct listener *listener, struct rdma_cm_id *id, const struct verbs_greeting *greeting)
{
	enum verbs_refusal refusal = REFUSED_VERSION;
	pthread_mutex_lock(&listener->lock);
	if (greeting->magic == VERBS_MAGIC && greeting->version == VERBS_VERSION) {
		if (greeting->which == VERBS_BULK)
			refusal = begin_connection(listener, id, greeting);
		else
			refusal = complete_connection(listener, id, greeting);
	}
	pthread_mutex_unlock(&listener->lock);
	/* A connection has taken the id over, also if nothing became of it. */
	if (refusal != REFUSED_NOT) {
		refuse(id, refusal);
		rdma_destroy_id(id);
	}
}

/* Tells the primary that accept will find it. Over iWARP only the active side may speak first. */
static void welcome(struct connection *c)
{
	struct verbs_queue *queue = &c->queues[VERBS_LOG];
	struct ibv_send_wr request = {.opcode = IBV_WR_SEND};
	if (c->links[VERBS_LOG].is_iwarp)
		return;
	pthread_mutex_lock(&queue->lock);
	/* If it cannot be told, the connection is over, and will be seen to be. */
	(void)!verbs_queue_post(queue, &request, 1, true);
	pthread_mutex_unlock(&queue->lock);
}

static void on_established(struct listener *listener, const struct rdma_cm_id *id)
{
	struct connection *c = id->context;
	for (unsigned i = 0; i < VERBS_LINKS; i++) {
		if (c->links[i].id == id)
			c->links[i].established = true;
	}
	if (is_made(c)) {
		eventfd_write(listener->ready, 1);
		welcome(c);
	}
}

/* A link that waits has ended. Returns the connection if it is now the caller's to close. With one
 * that accept is taking away just now, the event finds it all the same. */
static struct connection *on_lost(struct listener *listener, struct connection *c)
{
	for (unsigned i = 0; i < listener->count; i++) {
		if (listener->waiting[i] == c)
			return take_out(listener, i);
	}
	verbs_fate_end(&c->fate, "the peer has ended it");
	return NULL;
}

static void take_event(struct listener *listener, struct rdma_cm_event *event)
{
	struct rdma_cm_id *id = event->id;
	struct connection *lost = NULL;
	if (event->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
		struct verbs_greeting greeting = {0};
		if (event->param.conn.private_data &&
			event->param.conn.private_data_len >= sizeof greeting)
			memcpy(&greeting, event->param.conn.private_data, sizeof greeting);
		rdma_ack_cm_event(event);
		on_request(listener, id, &greeting);
		return;
	}
	/* An id lives at least until its event is acknowledged. */
	pthread_mutex_lock(&listener->lock);
	switch (event->event) {
	case RDMA_CM_EVENT_ESTABLISHED:
		on_established(listener, id);
		break;
	case RDMA_CM_EVENT_ADDR_CHANGE:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		break;
	default:
		if (id != listener->id && id->context) {
			lost = on_lost(listener, id->context);
		} else if (id == listener->id && event->event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
			listener->is_gone = true;
			eventfd_write(listener->ready, 1);
		}
		break;
	}
	pthread_mutex_unlock(&listener->lock);
	rdma_ack_cm_event(event);
	if (lost)
		verbs_connection_close(lost);
}

/* Gives up connections whose second link does not come. Returns when to look again, in ms. */
static int expire(struct listener *listener)
{
	struct connection *late = NULL;
	int next = -1;
	pthread_mutex_lock(&listener->lock);
	for (unsigned i = 0; i < listener->count && !late; i++) {
		if (is_made(listener->waiting[i]))
			continue;
		next = 1000;
		if (now_ns() - listener->waiting[i]->began_ns > HALF_NS)
			late = take_out(listener, i);
	}
	pthread_mutex_unlock(&listener->lock);
	if (late)
		verbs_connection_close(late);
	return next;
}

static void *serve(void *argument)
{
	struct listener *listener = argument;
	struct pollfd fds[] = {
		{.fd = listener->stop, .events = POLLIN},
		{.fd = listener->events->fd, .events = POLLIN},
	};
	while (!fds[0].revents) {
		struct rdma_cm_event *event;
		while (rdma_get_cm_event(listener->events, &event) == 0)
			take_event(listener, event);
		(void)!poll(fds, 2, expire(listener));
	}
	return NULL;
}

static int bind_and_listen(struct listener *listener)
{
	struct sockaddr_storage address;
	int error = verbs_device_address(listener->where, true, &address);
	if (!error)
		error = verbs_connection_channel(&listener->events, listener->where, "listen on");
	if (error)
		return error;
	if (rdma_create_id(listener->events, &listener->id, NULL, RDMA_PS_TCP) != 0 ||
		rdma_bind_addr(listener->id, (struct sockaddr *)&address) != 0 ||
		rdma_listen(listener->id, (int)(2 * WAITING)) != 0)
		return verbs_device_refused(listener->where, "listen on", errno);
	return 0;
}

/* At any stage of its making; the thread has ended. */
static void free_listener(struct listener *listener)
{
	while (listener->count > 0)
		verbs_connection_close(take_out(listener, 0));
	if (listener->id)
		rdma_destroy_id(listener->id);
	if (listener->events)
		rdma_destroy_event_channel(listener->events);
	if (listener->stop >= 0)
		close(listener->stop);
	if (listener->ready >= 0)
		close(listener->ready);
	pthread_mutex_destroy(&listener->lock);
	free(listener);
}

int verbs_listener_open(const char *where, struct listener **out)
{
	struct listener *listener = calloc(1, sizeof *listener);
	if (!listener)
		return fail(ENOMEM, "no memory to listen on rdma:%s", where);
	snprintf(listener->where, sizeof listener->where, "%s", where);
	pthread_mutex_init(&listener->lock, NULL);
	listener->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	listener->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	int error = 0;
	if (listener->stop < 0 || listener->ready < 0)
		error = fail(
			errno, "no descriptors to listen on rdma:%s: %s", where, strerror(errno));
	if (!error)
		error = bind_and_listen(listener);
	if (!error)
		error = thread_start(&listener->thread, "verbs listener", serve, listener);
	if (error)
		free_listener(listener);
	else
		*out = listener;
	return error;
}

int verbs_listener_fd(const struct listener *listener)
{
	return listener->ready;
}

void verbs_listener_close(struct listener *listener)
{
	if (!listener)
		return;
	eventfd_write(listener->stop, 1);
	pthread_join(listener->thread, NULL);
	free_listener(listener);
}

/* The listener's thread may still be at an event of the ids that move: rdma_migrate_id waits for
 * it. */
static int take_over(struct connection *c)
{
	int error = verbs_connection_channel(&c->events, c->fate.where, "accept on");
	for (unsigned i = 0; i < VERBS_LINKS && !error; i++) {
		if (rdma_migrate_id(c->links[i].id, c->events) != 0)
			error = fail(errno, "cannot take over a connection on rdma:%s: %s",
				c->fate.where, strerror(errno));
	}
	return error ? error : verbs_connection_start(c);
}

int verbs_listener_accept(struct listener *listener, struct connection **out)
{
	struct connection *c = NULL;
	eventfd_t one;
	bool is_gone;
	(void)!eventfd_read(listener->ready, &one);
	pthread_mutex_lock(&listener->lock);
	is_gone = listener->is_gone;
	listener->is_gone = false;
	for (unsigned i = 0; i < listener->count && !c && !is_gone; i++) {
		if (is_made(listener->waiting[i]))
			c = take_out(listener, i);
	}
	pthread_mutex_unlock(&listener->lock);
	if (is_gone)
		return fail(ENODEV,
			"the RDMA device of rdma:%s was removed: nobody can connect any more; "
			"start "
			"the standby again when it is back",
			listener->where);
	if (!c)
		return -EAGAIN;
	int error = take_over(c);
	if (error)
		verbs_connection_close(c);
	else
		*out = c;
	return error;
}

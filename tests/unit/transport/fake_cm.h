/* The fake device's connection manager (fake_verbs.h). */
#pragma once

#include "fake_queues.h"

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

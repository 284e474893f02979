#include "transport/tcp_receiver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Of messages that nobody has taken; more stay with their sender. */
#define KEPT_MAX (4u * MESSAGE_MAX)
/* Of a body that is received at once, so that readers are told of it meanwhile. */
#define DIRECT_MAX (256u * 1024u)

#define WATCHED (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

static int init_locks(struct tcp_receiver *r)
{
	pthread_condattr_t attributes;
	int error = pthread_condattr_init(&attributes);
	if (error)
		return fail(error, "cannot make a lock: %s", strerror(error));
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	error = pthread_cond_init(&r->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	if (error)
		return fail(error, "cannot make a lock: %s", strerror(error));
	pthread_mutex_init(&r->lock, NULL);
	return 0;
}

int tcp_receiver_open(struct tcp_receiver *r, int fd, bool is_standby)
{
	r->fd = fd;
	r->is_standby = is_standby;
	r->last = &r->first;
	int error = init_locks(r);
	if (error)
		return error;
	struct epoll_event event = {.events = WATCHED};
	r->signal = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (r->signal >= 0 && r->epoll >= 0 && epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	error = fail(errno, "cannot watch a connection: %s", strerror(errno));
	if (r->signal >= 0)
		close(r->signal);
	if (r->epoll >= 0)
		close(r->epoll);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
	return error;
}

void tcp_receiver_destroy(struct tcp_receiver *r)
{
	for (struct tcp_message *next; r->first; r->first = next) {
		next = r->first->next;
		free(r->first);
	}
	free(r->arriving);
	close(r->signal);
	close(r->epoll);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
}

/* ---- What a frame may do. All of it with the lock held. ---- */

static int hostile(const struct tcp_receiver *r, const char *what)
{
	return fail(EPROTO,
		"the peer does not follow the protocol: %s (type %u, %u bytes, at %llu)", what,
		r->frame.type, r->frame.length, (unsigned long long)r->frame.at);
}

/* L3: the first frame may begin anywhere, the others where the last one has ended; and none reaches
 * over bytes that have not been reported as consumed. */
static bool log_fits(struct tcp_receiver *r)
{
	uint64_t at = r->frame.at;
	if (at > INT64_MAX || (r->has_log && at != r->log_end))
		return false;
	if (!r->has_log)
		r->log_start = r->log_end = at;
	r->has_log = true;
	/* T1: what was read of these bytes comes before what is now written; pairs with T2. */
	uint64_t consumed = atomic_load_explicit(&r->consumed, memory_order_acquire);
	if (consumed < r->log_start)
		consumed = r->log_start;
	if (consumed > r->log_end)
		consumed = r->log_end;
	return r->frame.length <= r->ring_size - (r->log_end - consumed);
}

/* Whether the frame may come now, from this peer, with these sizes. */
static bool is_allowed(struct tcp_receiver *r)
{
	const struct tcp_frame *f = &r->frame;
	bool from_primary = r->is_standby && r->is_attached;
	bool from_standby = !r->is_standby && r->is_attached;
	if (f->counter != 0 && f->type != FRAME_ACK)
		return false;
	switch (f->type) {
	case FRAME_MESSAGE:
		return f->length <= MESSAGE_MAX && f->at == 0;
	case FRAME_EXPOSED:
		return !r->is_standby && !r->is_exposed && f->length == sizeof r->exposed &&
		       f->at == 0;
	case FRAME_ATTACHED:
		return r->is_standby && r->is_exposed && !r->is_attached && f->length == 0 &&
		       f->at == 0;
	case FRAME_MEMORY:
		return from_primary && r->memory && f->at <= r->memory_size &&
		       f->length <= r->memory_size - f->at;
	case FRAME_MEMORY_END:
		return from_primary && f->length == 0;
	case FRAME_MEMORY_DONE:
		return from_standby && f->length == 0 && f->at > r->memory_done &&
		       f->at <= r->memory_number;
	case FRAME_LOG:
		return from_primary && log_fits(r);
	case FRAME_ACK:
		return from_standby && f->length == 0 && f->counter < ACK_COUNTERS;
	default:
		return false;
	}
}

/* Where the next bytes of the body belong. NULL: nowhere any more. */
static uint8_t *place(const struct tcp_receiver *r)
{
	uint64_t done = r->frame.length - r->left;
	switch (r->frame.type) {
	case FRAME_MESSAGE:
		return r->arriving->bytes + done;
	case FRAME_EXPOSED:
		return (uint8_t *)&r->exposed + done;
	case FRAME_MEMORY:
		return r->memory ? r->memory + r->frame.at + done : NULL;
	default: /* FRAME_LOG: the others have no body */
		return r->ring + (r->log_end & (r->ring_size - 1));
	}
}

static void placed(struct tcp_receiver *r, size_t n, uint32_t *kinds)
{
	*kinds |= 1u << r->frame.type;
	r->left -= n;
	if (r->frame.type == FRAME_LOG)
		r->log_end += n;
}

static int begin_message(struct tcp_receiver *r)
{
	size_t size = sizeof *r->arriving + r->frame.length;
	if (r->kept > 0 && r->kept + size > KEPT_MAX) {
		r->is_stalled = true;
		return -EAGAIN;
	}
	r->arriving = malloc(size);
	if (!r->arriving)
		return fail(ENOMEM, "no memory for a message");
	*r->arriving = (struct tcp_message){.length = r->frame.length};
	r->kept += size;
	return 0;
}

/* The frame's header is there. -EAGAIN: it has to wait. */
static int begin_frame(struct tcp_receiver *r)
{
	if (!is_allowed(r))
		return hostile(r, "a frame that may not come");
	int error = r->frame.type == FRAME_MESSAGE ? begin_message(r) : 0;
	if (!error)
		r->left = r->frame.length;
	return error;
}

/* All of it is there. */
static void end_frame(struct tcp_receiver *r, uint32_t *kinds)
{
	*kinds |= 1u << r->frame.type;
	r->frame_have = 0;
	switch (r->frame.type) {
	case FRAME_MESSAGE:
		*r->last = r->arriving;
		r->last = &r->arriving->next;
		r->arriving = NULL;
		(void)eventfd_write(r->signal, 1);
		break;
	case FRAME_EXPOSED:
		r->is_exposed = true;
		break;
	case FRAME_ATTACHED:
		r->is_attached = true;
		break;
	case FRAME_MEMORY_END:
	case FRAME_MEMORY_DONE:
		r->memory_done = r->frame.at;
		break;
	case FRAME_ACK:
		ack_store(r->acks, r->secret, (enum ack_counter)r->frame.counter, r->frame.at);
		break;
	default:
		break;
	}
}

/* ---- The stream. With the lock held. ---- */

static int take_header(struct tcp_receiver *r)
{
	size_t n = r->input_end - r->input_at, lacks = sizeof r->frame - r->frame_have;
	if (n > lacks)
		n = lacks;
	memcpy((uint8_t *)&r->frame + r->frame_have, r->input + r->input_at, n);
	if (n == lacks) {
		/* One that has to wait is read again from the input. */
		int error = begin_frame(r);
		if (error)
			return error;
	}
	r->frame_have += n;
	r->input_at += n;
	return 0;
}

static int take_body(struct tcp_receiver *r, uint32_t *kinds)
{
	size_t n = r->input_end - r->input_at;
	uint8_t *to = place(r);
	if (!to)
		return hostile(r, "it writes memory that was withdrawn");
	if (n > r->left)
		n = r->left;
	memcpy(to, r->input + r->input_at, n);
	r->input_at += n;
	placed(r, n, kinds);
	return 0;
}

static int take_input(struct tcp_receiver *r, uint32_t *kinds)
{
	int error = 0;
	while (!error && r->input_at < r->input_end) {
		if (r->frame_have < sizeof r->frame)
			error = take_header(r);
		else
			error = take_body(r, kinds);
		if (!error && r->frame_have == sizeof r->frame && r->left == 0)
			end_frame(r, kinds);
	}
	return error;
}

/* Receives once: the rest of a body goes straight to its place, what follows into the input. */
static int receive(struct tcp_receiver *r, bool to_the_end, uint32_t *kinds)
{
	struct iovec pieces[2];
	struct msghdr message = {.msg_iov = pieces};
	size_t direct = r->left < DIRECT_MAX ? r->left : DIRECT_MAX, wanted = direct;
	if (direct > 0) {
		uint8_t *to = place(r);
		if (!to)
			return hostile(r, "it writes memory that was withdrawn");
		pieces[message.msg_iovlen++] = (struct iovec){to, direct};
	}
	if (direct == r->left) {
		pieces[message.msg_iovlen++] = (struct iovec){r->input, sizeof r->input};
		wanted += sizeof r->input;
	}
	ssize_t n = recvmsg(r->fd, &message, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n < 0 && errno == EINTR)
		return 0;
	if (n < 0)
		return fail(errno, "%s",
			errno == ETIMEDOUT ? "the peer has fallen silent" : strerror(errno));
	if (n == 0)
		return fail(ECONNRESET, "the peer is gone");
	if ((size_t)n < direct)
		direct = (size_t)n;
	if (direct > 0) {
		placed(r, direct, kinds);
		if (r->left == 0)
			end_frame(r, kinds);
	}
	r->input_at = 0;
	r->input_end = (size_t)n - direct;
	int error = take_input(r, kinds);
	/* Less than there was room for was all there is. An end is found by reading on. */
	if (!error && (size_t)n < wanted && !to_the_end)
		return -EAGAIN;
	return error;
}

int tcp_receiver_take(struct tcp_receiver *r, bool to_the_end, uint32_t *kinds)
{
	int error;
	*kinds = 0;
	pthread_mutex_lock(&r->lock);
	if (r->is_closed)
		error = -ECONNRESET;
	else if (r->is_stalled)
		error = -EAGAIN;
	else if (r->input_at < r->input_end)
		error = take_input(r, kinds);
	else
		error = receive(r, to_the_end, kinds);
	if (*kinds & ~(1u << FRAME_LOG | 1u << FRAME_ACK | 1u << FRAME_MEMORY))
		pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	return error;
}

/* ---- The other threads ---- */

void tcp_receiver_close(struct tcp_receiver *r, const char *why)
{
	pthread_mutex_lock(&r->lock);
	if (!r->is_closed)
		snprintf(r->why, sizeof r->why, "%s", why);
	r->is_closed = true;
	(void)eventfd_write(r->signal, 1);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

void tcp_receiver_why(struct tcp_receiver *r, char *text, size_t size)
{
	pthread_mutex_lock(&r->lock);
	snprintf(text, size, "%s", r->is_closed ? r->why : "the peer is gone");
	pthread_mutex_unlock(&r->lock);
}

/* With the lock held. False when the time is over. */
static bool wait_for_change(struct tcp_receiver *r, uint64_t deadline_ns)
{
	struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
		.tv_nsec = (long)(deadline_ns % 1000000000u)};
	return pthread_cond_timedwait(&r->changed, &r->lock, &until) != ETIMEDOUT;
}

struct tcp_message *tcp_receiver_message(
	struct tcp_receiver *r, uint64_t deadline_ns, bool *is_closed)
{
	pthread_mutex_lock(&r->lock);
	while (!r->first && !r->is_closed && wait_for_change(r, deadline_ns))
		;
	*is_closed = r->is_closed;
	struct tcp_message *message = r->first;
	if (message) {
		r->first = message->next;
		r->kept -= sizeof *message + message->length;
	}
	if (message && !r->first) {
		eventfd_t rung;
		r->last = &r->first;
		if (!r->is_closed)
			(void)eventfd_read(r->signal, &rung);
	}
	if (message && r->is_stalled) {
		/* Set again, the socket's edges count anew, and the provider's thread looks. */
		struct epoll_event event = {.events = WATCHED};
		r->is_stalled = false;
		(void)epoll_ctl(r->epoll, EPOLL_CTL_MOD, r->fd, &event);
	}
	pthread_mutex_unlock(&r->lock);
	return message;
}

int tcp_receiver_await(
	struct tcp_receiver *r, bool (*is_so)(const struct tcp_receiver *r), uint64_t deadline_ns)
{
	pthread_mutex_lock(&r->lock);
	while (!is_so(r) && !r->is_closed && wait_for_change(r, deadline_ns))
		;
	int error = is_so(r) ? 0 : r->is_closed ? -ECONNRESET : -ETIMEDOUT;
	pthread_mutex_unlock(&r->lock);
	return error;
}

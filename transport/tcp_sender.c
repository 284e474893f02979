#include "transport/tcp_sender.h"

#include "base/check.h"
#include "transport/memfd.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* The log is cut into frames of this size where it has to wait, so that a letter need not. */
#define BODY_MAX (256u * 1024u)
/* More pieces than these go by way of the backlog. */
#define DIRECT_PIECES 260

int tcp_sender_open(struct tcp_sender *sender, int fd)
{
	*sender = (struct tcp_sender){.fd = fd};
	pthread_condattr_t attributes;
	int error = pthread_condattr_init(&attributes);
	if (error)
		goto out;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	error = pthread_cond_init(&sender->moved, &attributes);
	pthread_condattr_destroy(&attributes);
	if (error)
		goto out;
	error = pthread_mutex_init(&sender->lock, NULL);
	if (error)
		pthread_cond_destroy(&sender->moved);
out:
	return error ? fail(error, "cannot make a lock: %s", strerror(error)) : 0;
}

void tcp_sender_destroy(struct tcp_sender *sender)
{
	memfd_unmap(sender->backlog, sender->backlog_size, true);
	pthread_mutex_destroy(&sender->lock);
	pthread_cond_destroy(&sender->moved);
}

int tcp_sender_prepare_log(struct tcp_sender *sender, uint64_t ring_size)
{
	void *at;
	int error = memfd_ring(&at, "log backlog", ring_size);
	if (error)
		return error;
	pthread_mutex_lock(&sender->lock);
	sender->backlog = at;
	sender->backlog_size = ring_size;
	pthread_mutex_unlock(&sender->lock);
	return 0;
}

/* Hands bytes to the socket, without the lock: how many it took, 0 when it is full, -ECONNRESET when
 * it is dead. For who has set is_sending. */
static ssize_t hand_over(struct tcp_sender *sender, struct iovec *pieces, size_t count, bool more)
{
	struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
	int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0);
	sender->is_ready = false;
	pthread_mutex_unlock(&sender->lock);
	ssize_t n;
	do {
		n = sendmsg(sender->fd, &message, flags);
	} while (n < 0 && errno == EINTR);
	int error = n < 0 ? errno : 0;
	pthread_mutex_lock(&sender->lock);
	if (n >= 0)
		return n;
	if (error == EAGAIN) {
		/* From here on the kernel owes an EPOLLOUT, if it has not come meanwhile. */
		sender->is_full = !sender->is_ready;
		return 0;
	}
	/* Why, the reading side will find out: it takes what came before. */
	sender->is_closed = true;
	return -ECONNRESET;
}

/* Chooses what is sent next. The log, which never ends, comes last. */
static bool choose_next(struct tcp_sender *sender)
{
	sender->headers_size = sender->headers_sent = 0;
	sender->body = BODY_NONE;
	sender->body_left = 0;
	if (sender->letter && !sender->letter_begun) {
		sender->headers[0] = *sender->letter;
		sender->headers_size = sizeof sender->headers[0];
		sender->body = BODY_LETTER;
		sender->body_left = sender->letter->length;
		sender->letter_begun = true;
		return true;
	}
	for (; sender->notes_due; sender->notes_due &= sender->notes_due - 1) {
		unsigned kind = (unsigned)__builtin_ctz(sender->notes_due);
		sender->headers[sender->headers_size / sizeof sender->headers[0]] =
			sender->notes[kind];
		sender->headers_size += sizeof sender->headers[0];
	}
	if (sender->headers_size > 0)
		return true;
	uint64_t waiting = sender->log_end - sender->log_sent;
	if (waiting == 0)
		return false;
	sender->body = BODY_BACKLOG;
	sender->body_left = waiting < BODY_MAX ? waiting : BODY_MAX;
	sender->headers[0] = (struct tcp_frame){
		.type = FRAME_LOG, .length = (uint32_t)sender->body_left, .at = sender->log_sent};
	sender->headers_size = sizeof sender->headers[0];
	return true;
}

static bool is_under_way(const struct tcp_sender *sender)
{
	return sender->headers_sent < sender->headers_size || sender->body != BODY_NONE;
}

/* Accounts for `n` bytes that the socket has taken of what is under way. */
static void advance(struct tcp_sender *sender, size_t n)
{
	size_t of_headers = sender->headers_size - sender->headers_sent;
	if (of_headers > n)
		of_headers = n;
	sender->headers_sent += of_headers;
	n -= of_headers;
	if (sender->body == BODY_LETTER)
		sender->letter_bytes += n;
	else if (sender->body == BODY_BACKLOG)
		sender->log_sent += n;
	sender->body_left -= n;
	if (sender->headers_sent < sender->headers_size || sender->body_left > 0)
		return;
	if (sender->body == BODY_LETTER) {
		sender->letter = NULL;
		pthread_cond_broadcast(&sender->moved);
	}
	sender->body = BODY_NONE;
}

/* Sends what waits, until nothing does or the socket is full. With the lock held on both ends. */
static void pump(struct tcp_sender *sender)
{
	if (sender->is_sending)
		return;
	sender->is_sending = true;
	while (!sender->is_closed && !sender->is_full &&
		(is_under_way(sender) || choose_next(sender))) {
		struct iovec pieces[2];
		size_t count = 0;
		bool more = false;
		if (sender->headers_sent < sender->headers_size)
			pieces[count++] =
				(struct iovec){(uint8_t *)sender->headers + sender->headers_sent,
					sender->headers_size - sender->headers_sent};
		if (sender->body == BODY_LETTER) {
			more = sender->letter_more;
			pieces[count++] =
				(struct iovec){(void *)sender->letter_bytes, sender->body_left};
		} else if (sender->body == BODY_BACKLOG) {
			uint64_t offset = sender->log_sent & (sender->backlog_size - 1);
			pieces[count++] =
				(struct iovec){sender->backlog + offset, sender->body_left};
		}
		ssize_t n = hand_over(sender, pieces, count, more);
		if (n > 0)
			advance(sender, (size_t)n);
	}
	sender->is_sending = false;
	pthread_cond_broadcast(&sender->moved);
}

/* Until nobody hands anything to the socket any more. */
static void await_idle(struct tcp_sender *sender)
{
	while (sender->is_sending)
		pthread_cond_wait(&sender->moved, &sender->lock);
}

int tcp_sender_letter(struct tcp_sender *sender, const struct tcp_frame *frame, const void *body,
	bool more, unsigned timeout_ms)
{
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	struct timespec until = {.tv_sec = (time_t)(deadline / 1000000000u),
		.tv_nsec = (long)(deadline % 1000000000u)};
	int waited = 0, error = -ECONNRESET;
	pthread_mutex_lock(&sender->lock);
	CHECK(L1, !sender->letter, "two threads send messages over one connection");
	if (!sender->is_closed) {
		sender->letter = frame;
		sender->letter_bytes = body;
		sender->letter_more = more;
		sender->letter_begun = false;
		pump(sender);
		while (sender->letter && !sender->is_closed && waited != ETIMEDOUT)
			waited = pthread_cond_timedwait(&sender->moved, &sender->lock, &until);
		/* What was sent was, though the peer may have answered it and gone by now. */
		error = !sender->letter ? 0 : sender->is_closed ? -ECONNRESET : -ETIMEDOUT;
	}
	/* What the caller owns must not be read any more. */
	if (sender->letter) {
		sender->is_closed = true;
		await_idle(sender);
	}
	sender->letter = NULL;
	pthread_mutex_unlock(&sender->lock);
	return error;
}

int tcp_sender_note(struct tcp_sender *sender, unsigned kind, const struct tcp_frame *frame)
{
	pthread_mutex_lock(&sender->lock);
	if (!sender->is_closed) {
		sender->notes[kind] = *frame;
		sender->notes_due |= 1u << kind;
		pump(sender);
	}
	int error = sender->is_closed ? -ECONNRESET : 0;
	pthread_mutex_unlock(&sender->lock);
	return error;
}

/* Copies what lies behind the first `skip` bytes into the backlog. */
static void keep(struct tcp_sender *sender, uint64_t lsn, const struct iovec *pieces, int count,
	uint64_t skip)
{
	for (int i = 0; i < count; i++) {
		uint64_t length = pieces[i].iov_len;
		uint64_t gone = skip < length ? skip : length;
		memcpy(sender->backlog + ((lsn + gone) & (sender->backlog_size - 1)),
			(const uint8_t *)pieces[i].iov_base + gone, length - gone);
		skip -= gone;
		lsn += length;
	}
}

/* Nothing waits: straight from the caller's memory. What the socket does not take is kept. */
static void send_directly(struct tcp_sender *sender, uint64_t lsn, const struct iovec *pieces,
	int count, uint64_t length)
{
	struct iovec all[1 + DIRECT_PIECES];
	sender->headers[0] =
		(struct tcp_frame){.type = FRAME_LOG, .length = (uint32_t)length, .at = lsn};
	sender->headers_size = sizeof sender->headers[0];
	sender->headers_sent = 0;
	sender->body = BODY_BACKLOG;
	sender->body_left = length;
	all[0] = (struct iovec){sender->headers, sizeof sender->headers[0]};
	memcpy(all + 1, pieces, (size_t)count * sizeof pieces[0]);
	sender->is_sending = true;
	ssize_t n = hand_over(sender, all, 1 + (size_t)count, false);
	sender->is_sending = false;
	if (n < 0)
		return;
	advance(sender, (size_t)n);
	keep(sender, lsn, pieces, count, sender->log_sent - lsn);
}

int tcp_sender_log(struct tcp_sender *sender, uint64_t lsn, const struct iovec *pieces, int count)
{
	uint64_t length = 0;
	for (int i = 0; i < count; i++)
		length += pieces[i].iov_len;
	int error = 0;
	pthread_mutex_lock(&sender->lock);
	CHECK(L3, sender->backlog, "a log is written before the connection is attached");
	CHECK(L3, length <= sender->backlog_size, "%llu bytes at once into a ring of %llu",
		(unsigned long long)length, (unsigned long long)sender->backlog_size);
	if (sender->is_closed) {
		pthread_mutex_unlock(&sender->lock);
		return -ECONNRESET;
	}
	if (!sender->has_log) {
		sender->log_sent = sender->log_end = lsn;
		sender->has_log = true;
	}
	CHECK(L1, lsn == sender->log_end, "LSN %llu is written where %llu comes next",
		(unsigned long long)lsn, (unsigned long long)sender->log_end);
	if (lsn + length - sender->log_sent > sender->backlog_size) {
		error = -EPROTO;
	} else if (length > 0) {
		bool is_idle = !sender->is_sending && !is_under_way(sender) &&
			       lsn == sender->log_sent && !sender->letter && !sender->notes_due &&
			       !sender->is_full;
		sender->log_end = lsn + length;
		if (is_idle && count <= DIRECT_PIECES && length <= UINT32_MAX)
			send_directly(sender, lsn, pieces, count, length);
		else
			keep(sender, lsn, pieces, count, 0);
		pump(sender);
		error = sender->is_closed ? -ECONNRESET : 0;
	}
	pthread_mutex_unlock(&sender->lock);
	return error;
}

void tcp_sender_ready(struct tcp_sender *sender)
{
	pthread_mutex_lock(&sender->lock);
	sender->is_ready = true;
	sender->is_full = false;
	pump(sender);
	pthread_mutex_unlock(&sender->lock);
}

void tcp_sender_close(struct tcp_sender *sender)
{
	pthread_mutex_lock(&sender->lock);
	sender->is_closed = true;
	pthread_cond_broadcast(&sender->moved);
	await_idle(sender);
	pthread_mutex_unlock(&sender->lock);
}

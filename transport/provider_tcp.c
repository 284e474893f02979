/*
 * The tcp provider, for hosts without RDMA: the same entries and acks, as frames of one stream
 * (tcp_wire.h).
 *
 *   primary                                        standby
 *   the log's thread sends LOG frames  ──────────▶ the connection's thread places them into the
 *                                                  ring and rings the bell
 *   the connection's thread puts them  ◀────────── the receiver's thread sends ACK frames
 *   into the ack block and rings its bell
 *
 * Each end has a thread of its own, from the moment the two have met, that takes in what arrives
 * (tcp_receiver.h) and goes on sending what the socket had no room for (tcp_sender.h). Messages it
 * keeps for recv().
 *
 * The ring is mapped once to read and once to write: the reader's mapping cannot write.
 *
 * After a fence nothing is handed to the socket, and nothing is placed. What the kernel had taken
 * before may still arrive: such an ack tells of entries that the backup has and will apply.
 */
#include "base/check.h"
#include "base/thread.h"
#include "transport/host_port.h"
#include "transport/memfd.h"
#include "transport/tcp_receiver.h"
#include "transport/tcp_sender.h"
#include "transport/tcp_socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHOWN_MAX 80
/* How long a peer may take to read a message, and to answer in expose and attach. */
#define SEND_MS 5000u
#define SETUP_MS 10000u

struct connection {
	int fd;
	bool is_standby;
	char name[SHOWN_MAX + 1];
	pthread_t thread;
	struct tcp_sender out;
	struct tcp_receiver in;
	const uint8_t *ring; /* standby: twice in a row, to read */
	struct bell bell;    /* standby: log bytes have arrived */
	bool is_memory_open; /* primary */
	_Atomic uint64_t written;
};

struct listener {
	int fd;
	char name[SHOWN_MAX + 1];
};

/* ---- The end of a connection ---- */

static void cut(struct connection *c, const char *why)
{
	/* Who is told by recv() that it is over must find it so when sending, too. */
	tcp_sender_close(&c->out);
	tcp_receiver_close(&c->in, why);
	/* Tells the peer, behind all that was sent, and wakes our thread. What the peer has sent
	 * meanwhile is left unread until the socket is closed; refusing it now would take back what
	 * the peer has not yet read. */
	shutdown(c->fd, SHUT_WR);
}

static void fence_tcp(struct connection *c)
{
	cut(c, "it is fenced");
}

static int closed(struct connection *c)
{
	char why[sizeof c->in.why];
	tcp_receiver_why(&c->in, why, sizeof why);
	return fail(ECONNRESET, "the connection tcp:%s has ended: %s", c->name, why);
}

/* ---- The thread of a connection ---- */

static void tell(struct connection *c, uint32_t kinds)
{
	if (kinds & 1u << FRAME_LOG)
		bell_ring(&c->bell);
	if (kinds & 1u << FRAME_ACK)
		bell_ring(&c->in.acks->bell);
	if (kinds & 1u << FRAME_MEMORY_END) {
		/* Only this thread changes the number, and earlier ones need no answer any more. */
		const struct tcp_frame done = {.type = FRAME_MEMORY_DONE, .at = c->in.memory_done};
		/* If it cannot be sent, reading will find out why. */
		(void)!tcp_sender_note(&c->out, NOTE_MEMORY_DONE, &done);
	}
}

/* Readiness is told by edges, so each is used up, in both directions. */
static void *serve(void *argument)
{
	struct connection *c = argument;
	int error;
	thread_is_prompt();
	do {
		struct epoll_event event = {0};
		uint32_t kinds;
		(void)!epoll_wait(c->in.epoll, &event, 1, -1);
		bool to_the_end = event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
		if (event.events & EPOLLOUT)
			tcp_sender_ready(&c->out);
		do {
			error = tcp_receiver_take(&c->in, to_the_end, &kinds);
			tell(c, kinds);
		} while (!error);
	} while (error == -EAGAIN);
	cut(c, fail_message());
	return NULL;
}

/* ---- Meeting ---- */

static int listen_tcp(const char *where, struct listener **out)
{
	struct listener *listener = calloc(1, sizeof *listener);
	if (!listener)
		return fail(ENOMEM, "no memory to listen on tcp:%s", where);
	int error = listener->fd = tcp_listen(where);
	if (error < 0) {
		free(listener);
		return error;
	}
	snprintf(listener->name, sizeof listener->name, "%s", where);
	*out = listener;
	return 0;
}

static int listener_fd(const struct listener *listener)
{
	return listener->fd;
}

static void listener_close(struct listener *listener)
{
	if (!listener)
		return;
	close(listener->fd);
	free(listener);
}

/* Takes over `fd`, which may be an error. */
static int make_connection(int fd, const char *where, bool is_standby, struct connection **out)
{
	if (fd < 0)
		return fd;
	int error;
	struct connection *c = calloc(1, sizeof *c);
	if (!c) {
		error = fail(ENOMEM, "no memory for a connection on tcp:%s", where);
		goto close_socket;
	}
	c->fd = fd;
	c->is_standby = is_standby;
	snprintf(c->name, sizeof c->name, "%s", where);
	error = tcp_sender_open(&c->out, fd);
	if (error)
		goto free_connection;
	error = tcp_receiver_open(&c->in, fd, is_standby);
	if (error)
		goto destroy_sender;
	error = thread_start(&c->thread, "tcp", serve, c);
	if (error)
		goto destroy_receiver;
	*out = c;
	return 0;

destroy_receiver:
	tcp_receiver_destroy(&c->in);
destroy_sender:
	tcp_sender_destroy(&c->out);
free_connection:
	free(c);
close_socket:
	close(fd);
	return error;
}

static int accept_tcp(struct listener *listener, struct connection **out)
{
	return make_connection(tcp_accept(listener->fd, listener->name), listener->name, true, out);
}

static int connect_tcp(const char *where, unsigned timeout_ms, struct connection **out)
{
	return make_connection(tcp_connect(where, timeout_ms), where, false, out);
}

static void close_tcp(struct connection *c)
{
	if (!c)
		return;
	fence_tcp(c);
	pthread_join(c->thread, NULL);
	/* With bytes unread the kernel would drop what it has still to send. A peer that never
	 * stops is not waited for. */
	for (int i = 0; i < 64; i++) {
		if (recv(c->fd, c->in.input, sizeof c->in.input, MSG_DONTWAIT) <= 0)
			break;
	}
	close(c->fd);
	memfd_unmap(c->in.memory, c->in.memory_size, false);
	memfd_unmap((void *)c->ring, c->in.ring_size, true);
	memfd_unmap(c->in.ring, c->in.ring_size, true);
	free(c->in.acks);
	tcp_receiver_destroy(&c->in);
	tcp_sender_destroy(&c->out);
	free(c);
}

/* ---- Messages ---- */

static uint64_t in_ms(unsigned timeout_ms)
{
	return now_ns() + (uint64_t)timeout_ms * 1000000u;
}

static int send_frame(
	struct connection *c, const struct tcp_frame *frame, const void *body, bool more)
{
	int error = tcp_sender_letter(&c->out, frame, body, more, SEND_MS);
	if (error == -ETIMEDOUT) {
		cut(c, "the peer has read nothing for some seconds");
		return fail(ETIMEDOUT, "the peer on tcp:%s did not take a message within %u ms",
			c->name, SEND_MS);
	}
	return error ? closed(c) : 0;
}

static int send_tcp(struct connection *c, const void *message, size_t length)
{
	if (length > MESSAGE_MAX)
		return fail(EMSGSIZE, "a message of %zu bytes to tcp:%s: %u is the most", length,
			c->name, MESSAGE_MAX);
	const struct tcp_frame frame = {.type = FRAME_MESSAGE, .length = (uint32_t)length};
	return send_frame(c, &frame, message, false);
}

static int recv_tcp(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	bool is_over;
	struct tcp_message *got = tcp_receiver_message(&c->in, in_ms(timeout_ms), &is_over);
	if (!got && is_over)
		return closed(c);
	if (!got)
		return fail(ETIMEDOUT, "nothing came from the peer on tcp:%s within %u ms", c->name,
			timeout_ms);
	int error = 0;
	if (got->length > capacity)
		error = fail(EMSGSIZE, "the peer on tcp:%s sent %zu bytes where %zu are the most",
			c->name, got->length, capacity);
	else if ((*length = got->length) > 0)
		memcpy(message, got->bytes, got->length);
	free(got);
	return error;
}

static int connection_fd(const struct connection *c)
{
	return c->in.signal;
}

/* ---- Sharing ---- */

static bool is_exposed(const struct tcp_receiver *in)
{
	return in->is_exposed;
}

static bool is_attached(const struct tcp_receiver *in)
{
	return in->is_attached;
}

static bool is_memory_done(const struct tcp_receiver *in)
{
	return in->memory_done == in->memory_number;
}

static int await(struct connection *c, bool (*is_so)(const struct tcp_receiver *in),
	unsigned timeout_ms, const char *what)
{
	int error = tcp_receiver_await(&c->in, is_so, in_ms(timeout_ms));
	if (error == -ETIMEDOUT)
		return fail(ETIMEDOUT, "the peer on tcp:%s did not %s within %u ms", c->name, what,
			timeout_ms);
	return error ? closed(c) : 0;
}

/* What is mapped is the connection's, and goes with it. */
static int map_ring(struct connection *c, size_t ring_size)
{
	int fd = memfd_make("doppel log ring", ring_size);
	if (fd < 0)
		return fd;
	void *at;
	int error = memfd_map(&at, fd, ring_size, PROT_READ, true);
	if (!error) {
		c->ring = at;
		c->in.ring_size = ring_size;
		error = memfd_map(&at, fd, ring_size, PROT_READ | PROT_WRITE, true);
	}
	if (!error)
		c->in.ring = at;
	close(fd);
	return error;
}

static int expose_tcp(
	struct connection *c, size_t ring_size, int memory, size_t memory_size, uint64_t secret)
{
	(void)secret; /* the check words are made where the acks arrive */
	CHECK(L3, c->is_standby && !c->ring, "a connection has one ring, new for it");
	int error = provider_check_ring(ring_size);
	if (!error)
		error = memfd_check(memory, memory_size, "guest memory");
	if (!error)
		error = map_ring(c, ring_size);
	void *at;
	if (!error)
		error = memfd_map(&at, memory, memory_size, PROT_READ | PROT_WRITE, false);
	if (error)
		return error;
	pthread_mutex_lock(&c->in.lock);
	c->in.memory = at;
	c->in.memory_size = memory_size;
	c->in.is_exposed = true;
	pthread_mutex_unlock(&c->in.lock);
	const struct tcp_exposed exposed = {.ring_size = ring_size, .memory_size = memory_size};
	const struct tcp_frame frame = {.type = FRAME_EXPOSED, .length = sizeof exposed};
	error = send_frame(c, &frame, &exposed, false);
	return error ? error : await(c, is_attached, SETUP_MS, "attach to our memory");
}

static int attach_tcp(struct connection *c, size_t ring_size, size_t memory_size, uint64_t secret)
{
	CHECK(L3, !c->is_standby && !c->in.acks, "a connection has one ring, new for it");
	int error = provider_check_ring(ring_size);
	if (!error)
		error = await(c, is_exposed, SETUP_MS, "offer its memory");
	if (error)
		return error;
	/* Nothing writes `exposed` once it has come. */
	if (c->in.exposed.ring_size != ring_size || c->in.exposed.memory_size != memory_size)
		return fail(EPROTO,
			"the standby on tcp:%s offers another ring or guest memory than agreed",
			c->name);
	error = tcp_sender_prepare_log(&c->out, ring_size);
	if (error)
		return error;
	struct ack_block *acks = aligned_alloc(sizeof(struct ack_cell), sizeof *acks);
	if (!acks)
		return fail(ENOMEM, "no memory for the ack block of tcp:%s", c->name);
	memset(acks, 0, sizeof *acks);
	pthread_mutex_lock(&c->in.lock);
	c->in.acks = acks;
	c->in.secret = secret;
	c->in.memory_size = memory_size;
	c->in.is_attached = true;
	pthread_mutex_unlock(&c->in.lock);
	c->is_memory_open = true;
	const struct tcp_frame frame = {.type = FRAME_ATTACHED};
	return send_frame(c, &frame, NULL, false);
}

/* What the socket does not take at once is copied. */
static int register_source(struct connection *c, void *base, size_t size)
{
	(void)c, (void)base, (void)size;
	return 0;
}

/* ---- Guest memory ---- */

static int write_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	if (!c->is_memory_open)
		return fail(EACCES,
			"the guest memory of tcp:%s is not, or no longer, open to writes", c->name);
	if (offset > c->in.memory_size || length > c->in.memory_size - offset)
		return fail(EINVAL, "%zu bytes at %llu lie outside the guest memory of tcp:%s",
			length, (unsigned long long)offset, c->name);
	for (size_t part; length > 0; length -= part) {
		part = length < UINT32_MAX ? length : UINT32_MAX;
		const struct tcp_frame frame = {
			.type = FRAME_MEMORY, .length = (uint32_t)part, .at = offset};
		/* finish_memory follows: segments may be filled until then. */
		int error = send_frame(c, &frame, bytes, true);
		if (error)
			return error;
		bytes = (const uint8_t *)bytes + part;
		offset += part;
	}
	return 0;
}

static int finish_memory(struct connection *c, unsigned timeout_ms)
{
	pthread_mutex_lock(&c->in.lock);
	const struct tcp_frame frame = {.type = FRAME_MEMORY_END, .at = ++c->in.memory_number};
	pthread_mutex_unlock(&c->in.lock);
	int error = send_frame(c, &frame, NULL, false);
	return error ? error : await(c, is_memory_done, timeout_ms, "take the guest's memory");
}

static void withdraw_memory(struct connection *c)
{
	pthread_mutex_lock(&c->in.lock);
	uint8_t *memory = c->in.memory;
	c->in.memory = NULL;
	pthread_mutex_unlock(&c->in.lock);
	memfd_unmap(memory, c->in.memory_size, false);
	c->is_memory_open = false;
	/* The clone is whole: heartbeats watch the peer. */
	tcp_be_patient(c->fd);
}

/* ---- The log and its acks ---- */

static int write_log(struct connection *c, uint64_t lsn, const struct iovec *pieces, int count)
{
	CHECK(L3, c->in.acks, "the log is written by an attached primary");
	int error = tcp_sender_log(&c->out, lsn, pieces, count);
	if (error == -EPROTO)
		cut(c, "the standby says that it has consumed what it was not sent");
	if (error)
		return closed(c);
	for (int i = 0; i < count; i++)
		lsn += pieces[i].iov_len;
	/* W1: the bytes are not read any more; pairs with W2. */
	atomic_store_explicit(&c->written, lsn, memory_order_release);
	return 0;
}

static uint64_t written(struct connection *c)
{
	/* W2: pairs with W1: who asks may change the bytes. */
	return atomic_load_explicit(&c->written, memory_order_acquire);
}

static int write_ack(struct connection *c, enum ack_counter counter, uint64_t value)
{
	CHECK(L3, c->is_standby && c->ring, "acks are written by a standby that was attached to");
	if (counter == ACK_CONSUMED)
		/* T2: what was read of the ring came before; pairs with T1 in tcp_receiver.c. */
		atomic_store_explicit(&c->in.consumed, value, memory_order_release);
	const struct tcp_frame frame = {
		.type = FRAME_ACK, .counter = (uint16_t)counter, .at = value};
	return tcp_sender_note(&c->out, counter, &frame) ? closed(c) : 0;
}

static const uint8_t *ring(const struct connection *c)
{
	return c->ring;
}

static const struct ack_block *acks(const struct connection *c)
{
	return c->in.acks;
}

static struct bell *bell(struct connection *c)
{
	if (c->is_standby)
		return c->ring ? &c->bell : NULL;
	return c->in.acks ? &c->in.acks->bell : NULL;
}

static int check_tcp(const char *where)
{
	return host_port_check(provider_tcp.scheme, where);
}

const struct provider provider_tcp = {
	.scheme = "tcp",
	.check = check_tcp,
	.listen = listen_tcp,
	.listener_fd = listener_fd,
	.accept = accept_tcp,
	.listener_close = listener_close,
	.connect = connect_tcp,
	.send = send_tcp,
	.recv = recv_tcp,
	.fd = connection_fd,
	.expose = expose_tcp,
	.attach = attach_tcp,
	.register_source = register_source,
	.write_memory = write_memory,
	.finish_memory = finish_memory,
	.withdraw_memory = withdraw_memory,
	.write_log = write_log,
	.written = written,
	.write_ack = write_ack,
	.ring = ring,
	.acks = acks,
	.bell = bell,
	.fence = fence_tcp,
	.close = close_tcp,
};

/*
 * The shm provider: both processes on one machine, the log ring and the ack block in memory that
 * both have mapped.
 *
 *   standby                                primary
 *   listens on the abstract socket ◀─────── connects
 *      "doppel-shm-NAME"
 *   expose: ring, control page,   ─memfds─▶ attach: maps them
 *           guest memory
 *           maps it              ◀─memfd─── ack block
 *   reads the ring                          writes the ring (write_log) and rings control->bell
 *   writes the ack block (write_ack)        reads it
 *     and rings acks->bell
 *
 * The socket (channel.h) carries the messages and tells when the peer has died. Nothing in shared
 * memory is ever locked, so a peer that dies at any moment leaves nothing held; what it was writing
 * is torn, and is seen to be (L2, L3).
 *
 * Withdrawal: a mapping cannot be taken away from another process. So the writer takes it away from
 * itself: withdraw_memory on the primary unmaps the guest's memory, and fence closes the gate
 * through which every write goes; on the standby withdraw_memory has nothing to do. Being right
 * does not rest on a peer that does so, one that was frozen and thawed least of all: after its
 * fence a backup decides once how far the log goes, its acks have ended, so that the peer can
 * release nothing that was placed later, and each entry is checked again as it is applied.
 */
#include "transport/transport.h"

#include "base/check.h"
#include "transport/ack.h"
#include "transport/channel.h"
#include "transport/copy.h"
#include "transport/memfd.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
/* How long a peer may take to read a message, and to answer in expose and attach. */
#define SEND_MS 5000u
#define SETUP_MS 10000u

enum frame { FRAME_MESSAGE = 1, FRAME_EXPOSED, FRAME_ATTACHED };

/* What expose tells attach; descriptors go along: ring, control page, guest memory. */
struct exposed {
	uint64_t ring_size;
	uint64_t memory_size;
};

/* One page beside the ring. */
struct control {
	struct bell bell; /* log bytes have arrived */
};

/* The gate: its top bit says closed, the others count the threads that are writing to the peer. */
#define GATE_CLOSED 0x80000000u

struct connection {
	struct channel channel;
	_Atomic uint32_t gate;
	bool is_standby;
	uint64_t secret;
	uint8_t *ring; /* standby: twice in a row, to read; primary: once, to write */
	size_t ring_size;
	struct control *control;
	uint8_t *memory; /* primary: the standby's guest memory, until withdrawn */
	size_t memory_size;
	struct ack_block *acks;
	_Atomic uint64_t written;
};

struct listener {
	int fd;
	char name[CHANNEL_NAME_MAX + 1];
};

/* ---- The gate: fence waits for writes that have begun, and none begins afterwards ---- */

static bool gate_enter(struct connection *c)
{
	if (!(atomic_fetch_add_explicit(&c->gate, 1, memory_order_acquire) & GATE_CLOSED))
		return true;
	atomic_fetch_sub_explicit(&c->gate, 1, memory_order_relaxed);
	return false;
}

static void gate_leave(struct connection *c)
{
	/* G1: what was written is ordered before; pairs with G2. */
	atomic_fetch_sub_explicit(&c->gate, 1, memory_order_release);
}

static void gate_close(struct connection *c)
{
	atomic_fetch_or_explicit(&c->gate, GATE_CLOSED, memory_order_relaxed);
	/* G2: pairs with G1. Who is inside only copies, and leaves soon. */
	while (atomic_load_explicit(&c->gate, memory_order_acquire) != GATE_CLOSED)
		sched_yield();
}

static int closed(const struct connection *c)
{
	return fail(
		ECONNRESET, "the connection shm:%s is fenced or its peer is gone", c->channel.name);
}

/* ---- Meeting ---- */

static int listen_shm(const char *where, struct listener **out)
{
	struct listener *listener = calloc(1, sizeof *listener);
	if (!listener)
		return fail(ENOMEM, "no memory to listen on shm:%s", where);
	int error = listener->fd = channel_listen(where);
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
	struct connection *c = calloc(1, sizeof *c);
	if (!c) {
		close(fd);
		return fail(ENOMEM, "no memory for a connection on shm:%s", where);
	}
	int error = channel_open(&c->channel, fd, where);
	if (error) {
		free(c);
		return error;
	}
	c->is_standby = is_standby;
	*out = c;
	return 0;
}

static int accept_shm(struct listener *listener, struct connection **out)
{
	return make_connection(
		channel_accept(listener->fd, listener->name), listener->name, true, out);
}

static int connect_shm(const char *where, unsigned timeout_ms, struct connection **out)
{
	return make_connection(channel_connect(where, timeout_ms), where, false, out);
}

/* ---- Messages ---- */

static void fence_shm(struct connection *c)
{
	gate_close(c);
	channel_shutdown(&c->channel);
}

/* What the control thread finds broken is closed for the log thread, too. */
static int broken_is_fenced(struct connection *c, int error)
{
	if (error && error != -ETIMEDOUT && error != -EMSGSIZE)
		fence_shm(c);
	return error;
}

static int send_frame(struct connection *c, enum frame type, const void *body, size_t length,
	const int *fds, unsigned fd_count)
{
	int error = channel_send(&c->channel, (uint16_t)type, body, length, fds, fd_count, SEND_MS);
	/* Half a frame cannot be taken back, nor can anything follow it. */
	if (error == -ETIMEDOUT)
		fence_shm(c);
	return broken_is_fenced(c, error);
}

static int recv_frame(struct connection *c, enum frame type, void *body, size_t capacity,
	size_t *length, int *fds, unsigned fd_count, unsigned timeout_ms)
{
	return broken_is_fenced(c, channel_recv(&c->channel, (uint16_t)type, body, capacity, length,
					   fds, fd_count, timeout_ms));
}

static int send_shm(struct connection *c, const void *message, size_t length)
{
	return send_frame(c, FRAME_MESSAGE, message, length, NULL, 0);
}

static int recv_shm(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	return recv_frame(c, FRAME_MESSAGE, message, capacity, length, NULL, 0, timeout_ms);
}

static int connection_fd(const struct connection *c)
{
	return c->channel.fd;
}

/* ---- Sharing ---- */

static int map_whole(void **out, int fd, size_t size, int protection, bool twice, const char *what)
{
	int error = memfd_check(fd, size, what);
	return error ? error : memfd_map(out, fd, size, protection, twice);
}

static int expose_shm(
	struct connection *c, size_t ring_size, int memory, size_t memory_size, uint64_t secret)
{
	CHECK(L3, !c->ring, "a connection has one ring, new for it");
	int error = provider_check_ring(ring_size);
	if (error)
		return error;
	/* The primary will insist on it, too. */
	error = memfd_check(memory, memory_size, "guest memory");
	if (error)
		return error;
	int ring = memfd_make("doppel log ring", ring_size);
	if (ring < 0)
		return ring;
	int control = memfd_make("doppel control page", PAGE);
	error = control;
	if (control < 0)
		goto close_ring;

	/* From here on the mappings are the connection's, and go with it. */
	void *at;
	error = memfd_map(&at, ring, ring_size, PROT_READ, true);
	if (error)
		goto close_control;
	c->ring = at;
	c->ring_size = ring_size;
	error = memfd_map(&at, control, PAGE, PROT_READ | PROT_WRITE, false);
	if (error)
		goto close_control;
	c->control = at;

	struct exposed exposed = {.ring_size = ring_size, .memory_size = memory_size};
	int fds[CHANNEL_FDS] = {ring, control, memory};
	error = send_frame(c, FRAME_EXPOSED, &exposed, sizeof exposed, fds, CHANNEL_FDS);
	if (error)
		goto close_control;
	int acks;
	size_t length;
	error = recv_frame(c, FRAME_ATTACHED, NULL, 0, &length, &acks, 1, SETUP_MS);
	if (error)
		goto close_control;
	error = map_whole(&at, acks, PAGE, PROT_READ | PROT_WRITE, false, "ack block");
	close(acks);
	if (error)
		goto close_control;
	c->secret = secret;
	c->acks = at;

close_control:
	close(control);
close_ring:
	close(ring);
	return error;
}

static int attach_shm(struct connection *c, size_t ring_size, size_t memory_size, uint64_t secret)
{
	CHECK(L3, !c->ring, "a connection has one ring, new for it");
	int error = provider_check_ring(ring_size);
	if (error)
		return error;
	struct exposed exposed;
	size_t length;
	int fds[CHANNEL_FDS];
	error = recv_frame(
		c, FRAME_EXPOSED, &exposed, sizeof exposed, &length, fds, CHANNEL_FDS, SETUP_MS);
	if (error)
		return error;
	int acks = -1;
	if (length != sizeof exposed || exposed.ring_size != ring_size ||
		exposed.memory_size != memory_size) {
		error = fail(EPROTO,
			"the standby on shm:%s offers another ring or guest memory than agreed",
			c->channel.name);
		goto close_fds;
	}
	acks = memfd_make("doppel ack block", PAGE);
	if (acks < 0) {
		error = acks;
		goto close_fds;
	}
	void *at;
	error = map_whole(&at, fds[0], ring_size, PROT_READ | PROT_WRITE, false, "log ring");
	if (error)
		goto close_fds;
	c->ring = at;
	c->ring_size = ring_size;
	error = map_whole(&at, fds[1], PAGE, PROT_READ | PROT_WRITE, false, "control page");
	if (error)
		goto close_fds;
	c->control = at;
	error = map_whole(&at, fds[2], memory_size, PROT_READ | PROT_WRITE, false, "guest memory");
	if (error)
		goto close_fds;
	c->memory = at;
	c->memory_size = memory_size;
	error = memfd_map(&at, acks, PAGE, PROT_READ | PROT_WRITE, false);
	if (error)
		goto close_fds;
	c->secret = secret;
	c->acks = at;
	error = send_frame(c, FRAME_ATTACHED, NULL, 0, &acks, 1);

close_fds:
	if (acks >= 0)
		close(acks);
	for (unsigned i = 0; i < CHANNEL_FDS; i++)
		close(fds[i]);
	return error;
}

/* Whatever write_log is given, it copies. */
static int register_source(struct connection *c, void *base, size_t size)
{
	(void)c, (void)base, (void)size;
	return 0;
}

/* ---- Guest memory ---- */

static int write_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	if (!c->memory)
		return fail(EACCES,
			"the guest memory of shm:%s is not, or no longer, open to writes",
			c->channel.name);
	if (offset > c->memory_size || length > c->memory_size - offset)
		return fail(EINVAL, "%zu bytes at %llu lie outside the guest memory of shm:%s",
			length, (unsigned long long)offset, c->channel.name);
	if (!gate_enter(c))
		return closed(c);
	memcpy(c->memory + offset, bytes, length);
	gate_leave(c);
	return 0;
}

/* A copy has arrived when it returns; the message that follows orders it for the reader. */
static int finish_memory(struct connection *c, unsigned timeout_ms)
{
	(void)timeout_ms;
	return atomic_load_explicit(&c->gate, memory_order_relaxed) & GATE_CLOSED ? closed(c) : 0;
}

static void withdraw_memory(struct connection *c)
{
	memfd_unmap(c->memory, c->memory_size, false);
	c->memory = NULL;
}

/* ---- The log and its acks ---- */

static int write_log(struct connection *c, uint64_t lsn, const struct iovec *pieces, int count)
{
	CHECK(L3, c->ring && !c->is_standby, "the log is written by an attached primary");
	if (!gate_enter(c))
		return closed(c);
	uint64_t begin = lsn;
	for (int i = 0; i < count; i++) {
		const uint8_t *from = pieces[i].iov_base;
		for (size_t left = pieces[i].iov_len; left > 0;) {
			size_t offset = lsn & (c->ring_size - 1);
			size_t part = left < c->ring_size - offset ? left : c->ring_size - offset;
			copy_for_reader(c->ring + offset, from, part);
			from += part;
			left -= part;
			lsn += part;
		}
	}
	CHECK(L3, lsn - begin <= c->ring_size, "%llu bytes at once into a ring of %zu",
		(unsigned long long)(lsn - begin), c->ring_size);
	/* The reader believes checksums alone; the bell is for one that sleeps. */
	bell_ring(&c->control->bell);
	gate_leave(c);
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
	CHECK(L3, c->acks && c->is_standby, "acks are written by a standby that was attached to");
	if (!gate_enter(c))
		return closed(c);
	ack_store(c->acks, c->secret, counter, value);
	bell_ring(&c->acks->bell);
	gate_leave(c);
	return 0;
}

static const uint8_t *ring(const struct connection *c)
{
	return c->is_standby ? c->ring : NULL;
}

static const struct ack_block *acks(const struct connection *c)
{
	return c->is_standby ? NULL : c->acks;
}

static struct bell *bell(struct connection *c)
{
	if (c->is_standby)
		return c->control ? &c->control->bell : NULL;
	return c->acks ? &c->acks->bell : NULL;
}

static void close_shm(struct connection *c)
{
	if (!c)
		return;
	fence_shm(c);
	withdraw_memory(c);
	memfd_unmap(c->ring, c->ring_size, c->is_standby);
	memfd_unmap(c->control, PAGE, false);
	memfd_unmap(c->acks, PAGE, false);
	channel_close(&c->channel);
	free(c);
}

const struct provider provider_shm = {
	.scheme = "shm",
	.is_local = true,
	.check = channel_check,
	.listen = listen_shm,
	.listener_fd = listener_fd,
	.accept = accept_shm,
	.listener_close = listener_close,
	.connect = connect_shm,
	.send = send_shm,
	.recv = recv_shm,
	.fd = connection_fd,
	.expose = expose_shm,
	.attach = attach_shm,
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
	.fence = fence_shm,
	.close = close_shm,
};

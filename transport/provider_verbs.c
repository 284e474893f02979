/*
 * The verbs provider: RoCE, InfiniBand, iWARP and soft-RoCE through librdmacm and libibverbs.
 *
 *   standby                                     primary
 *   listens on HOST:PORT   ◀───────────────────  connects, two links (verbs_meeting)
 *   messages               ◀═══ bulk link ════▶  messages (verbs_messages)
 *   expose: registers ring ─ addresses, keys ─▶  attach
 *     and guest memory     ◀─ address, key ────  registers the ack block
 *   guest memory           ◀═══ bulk link ════   copies of pages
 *   ring                   ◀═══ log link ═════   chains of gathered writes (verbs_log)
 *   16 bytes                ═══ log link ════▶   ack block
 *   either, if it sleeps   ◀═══ sounds ══════▶   the other one (verbs_sound)
 *
 * Keys are given out only here, which the engine calls when it knows the peer, and cover exactly
 * the ring, the counters of the ack block, and the guest's memory. They end with withdraw_memory
 * and with the connection (verbs_connection).
 */
#include "transport/transport.h"

#include "base/check.h"
#include "transport/memfd.h"
#include "transport/verbs_meeting.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* How long a peer may take to answer in expose and attach. */
#define SETUP_MS 10000u

enum message { MESSAGE_USER = 1, MESSAGE_EXPOSED, MESSAGE_ATTACHED };

struct exposed {
	uint64_t ring_size, memory_size;
	uint64_t ring, memory; /* addresses there */
	uint32_t ring_key, memory_key;
};
_Static_assert(sizeof(struct exposed) == 40, "shared between hosts");

struct attached {
	uint64_t acks;
	uint32_t acks_key;
	uint32_t pad;
};
_Static_assert(sizeof(struct attached) == 16, "shared between hosts");

/* What of the ack block a peer may write: the bell behind it is ours. */
#define COUNTERS offsetof(struct ack_block, bell)

/* ---- Messages ---- */

static int send_verbs(struct connection *c, const void *message, size_t length)
{
	return verbs_messages_send(&c->messages, MESSAGE_USER, message, length);
}

static int recv_verbs(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	return verbs_messages_recv(
		&c->messages, MESSAGE_USER, message, capacity, length, timeout_ms);
}

static int connection_fd(const struct connection *c)
{
	return c->messages.ready;
}

/* Receives one message of a type that has one size. */
static int expect(struct connection *c, enum message type, void *message, size_t size)
{
	size_t length;
	int error = verbs_messages_recv(&c->messages, type, message, size, &length, SETUP_MS);
	if (!error && length != size) {
		verbs_fate_end(
			&c->fate, "the peer does not follow the protocol; is it the same version?");
		error = verbs_fate_error(&c->fate);
	}
	return error;
}

/* ---- Sharing ---- */

static int check_ring_size(const struct connection *c, size_t ring_size)
{
	CHECK(L3, c->ring_size == 0, "a connection has one ring, new for it");
	return provider_check_ring(ring_size);
}

static int make_ring(struct connection *c, size_t ring_size)
{
	void *at;
	int error = memfd_ring(&at, "doppel log ring", ring_size);
	if (error)
		return error;
	c->ring = at;
	c->ring_size = ring_size;
	return verbs_connection_share(c, &c->ring_mr, c->ring, ring_size, "log ring");
}

static int open_memory(struct connection *c, int memory, size_t memory_size)
{
	void *at;
	int error = memfd_map(&at, memory, memory_size, PROT_READ | PROT_WRITE, false);
	if (error)
		return error;
	c->memory = at;
	c->memory_size = memory_size;
	return verbs_connection_share(c, &c->memory_mr, c->memory, memory_size, "guest memory");
}

/* Filled in with the keys held still: a fence takes them away at any time. */
static int describe(struct connection *c, struct exposed *exposed)
{
	int error = 0;
	pthread_mutex_lock(&c->keys);
	if (c->ring_mr && c->memory_mr)
		*exposed = (struct exposed){
			.ring_size = c->ring_size,
			.memory_size = c->memory_size,
			.ring = (uintptr_t)c->ring,
			.memory = (uintptr_t)c->memory,
			.ring_key = c->ring_mr->rkey,
			.memory_key = c->memory_mr->rkey,
		};
	else
		error = verbs_fate_error(&c->fate);
	pthread_mutex_unlock(&c->keys);
	return error;
}

static int expose_verbs(
	struct connection *c, size_t ring_size, int memory, size_t memory_size, uint64_t secret)
{
	struct exposed exposed;
	struct attached attached;
	int error = check_ring_size(c, ring_size);
	if (!error)
		error = memfd_check(memory, memory_size, "guest memory");
	if (!error)
		error = make_ring(c, ring_size);
	if (!error)
		error = open_memory(c, memory, memory_size);
	if (!error)
		error = describe(c, &exposed);
	if (!error)
		error = verbs_messages_send(
			&c->messages, MESSAGE_EXPOSED, &exposed, sizeof exposed);
	if (!error)
		error = expect(c, MESSAGE_ATTACHED, &attached, sizeof attached);
	if (error)
		return error;
	c->acks_out.secret = secret;
	c->acks_out.block = attached.acks;
	c->acks_out.block_key = attached.acks_key;
	c->is_shared = true;
	return 0;
}

static int make_acks(struct connection *c, struct attached *attached)
{
	int error;
	void *at = mmap(
		NULL, sizeof *c->acks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return fail(ENOMEM, "no memory for an ack block");
	c->acks = at;
	error = verbs_connection_share(c, &c->acks_mr, c->acks, COUNTERS, "ack block");
	if (error)
		return error;
	pthread_mutex_lock(&c->keys);
	if (c->acks_mr)
		*attached =
			(struct attached){.acks = (uintptr_t)c->acks, .acks_key = c->acks_mr->rkey};
	else
		error = verbs_fate_error(&c->fate);
	pthread_mutex_unlock(&c->keys);
	return error;
}

static int attach_verbs(struct connection *c, size_t ring_size, size_t memory_size, uint64_t secret)
{
	struct exposed exposed;
	struct attached attached;
	(void)secret; /* the reader of the acks has it */
	int error = check_ring_size(c, ring_size);
	if (!error)
		error = expect(c, MESSAGE_EXPOSED, &exposed, sizeof exposed);
	if (!error && (exposed.ring_size != ring_size || exposed.memory_size != memory_size))
		error = fail(EPROTO,
			"the standby on rdma:%s offers another ring or guest memory than agreed",
			c->fate.where);
	if (!error)
		error = make_acks(c, &attached);
	if (!error)
		error = verbs_messages_copy_to(&c->messages, c->pd, exposed.memory,
			exposed.memory_key, exposed.memory_size);
	if (error)
		return error;
	c->ring_size = ring_size;
	c->log.ring = exposed.ring;
	c->log.ring_key = exposed.ring_key;
	c->log.ring_size = ring_size;
	c->is_shared = true;
	return verbs_messages_send(&c->messages, MESSAGE_ATTACHED, &attached, sizeof attached);
}

static int register_source(struct connection *c, void *base, size_t size)
{
	CHECK(L3, c->is_shared && !c->is_standby, "the log is read by an attached primary");
	return verbs_log_source(&c->log, c->pd, base, size);
}

/* ---- Guest memory ---- */

static int write_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	return verbs_messages_copy(&c->messages, offset, bytes, length);
}

static int finish_memory(struct connection *c, unsigned timeout_ms)
{
	return verbs_messages_finish(&c->messages, timeout_ms);
}

static void withdraw_memory(struct connection *c)
{
	verbs_messages_withdraw(&c->messages);
	verbs_connection_unshare(c, &c->memory_mr);
	memfd_unmap(c->memory, c->memory_size, false);
	c->memory = NULL;
}

/* ---- The log and its acks ---- */

static int write_log(struct connection *c, uint64_t lsn, const struct iovec *pieces, int count)
{
	CHECK(L3, c->is_shared && !c->is_standby, "the log is written by an attached primary");
	return verbs_log_write(&c->log, lsn, pieces, count);
}

static uint64_t written(struct connection *c)
{
	return verbs_log_written(&c->log);
}

static int placed(struct connection *c)
{
	if (c->links[VERBS_LOG].is_iwarp)
		return fail(EOPNOTSUPP, "commit level placed is not to be had over iWARP: there a "
					"finished write has "
					"only left this host; use received");
	verbs_connection_hear_written(c);
	return 0;
}

static int write_ack(struct connection *c, enum ack_counter counter, uint64_t value)
{
	CHECK(L3, c->is_shared && c->is_standby,
		"acks are written by a standby that was attached to");
	return verbs_acks_write(&c->acks_out, counter, value);
}

static const uint8_t *ring(const struct connection *c)
{
	return c->is_standby ? c->ring : NULL;
}

static const struct ack_block *acks(const struct connection *c)
{
	return c->acks;
}

static struct bell *bell(struct connection *c)
{
	return c->ring_size > 0 ? &c->bell : NULL;
}

/* ---- The end ---- */

static void fence_verbs(struct connection *c)
{
	verbs_connection_cut(c, "it is fenced");
}

static void close_verbs(struct connection *c)
{
	if (c)
		verbs_connection_close(c);
}

static int check_verbs(const char *where)
{
	int error = host_port_check(provider_verbs.scheme, where);
	return error ? error : verbs_device_check(where);
}

const struct provider provider_verbs = {
	.scheme = "rdma",
	.check = check_verbs,
	.listen = verbs_listener_open,
	.listener_fd = verbs_listener_fd,
	.accept = verbs_listener_accept,
	.listener_close = verbs_listener_close,
	.connect = verbs_connect,
	.send = send_verbs,
	.recv = recv_verbs,
	.fd = connection_fd,
	.expose = expose_verbs,
	.attach = attach_verbs,
	.register_source = register_source,
	.write_memory = write_memory,
	.finish_memory = finish_memory,
	.withdraw_memory = withdraw_memory,
	.write_log = write_log,
	.written = written,
	.placed = placed,
	.write_ack = write_ack,
	.ring = ring,
	.acks = acks,
	.bell = bell,
	.fence = fence_verbs,
	.close = close_verbs,
};

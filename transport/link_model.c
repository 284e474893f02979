/*
 * The link model: any provider, seen through a slower wire. It is itself a provider.
 *
 *   link:rate=RATE,delay=TIME/ADDRESS      as in link:rate=1G,delay=50us/tcp:10.0.0.2:7000
 *
 * RATE is in bits a second, with K, M or G for powers of 1000; TIME has ns, us, ms or s; what is
 * left out is not limited. Each side shapes what it sends itself, so both are given the same
 * prefix:
 *
 *   primary   the log leaves at the rate, and after the delay; so do messages and the guest's
 *             memory, which share the wire with it
 *   standby   acks leave after the delay; they take no time on the wire
 *
 * The rate counts the log's bytes, not what a provider wraps them in. An ideal wire is computed, to
 * the nanosecond: it is busy with each piece for as long as the rate says, from when it was handed
 * over or from when the one before has left. A thread hands pieces on when they are due. That it
 * wakes late delays what waits, and does not change the rate; for the little that is on the way in a
 * request's case it stays awake.
 *
 * The log waits in a copy of the ring, acks in a queue. What is on the way when this process dies
 * or is fenced is lost with it, as if it had died a delay earlier.
 *
 * Within this file a `struct connection` or `struct listener` named `under` is the other
 * provider's.
 */
#include "base/check.h"
#include "base/idle.h"
#include "base/thread.h"
#include "transport/memfd.h"
#include "transport/transport.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Things on the way, each with its time. When there are more, the newest leave as one. */
#define ITEMS 4096u
/* A large write arrives in parts of this size. */
#define PART (16u * 1024u)
/* How far ahead of the wire the guest's memory may be handed on. */
#define AHEAD_NS 1000000u
/* How long a fence may go unnoticed by who waits for the wire. */
#define SLICE_NS 10000000u
#define LONGEST_NS 100000000u
/* Until the other provider is asked again whether it has room. */
#define RETRY_NS 20000u
/* So short a time is awaited without a sleep if no more than this is on the way: an answer's log, or its acks. */
#define AWAKE_NS 50000u
#define FEW 4u

struct shape {
	uint64_t rate; /* bits a second; 0: not limited */
	uint64_t delay_ns;
};

struct item {
	uint64_t due_ns;
	uint64_t value; /* an LSN up to which the log may be handed on, or a counter's value */
	enum ack_counter counter;
};

struct connection {
	const struct provider *inner;
	struct connection *under;
	struct shape shape;
	bool is_standby;

	pthread_t thread;
	bool has_thread;
	struct bell wake;

	pthread_mutex_t lock; /* of these */
	bool is_closed;
	uint64_t free_ns;  /* when the wire has sent all that it was given */
	uint64_t fraction; /* of a nanosecond, in units of 1/rate */
	struct item items[ITEMS];
	unsigned first, count;
	bool has_log;
	uint64_t start, end; /* of what was written */

	uint8_t *copy; /* of what was written and is not placed; mapped twice in a row */
	size_t ring_size;

	/* The model's thread's. */
	bool has_passed;
	uint64_t passed, until; /* has been handed on, may be handed on */
};

struct listener {
	const struct provider *inner;
	struct listener *under;
	struct shape shape;
};

/* ---- Addresses ---- */

struct unit {
	const char *name;
	double factor;
};

/* Reads "1.5G" and moves `text` behind it. */
static bool read_number(const char **text, const struct unit *units, double most, uint64_t *out)
{
	char *end;
	if (**text < '0' || **text > '9')
		return false;
	double number = strtod(*text, &end);
	size_t length = strcspn(end, ",/");
	for (; units->name; units++) {
		if (strlen(units->name) != length || strncmp(end, units->name, length) != 0)
			continue;
		number *= units->factor;
		if (number > most)
			return false;
		*text = end + length;
		*out = (uint64_t)(number + 0.5);
		return true;
	}
	return false;
}

/* Splits OPTIONS/ADDRESS. */
static int parse(
	const char *where, struct shape *shape, const struct provider **inner, const char **rest)
{
	static const struct unit rates[] = {{"", 1}, {"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {NULL, 0}};
	static const struct unit times[] = {
		{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {NULL, 0}};
	const char *at = where;
	*shape = (struct shape){0};
	bool good;
	do {
		if (strncmp(at, "rate=", 5) == 0) {
			at += 5;
			good = read_number(&at, rates, 1e13, &shape->rate) && shape->rate >= 1000;
		} else if (strncmp(at, "delay=", 6) == 0) {
			at += 6;
			good = read_number(&at, times, 1e10, &shape->delay_ns);
		} else {
			good = false;
			break;
		}
		if (good && at[0] == ',' && at[1] != '/')
			at++;
		else
			good = good && *at == '/';
	} while (good && *at != '/');
	if (!good)
		return fail(EINVAL,
			"address link:%s: give link:rate=RATE,delay=TIME/ADDRESS, as in "
			"link:rate=1G,delay=50us/tcp:10.0.0.2:7000",
			where);
	return provider_find(at + 1, inner, rest);
}

static int check_link(const char *where)
{
	struct shape shape;
	const struct provider *inner;
	const char *rest;
	return parse(where, &shape, &inner, &rest);
}

/* ---- The wire ---- */

/* Gives the wire `length` bytes; when it will have sent them. With the lock held. */
static uint64_t occupy(struct connection *c, uint64_t length, uint64_t now)
{
	if (c->free_ns < now) {
		c->free_ns = now;
		c->fraction = 0;
	}
	if (c->shape.rate > 0) {
		unsigned __int128 time = (unsigned __int128)length * 8 * 1000000000u + c->fraction;
		c->free_ns += (uint64_t)(time / c->shape.rate);
		c->fraction = (uint64_t)(time % c->shape.rate);
	}
	return c->free_ns;
}

/* With the lock held. When there is no room, the newest of its kind takes it along, and its time.
 */
static void put(struct connection *c, uint64_t due_ns, enum ack_counter counter, uint64_t value)
{
	struct item *item = &c->items[(c->first + c->count) % ITEMS];
	if (c->count < ITEMS) {
		c->count++;
	} else {
		unsigned back = 1;
		do {
			item = &c->items[(c->first + ITEMS - back) % ITEMS];
		} while (item->counter != counter && back++ < ITEMS);
	}
	*item = (struct item){.due_ns = due_ns, .counter = counter, .value = value};
}

static void fence_link(struct connection *c)
{
	pthread_mutex_lock(&c->lock);
	c->is_closed = true;
	pthread_mutex_unlock(&c->lock);
	bell_ring(&c->wake);
	c->inner->fence(c->under);
}

static int closed(void)
{
	return fail(
		ECONNRESET, "the connection behind the link model is fenced or its peer is gone");
}

/* On the control thread. A fence ends it early. */
static void wait_until(struct connection *c, uint64_t ns)
{
	bool is_closed = false;
	for (uint64_t now; !is_closed && (now = now_ns()) < ns;) {
		uint64_t until = ns - now < SLICE_NS ? ns : now + SLICE_NS;
		const struct timespec at = {.tv_sec = (time_t)(until / 1000000000u),
			.tv_nsec = (long)(until % 1000000000u)};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		pthread_mutex_lock(&c->lock);
		is_closed = c->is_closed;
		pthread_mutex_unlock(&c->lock);
	}
}

/* What has been found broken is so for all threads. */
static int checked(struct connection *c, int error)
{
	if (error && error != -ETIMEDOUT && error != -EMSGSIZE)
		fence_link(c);
	return error;
}

/* ---- The model's thread ---- */

/* Takes what is due. When the next is, or LONGEST_NS from now; 0 when the connection has ended. `*few`: no
 * more than FEW wait. */
static uint64_t take_due(
	struct connection *c, uint64_t acks[ACK_COUNTERS], uint32_t *counters, bool *few)
{
	uint64_t now = now_ns(), next = now + LONGEST_NS;
	*counters = 0;
	pthread_mutex_lock(&c->lock);
	if (c->has_log && !c->has_passed) {
		c->passed = c->until = c->start;
		c->has_passed = true;
	}
	for (; c->count > 0 && c->items[c->first].due_ns <= now; c->count--) {
		const struct item *item = &c->items[c->first];
		if (c->is_standby) {
			acks[item->counter] = item->value;
			*counters |= 1u << item->counter;
		} else {
			c->until = item->value;
		}
		c->first = (c->first + 1) % ITEMS;
	}
	if (c->count > 0 && c->items[c->first].due_ns < next)
		next = c->items[c->first].due_ns;
	if (c->is_closed)
		next = 0;
	*few = c->count > 0 && c->count <= FEW;
	pthread_mutex_unlock(&c->lock);
	return next;
}

static int pass_log(struct connection *c)
{
	struct iovec piece = {
		.iov_base = c->copy + (c->passed & (c->ring_size - 1)),
		.iov_len = c->until - c->passed,
	};
	int error = c->inner->write_log(c->under, c->passed, &piece, 1);
	if (!error)
		c->passed = c->until;
	return error;
}

/* Until then, or until somebody has put something on the way behind `seen` of the bell. */
static void stay_awake(const struct connection *c, uint32_t seen, uint64_t until)
{
	while (now_ns() < until && atomic_load_explicit(&c->wake.rung, memory_order_acquire) == seen)
		__builtin_ia32_pause();
}

static void *serve(void *argument)
{
	struct connection *c = argument;
	struct idle idle = {.bell = &c->wake};
	thread_is_prompt();
	/* A sleep ends when it should, not up to 50 us later. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	for (;;) {
		uint64_t acks[ACK_COUNTERS];
		uint32_t counters;
		int error = 0;
		bool few;
		idle_watch(&idle);
		uint64_t next = take_due(c, acks, &counters, &few);
		if (next == 0)
			return NULL;
		bool is_busy = counters || c->passed < c->until;
		for (; counters && !error; counters &= counters - 1) {
			enum ack_counter counter = (enum ack_counter)__builtin_ctz(counters);
			error = c->inner->write_ack(c->under, counter, acks[counter]);
		}
		if (!error && c->passed < c->until)
			error = pass_log(c);
		if (error && error != -EAGAIN) {
			fence_link(c);
			return NULL;
		}
		if (is_busy && !error) {
			idle_busy(&idle);
			continue;
		}
		uint64_t now = now_ns();
		idle.longest_ns = error ? RETRY_NS : next > now ? next - now : 0;
		/* A sleep ends late, which who waits for an answer minds, and a stream does not. Nor is the lock
		 * for whoever only looks at the clock. */
		if (few && !error && idle.longest_ns <= AWAKE_NS)
			stay_awake(c, idle.seen, next);
		else if (idle.longest_ns > 0)
			idle_pause(&idle);
	}
}

static int start_thread(struct connection *c)
{
	int error = thread_start(&c->thread, "link", serve, c);
	c->has_thread = !error;
	return error;
}

/* ---- Meeting ---- */

static int listen_link(const char *where, struct listener **out)
{
	const char *rest;
	struct listener *listener = calloc(1, sizeof *listener);
	if (!listener)
		return fail(ENOMEM, "no memory to listen on link:%s", where);
	int error = parse(where, &listener->shape, &listener->inner, &rest);
	if (!error)
		error = listener->inner->listen(rest, &listener->under);
	if (error) {
		free(listener);
		return error;
	}
	*out = listener;
	return 0;
}

static int listener_fd(const struct listener *listener)
{
	return listener->inner->listener_fd(listener->under);
}

static void listener_close(struct listener *listener)
{
	if (!listener)
		return;
	listener->inner->listener_close(listener->under);
	free(listener);
}

/* Takes over `under`. */
static int make_connection(const struct provider *inner, struct connection *under,
	struct shape shape, bool is_standby, struct connection **out)
{
	struct connection *c = calloc(1, sizeof *c);
	if (!c) {
		inner->close(under);
		return fail(ENOMEM, "no memory for a connection through the link model");
	}
	c->inner = inner;
	c->under = under;
	c->shape = shape;
	c->is_standby = is_standby;
	pthread_mutex_init(&c->lock, NULL);
	*out = c;
	return 0;
}

static int accept_link(struct listener *listener, struct connection **out)
{
	struct connection *under;
	int error = listener->inner->accept(listener->under, &under);
	return error ? error : make_connection(listener->inner, under, listener->shape, true, out);
}

static int connect_link(const char *where, unsigned timeout_ms, struct connection **out)
{
	const struct provider *inner;
	const char *rest;
	struct shape shape;
	struct connection *under;
	int error = parse(where, &shape, &inner, &rest);
	if (!error)
		error = inner->connect(rest, timeout_ms, &under);
	return error ? error : make_connection(inner, under, shape, false, out);
}

static void close_link(struct connection *c)
{
	if (!c)
		return;
	fence_link(c);
	if (c->has_thread)
		pthread_join(c->thread, NULL);
	c->inner->close(c->under);
	memfd_unmap(c->copy, c->ring_size, true);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* ---- Messages, sharing, guest memory ---- */

/* When the wire will have sent this. */
static uint64_t sent_by(struct connection *c, size_t length)
{
	pthread_mutex_lock(&c->lock);
	uint64_t ns = occupy(c, length, now_ns());
	pthread_mutex_unlock(&c->lock);
	return ns;
}

static int send_link(struct connection *c, const void *message, size_t length)
{
	if (length <= MESSAGE_MAX)
		wait_until(c, sent_by(c, length) + c->shape.delay_ns);
	return checked(c, c->inner->send(c->under, message, length));
}

static int recv_link(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	return checked(c, c->inner->recv(c->under, message, capacity, length, timeout_ms));
}

static int connection_fd(const struct connection *c)
{
	return c->inner->fd(c->under);
}

static int expose_link(
	struct connection *c, size_t ring_size, int memory, size_t memory_size, uint64_t secret)
{
	int error = checked(c, c->inner->expose(c->under, ring_size, memory, memory_size, secret));
	return error ? error : start_thread(c);
}

static int attach_link(struct connection *c, size_t ring_size, size_t memory_size, uint64_t secret)
{
	void *at;
	int error = checked(c, c->inner->attach(c->under, ring_size, memory_size, secret));
	if (!error)
		error = memfd_ring(&at, "link model", ring_size);
	if (error)
		return error;
	c->copy = at;
	c->ring_size = ring_size;
	error = c->inner->register_source(c->under, at, 2 * ring_size);
	return error ? error : start_thread(c);
}

/* What is written is copied. */
static int register_source(struct connection *c, void *base, size_t size)
{
	(void)c, (void)base, (void)size;
	return 0;
}

static int write_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	int error = c->inner->write_memory(c->under, offset, bytes, length);
	if (error)
		return error == -ECONNRESET ? checked(c, error) : error;
	uint64_t sent = sent_by(c, length);
	if (sent > now_ns() + AHEAD_NS)
		wait_until(c, sent);
	return 0;
}

/* There and back: the answer has the same way to go. */
static int finish_memory(struct connection *c, unsigned timeout_ms)
{
	uint64_t sent = sent_by(c, 0);
	int error = c->inner->finish_memory(c->under, timeout_ms);
	if (!error)
		wait_until(c, sent + 2 * c->shape.delay_ns);
	return checked(c, error);
}

static void withdraw_memory(struct connection *c)
{
	c->inner->withdraw_memory(c->under);
}

/* ---- The log and its acks ---- */

static uint64_t written(struct connection *c)
{
	return c->inner->written(c->under);
}

static int placed(struct connection *c)
{
	if (!c->inner->placed)
		return fail(EOPNOTSUPP,
			"commit level placed needs RDMA, and %s: is none; use received",
			c->inner->scheme);
	return c->inner->placed(c->under);
}

/* -EAGAIN: the copy has no room, which it has as long as the caller looks at written(), too. */
static int write_log(struct connection *c, uint64_t lsn, const struct iovec *pieces, int count)
{
	CHECK(L3, c->copy, "the log is written by an attached primary");
	uint64_t done = written(c), now = now_ns(), end = lsn;
	for (int i = 0; i < count; i++)
		end += pieces[i].iov_len;
	int error = 0;
	pthread_mutex_lock(&c->lock);
	if (c->is_closed) {
		error = closed();
		goto unlock;
	}
	if (!c->has_log)
		c->start = c->end = lsn;
	c->has_log = true;
	CHECK(L1, lsn == c->end, "LSN %llu is written where %llu comes next",
		(unsigned long long)lsn, (unsigned long long)c->end);
	if (end - (done > c->start ? done : c->start) > c->ring_size) {
		error = -EAGAIN;
		goto unlock;
	}
	for (int i = 0; i < count; i++) {
		memcpy(c->copy + (lsn & (c->ring_size - 1)), pieces[i].iov_base, pieces[i].iov_len);
		lsn += pieces[i].iov_len;
	}
	while (c->end < end) {
		uint64_t part = end - c->end < PART ? end - c->end : PART;
		c->end += part;
		put(c, occupy(c, part, now) + c->shape.delay_ns, 0, c->end);
	}
unlock:
	pthread_mutex_unlock(&c->lock);
	if (!error)
		bell_ring(&c->wake);
	return error;
}

static int write_ack(struct connection *c, enum ack_counter counter, uint64_t value)
{
	CHECK(L3, c->is_standby && c->has_thread,
		"acks are written by a standby that was attached to");
	uint64_t now = now_ns();
	pthread_mutex_lock(&c->lock);
	bool is_closed = c->is_closed;
	if (!is_closed)
		put(c, now + c->shape.delay_ns, counter, value);
	pthread_mutex_unlock(&c->lock);
	if (is_closed)
		return closed();
	bell_ring(&c->wake);
	return 0;
}

static const uint8_t *ring(const struct connection *c)
{
	return c->inner->ring(c->under);
}

static const struct ack_block *acks(const struct connection *c)
{
	return c->inner->acks(c->under);
}

static struct bell *bell(struct connection *c)
{
	return c->inner->bell(c->under);
}

const struct provider provider_link = {
	.scheme = "link",
	.check = check_link,
	.listen = listen_link,
	.listener_fd = listener_fd,
	.accept = accept_link,
	.listener_close = listener_close,
	.connect = connect_link,
	.send = send_link,
	.recv = recv_link,
	.fd = connection_fd,
	.expose = expose_link,
	.attach = attach_link,
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
	.fence = fence_link,
	.close = close_link,
};

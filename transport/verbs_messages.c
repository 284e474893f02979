#include "transport/verbs_messages.h"

#include "base/check.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* How long a peer may take to make room for a message, and for a part of guest memory. */
#define SEND_MS 5000u

struct header {
	uint32_t length; /* of the body behind it */
	uint32_t type;
};

/* A whole message, each in pages of its own. */
#define BUFFER_BYTES (MESSAGE_MAX + 4096u)
#define BUFFERS_BYTES ((size_t)BUFFER_BYTES * (1 + VERBS_RECEIVES))
#define COPIES_BYTES ((size_t)VERBS_COPY_BYTES * VERBS_COPIES)

static uint8_t *buffer(const struct verbs_messages *messages, unsigned index)
{
	return messages->buffers + (size_t)index * BUFFER_BYTES;
}

static uint8_t *copy(const struct verbs_messages *messages, unsigned index)
{
	return messages->copies + (size_t)index * VERBS_COPY_BYTES;
}

/* Memory that can be pinned. */
static int make_buffers(uint8_t **base, struct ibv_mr **mr, struct ibv_pd *pd, size_t size,
	int access, const char *what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return fail(ENOMEM, "no memory for %s", what);
	*base = at;
	return verbs_device_register(mr, pd, at, size, access, what);
}

static void drop_buffers(uint8_t **base, struct ibv_mr **mr, size_t size)
{
	verbs_device_release(mr);
	if (*base)
		munmap(*base, size);
	*base = NULL;
}

static int post_receive(struct verbs_messages *messages, unsigned index)
{
	struct ibv_sge gather = {.addr = (uintptr_t)buffer(messages, index),
		.length = BUFFER_BYTES,
		.lkey = messages->buffers_mr->lkey};
	struct ibv_recv_wr request = {.wr_id = index, .sg_list = &gather, .num_sge = 1}, *bad;
	int error = ibv_post_recv(messages->queue->link->id->qp, &request, &bad);
	return error ? fail(error, "the RDMA device takes no receives: %s", strerror(error)) : 0;
}

int verbs_messages_open(
	struct verbs_messages *messages, struct verbs_queue *queue, struct ibv_pd *pd)
{
	messages->queue = queue;
	pthread_mutex_init(&messages->lock, NULL);
	messages->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (messages->ready < 0)
		return fail(errno, "no descriptor for messages: %s", strerror(errno));
	int error = make_buffers(&messages->buffers, &messages->buffers_mr, pd, BUFFERS_BYTES,
		IBV_ACCESS_LOCAL_WRITE, "buffers for messages");
	for (unsigned i = 1; i <= VERBS_RECEIVES && !error; i++)
		error = post_receive(messages, i);
	return error;
}

void verbs_messages_close(struct verbs_messages *messages)
{
	if (!messages->queue)
		return;
	drop_buffers(&messages->copies, &messages->copies_mr, COPIES_BYTES);
	drop_buffers(&messages->buffers, &messages->buffers_mr, BUFFERS_BYTES);
	if (messages->ready >= 0)
		close(messages->ready);
	pthread_mutex_destroy(&messages->lock);
}

/* ---- Posting ---- */

/* Posts one request and returns its tag through `tag`. Its slot is free: there are more of them
 * than requests that can be under way. */
static int post(struct verbs_messages *messages, struct ibv_send_wr *request, uint64_t *tag)
{
	struct verbs_queue *queue = messages->queue;
	pthread_mutex_lock(&queue->lock);
	verbs_queue_reap(queue);
	request->wr_id = ++messages->sent;
	*tag = messages->sent;
	int error = verbs_queue_post(queue, request, 1, true);
	pthread_mutex_unlock(&queue->lock);
	return error;
}

static int post_copy(struct verbs_messages *messages)
{
	if (messages->filled == 0)
		return 0;
	struct ibv_sge gather = {.addr = (uintptr_t)copy(messages, messages->current),
		.length = (uint32_t)messages->filled,
		.lkey = messages->copies_mr->lkey};
	struct ibv_send_wr request = {.sg_list = &gather,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = {.remote_addr = messages->memory + messages->filled_for,
			.rkey = messages->memory_key}};
	int error = post(messages, &request, &messages->tags[messages->current]);
	messages->current = (messages->current + 1) % VERBS_COPIES;
	messages->filled = 0;
	return error;
}

/* ---- Messages ---- */

int verbs_messages_send(
	struct verbs_messages *messages, uint32_t type, const void *body, size_t length)
{
	struct header header = {.length = (uint32_t)length, .type = type};
	struct verbs_fate *fate = messages->queue->fate;
	uint64_t tag;
	if (length > MESSAGE_MAX)
		return fail(EMSGSIZE, "a message of %zu bytes to rdma:%s: %u is the most", length,
			fate->where, MESSAGE_MAX);
	/* What was written before is there before. */
	int error = post_copy(messages);
	if (error)
		return error;
	memcpy(buffer(messages, 0), &header, sizeof header);
	if (length > 0)
		memcpy(buffer(messages, 0) + sizeof header, body, length);
	struct ibv_sge gather = {.addr = (uintptr_t)buffer(messages, 0),
		.length = (uint32_t)(sizeof header + length),
		.lkey = messages->buffers_mr->lkey};
	struct ibv_send_wr request = {.sg_list = &gather, .num_sge = 1, .opcode = IBV_WR_SEND};
	error = post(messages, &request, &tag);
	if (!error)
		error = verbs_queue_wait(messages->queue, tag, &messages->bell, SEND_MS);
	if (error == -ETIMEDOUT) {
		/* It cannot be taken back, nor can anything follow it. */
		verbs_fate_end(fate, "the peer did not take a message within %u ms", SEND_MS);
		return fail(ETIMEDOUT, "the peer on rdma:%s did not take a message within %u ms",
			fate->where, SEND_MS);
	}
	return error;
}

enum ibv_wc_status verbs_messages_take(struct verbs_messages *messages)
{
	struct ibv_wc done[VERBS_RECEIVES];
	int n = ibv_poll_cq(messages->queue->link->recv_cq, VERBS_RECEIVES, done);
	for (int i = 0; i < n; i++) {
		if (done[i].status != IBV_WC_SUCCESS)
			return done[i].status;
		pthread_mutex_lock(&messages->lock);
		unsigned at = (messages->first + messages->count++) % VERBS_RECEIVES;
		messages->inbox[at].buffer = (unsigned)done[i].wr_id;
		messages->inbox[at].length = done[i].byte_len;
		eventfd_write(messages->ready, 1);
		pthread_mutex_unlock(&messages->lock);
	}
	return n < 0 ? IBV_WC_GENERAL_ERR : IBV_WC_SUCCESS;
}

void verbs_messages_end(struct verbs_messages *messages)
{
	if (!messages->queue)
		return;
	pthread_mutex_lock(&messages->lock);
	messages->is_closed = true;
	eventfd_write(messages->ready, 1);
	pthread_mutex_unlock(&messages->lock);
	bell_ring(&messages->bell);
}

/* Takes the oldest message out of the inbox; -EAGAIN without one. */
static int take_oldest(struct verbs_messages *messages, unsigned *index, uint32_t *length)
{
	eventfd_t count;
	int error = 0;
	pthread_mutex_lock(&messages->lock);
	if (messages->count > 0) {
		*index = messages->inbox[messages->first].buffer;
		*length = messages->inbox[messages->first].length;
		messages->first = (messages->first + 1) % VERBS_RECEIVES;
		messages->count--;
		if (messages->count == 0 && !messages->is_closed)
			(void)!eventfd_read(messages->ready, &count);
	} else {
		error = messages->is_closed ? verbs_fate_error(messages->queue->fate) : -EAGAIN;
	}
	pthread_mutex_unlock(&messages->lock);
	return error;
}

static int wait_ready(const struct verbs_messages *messages, uint64_t deadline, unsigned timeout_ms)
{
	for (;;) {
		uint64_t now = now_ns(), left = deadline > now ? deadline - now : 0;
		struct pollfd pollfd = {.fd = messages->ready, .events = POLLIN};
		struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
			.tv_nsec = (long)(left % 1000000000u)};
		int n = ppoll(&pollfd, 1, &timeout, NULL);
		if (n > 0)
			return 0;
		if (n == 0)
			return fail(ETIMEDOUT, "nothing came from the peer on rdma:%s within %u ms",
				messages->queue->fate->where, timeout_ms);
		if (errno != EINTR)
			return fail(errno, "cannot wait for the peer on rdma:%s: %s",
				messages->queue->fate->where, strerror(errno));
	}
}

int verbs_messages_recv(struct verbs_messages *messages, uint32_t type, void *body, size_t capacity,
	size_t *length, unsigned timeout_ms)
{
	struct verbs_fate *fate = messages->queue->fate;
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	unsigned index = 0;
	uint32_t arrived = 0;
	int error;
	while ((error = take_oldest(messages, &index, &arrived)) == -EAGAIN) {
		error = wait_ready(messages, deadline, timeout_ms);
		if (error)
			return error;
	}
	if (error)
		return error;
	/* The buffer is ours alone until it is posted again; its bytes are the peer's. */
	struct header header = {0};
	if (arrived >= sizeof header)
		memcpy(&header, buffer(messages, index), sizeof header);
	if (arrived < sizeof header || header.length != arrived - sizeof header ||
		header.length > MESSAGE_MAX || header.type != type) {
		verbs_fate_end(
			fate, "the peer does not follow the protocol; is it the same version?");
		return verbs_fate_error(fate);
	}
	if (header.length > capacity)
		error = fail(EMSGSIZE, "the peer on rdma:%s sent %u bytes where %zu are the most",
			fate->where, header.length, capacity);
	else if (header.length > 0)
		memcpy(body, buffer(messages, index) + sizeof header, header.length);
	if (!error)
		*length = header.length;
	if (post_receive(messages, index) < 0 && !error)
		/* This one has arrived; the next recv says what is wrong. */
		verbs_fate_end(fate, "%s", fail_message());
	return error;
}

/* ---- Guest memory ---- */

int verbs_messages_copy_to(struct verbs_messages *messages, struct ibv_pd *pd, uint64_t memory,
	uint32_t key, size_t size)
{
	int error = make_buffers(&messages->copies, &messages->copies_mr, pd, COPIES_BYTES, 0,
		"buffers for guest memory");
	if (error)
		return error;
	messages->memory = memory;
	messages->memory_key = key;
	messages->memory_size = size;
	messages->is_open = true;
	return 0;
}

int verbs_messages_copy(
	struct verbs_messages *messages, uint64_t offset, const void *bytes, size_t length)
{
	struct verbs_fate *fate = messages->queue->fate;
	const uint8_t *from = bytes;
	int error = 0;
	if (!messages->is_open)
		return fail(EACCES,
			"the guest memory of rdma:%s is not, or no longer, open to writes",
			fate->where);
	if (offset > messages->memory_size || length > messages->memory_size - offset)
		return fail(EINVAL, "%zu bytes at %llu lie outside the guest memory of rdma:%s",
			length, (unsigned long long)offset, fate->where);
	if (verbs_fate_is_over(fate))
		return verbs_fate_error(fate);
	while (length > 0 && !error) {
		if (messages->filled == VERBS_COPY_BYTES ||
			(messages->filled > 0 && offset != messages->filled_for + messages->filled))
			error = post_copy(messages);
		if (!error && messages->filled == 0) {
			messages->filled_for = offset;
			error = verbs_queue_wait(messages->queue, messages->tags[messages->current],
				&messages->bell, SEND_MS);
			if (error == -ETIMEDOUT) {
				verbs_fate_end(
					fate, "the peer took no guest memory for %u ms", SEND_MS);
				error = verbs_fate_error(fate);
			}
		}
		if (error)
			break;
		size_t room = VERBS_COPY_BYTES - messages->filled;
		size_t part = length < room ? length : room;
		memcpy(copy(messages, messages->current) + messages->filled, from, part);
		messages->filled += part;
		from += part;
		offset += part;
		length -= part;
	}
	return error;
}

int verbs_messages_finish(struct verbs_messages *messages, unsigned timeout_ms)
{
	int error = verbs_fate_is_over(messages->queue->fate)
			    ? verbs_fate_error(messages->queue->fate)
			    : post_copy(messages);
	if (!error)
		error = verbs_queue_wait(
			messages->queue, messages->sent, &messages->bell, timeout_ms);
	if (error == -ETIMEDOUT)
		error = fail(ETIMEDOUT,
			"guest memory did not reach the peer on rdma:%s within %u ms",
			messages->queue->fate->where, timeout_ms);
	return error;
}

void verbs_messages_withdraw(struct verbs_messages *messages)
{
	messages->is_open = false;
	messages->filled = 0;
	/* What is still under way reads the copies: then they stay until close. */
	if (messages->copies && atomic_load(&messages->queue->done) >= messages->sent)
		drop_buffers(&messages->copies, &messages->copies_mr, COPIES_BYTES);
}

#include "transport/verbs_log.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* The most one request carries: completions come in fair steps, and every device allows it. */
#define REQUEST_MAX (1u << 20)

/* ---- The log ---- */

int verbs_log_source(struct verbs_log *log, struct ibv_pd *pd, void *base, size_t size)
{
	struct ibv_mr *mr;
	if (log->source_count == VERBS_SOURCES)
		return fail(
			ENOSPC, "the log is to be read from more than %u places", VERBS_SOURCES);
	/* Read only by our own device. */
	int error = verbs_device_register(&mr, pd, base, size, 0, "memory of the log");
	if (error)
		return error;
	pthread_mutex_lock(&log->queue->lock);
	log->sources[log->source_count++] =
		(struct verbs_source){.base = base, .size = size, .mr = mr};
	pthread_mutex_unlock(&log->queue->lock);
	return 0;
}

void verbs_log_close(struct verbs_log *log)
{
	while (log->source_count > 0)
		verbs_device_release(&log->sources[--log->source_count].mr);
}

static const struct verbs_source *find_source(
	const struct verbs_log *log, const struct iovec *piece)
{
	const uint8_t *at = piece->iov_base;
	for (unsigned i = 0; i < log->source_count; i++) {
		const struct verbs_source *source = &log->sources[i];
		if (at >= source->base && at < source->base + source->size &&
			piece->iov_len <= (size_t)(source->base + source->size - at))
			return source;
	}
	return NULL;
}

static struct verbs_piece *piece_at(struct verbs_log *log, unsigned index)
{
	return &log->pieces[(log->first + index) % VERBS_PIECES];
}

/* Puts a piece behind those that wait, or makes the last of them longer. */
static void add_piece(struct verbs_log *log, struct verbs_piece piece)
{
	if (log->count > 0) {
		struct verbs_piece *last = piece_at(log, log->count - 1);
		if (last->key == piece.key && last->at + last->length == piece.at &&
			last->lsn + last->length == piece.lsn) {
			last->length += piece.length;
			return;
		}
	}
	*piece_at(log, log->count++) = piece;
}

/* Makes the request for the bytes that wait first and follow each other: up to the ring's end, the
 * gather limit, and REQUEST_MAX. */
static void make_request(struct verbs_log *log, unsigned index)
{
	struct ibv_sge *gather = log->gathers[index];
	uint64_t begin = piece_at(log, 0)->lsn;
	size_t offset = begin & (log->ring_size - 1);
	size_t room = log->ring_size - offset < REQUEST_MAX ? log->ring_size - offset : REQUEST_MAX;
	size_t bytes = 0;
	int count = 0;
	while (log->count > 0 && (unsigned)count < log->queue->link->gather && bytes < room) {
		struct verbs_piece *piece = piece_at(log, 0);
		if (piece->lsn != begin + bytes)
			break;
		size_t part = piece->length < room - bytes ? piece->length : room - bytes;
		gather[count++] = (struct ibv_sge){
			.addr = (uintptr_t)piece->at, .length = (uint32_t)part, .lkey = piece->key};
		bytes += part;
		piece->lsn += part;
		piece->at += part;
		piece->length -= part;
		if (piece->length == 0) {
			log->first = (log->first + 1) % VERBS_PIECES;
			log->count--;
		}
	}
	log->requests[index] = (struct ibv_send_wr){
		.wr_id = begin + bytes,
		.sg_list = gather,
		.num_sge = count,
		/* What is small travels inside its request: the device has nothing to fetch. */
		.send_flags = bytes <= log->queue->link->inline_bytes ? IBV_SEND_INLINE : 0,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = {.remote_addr = log->ring + offset, .rkey = log->ring_key},
	};
}

/* Posts one chain, if there is room for any. */
static int post_chain(struct verbs_log *log)
{
	unsigned room = verbs_queue_room(log->queue), slots = verbs_sound_slots(log->sound);
	unsigned count = 0;
	while (log->count > 0 && count + slots < room)
		make_request(log, count++);
	if (count == 0)
		return 0;
	count = verbs_sound_add(log->sound, log->requests, count);
	return verbs_queue_post(log->queue, log->requests, count, true);
}

/* With the queue's lock held. */
static int post_pieces(struct verbs_log *log)
{
	verbs_queue_reap(log->queue);
	int error = post_chain(log);
	if (!error && log->count > 0) {
		/* No room for the rest: the connection's thread posts it when some becomes free. */
		verbs_queue_arm(log->queue);
		verbs_queue_reap(log->queue);
		error = post_chain(log);
	}
	atomic_store_explicit(&log->waits, log->count > 0, memory_order_release);
	return error;
}

int verbs_log_write(struct verbs_log *log, uint64_t lsn, const struct iovec *pieces, int count)
{
	int error = 0;
	uint64_t end = lsn;
	pthread_mutex_lock(&log->queue->lock);
	if (verbs_fate_is_over(log->queue->fate))
		error = verbs_fate_error(log->queue->fate);
	else if ((unsigned)count > VERBS_PIECES - log->count)
		error = -EAGAIN;
	for (int i = 0; i < count && !error; i++) {
		if (!find_source(log, &pieces[i]))
			error = fail(EFAULT,
				"%zu bytes of the log lie in memory that is not registered",
				pieces[i].iov_len);
		end += pieces[i].iov_len;
	}
	if (!error) {
		CHECK(L3, end - lsn <= log->ring_size, "%llu bytes at once into a ring of %zu",
			(unsigned long long)(end - lsn), log->ring_size);
		for (int i = 0; i < count; lsn += pieces[i++].iov_len) {
			if (pieces[i].iov_len > 0)
				add_piece(log,
					(struct verbs_piece){.lsn = lsn,
						.at = pieces[i].iov_base,
						.length = pieces[i].iov_len,
						.key = find_source(log, &pieces[i])->mr->lkey});
		}
		error = post_pieces(log);
	}
	pthread_mutex_unlock(&log->queue->lock);
	return error;
}

void verbs_log_resume(struct verbs_log *log)
{
	/* W1: pairs with the store in post_pieces; who stores false has nothing left to post. */
	if (!atomic_load_explicit(&log->waits, memory_order_acquire))
		return;
	pthread_mutex_lock(&log->queue->lock);
	/* An error is the connection's, which has taken note of it. */
	(void)!post_pieces(log);
	pthread_mutex_unlock(&log->queue->lock);
}

uint64_t verbs_log_written(struct verbs_log *log)
{
	/* Whoever holds the lock reaps, or has just done so. */
	if (pthread_mutex_trylock(&log->queue->lock) == 0) {
		verbs_queue_reap(log->queue);
		pthread_mutex_unlock(&log->queue->lock);
	}
	return atomic_load_explicit(&log->queue->done, memory_order_acquire);
}

/* ---- Acks ---- */

static size_t sources_size(const struct verbs_acks *acks)
{
	return acks->queue->link->sends * sizeof *acks->sources;
}

int verbs_acks_open(struct verbs_acks *acks, struct verbs_queue *queue,
	const struct verbs_sound *sound, struct ibv_pd *pd)
{
	acks->queue = queue;
	acks->sound = sound;
	if (queue->link->inline_bytes >= VERBS_ACK_BYTES)
		return 0;
	void *at = mmap(NULL, sources_size(acks), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return fail(ENOMEM, "no memory for acks");
	acks->sources = at;
	return verbs_device_register(
		&acks->sources_mr, pd, acks->sources, sources_size(acks), 0, "acks");
}

void verbs_acks_close(struct verbs_acks *acks)
{
	verbs_device_release(&acks->sources_mr);
	if (acks->sources)
		munmap(acks->sources, sources_size(acks));
	acks->sources = NULL;
}

static int post_ack(struct verbs_acks *acks, enum ack_counter counter)
{
	struct verbs_ack ack = {.value = acks->latest[counter],
		.check = ack_check_word(acks->secret, counter, acks->latest[counter])};
	struct verbs_ack *source = &ack;
	/* A slot that is free has no request that still reads its source. */
	if (acks->sources) {
		source = &acks->sources[acks->queue->posted % acks->queue->link->sends];
		*source = ack;
	}
	struct ibv_sge gather = {.addr = (uintptr_t)source,
		.length = sizeof *source,
		.lkey = acks->sources ? acks->sources_mr->lkey : 0};
	struct ibv_send_wr requests[2] = {{
		.wr_id = acks->queue->posted,
		.sg_list = &gather,
		.num_sge = 1,
		.send_flags = acks->sources ? 0 : IBV_SEND_INLINE,
		.wr.rdma = {.remote_addr = acks->block + counter * sizeof(struct ack_cell),
			.rkey = acks->block_key},
		.opcode = IBV_WR_RDMA_WRITE,
	}};
	return verbs_queue_post(
		acks->queue, requests, verbs_sound_add(acks->sound, requests, 1), false);
}

/* With the queue's lock held: posts the newest value of each counter that has one. */
static int post_acks(struct verbs_acks *acks)
{
	bool waits = false;
	verbs_queue_reap(acks->queue);
	for (unsigned i = 0; i < ACK_COUNTERS; i++) {
		if (!acks->waiting[i])
			continue;
		if (verbs_queue_room(acks->queue) <= verbs_sound_slots(acks->sound)) {
			if (!waits) {
				verbs_queue_arm(acks->queue);
				verbs_queue_reap(acks->queue);
			}
			waits = true;
			continue;
		}
		int error = post_ack(acks, (enum ack_counter)i);
		if (error)
			return error;
		acks->waiting[i] = false;
	}
	atomic_store_explicit(&acks->waits, waits, memory_order_release);
	return 0;
}

int verbs_acks_write(struct verbs_acks *acks, enum ack_counter counter, uint64_t value)
{
	pthread_mutex_lock(&acks->queue->lock);
	acks->latest[counter] = value;
	acks->waiting[counter] = true;
	int error = verbs_fate_is_over(acks->queue->fate) ? verbs_fate_error(acks->queue->fate)
							  : post_acks(acks);
	pthread_mutex_unlock(&acks->queue->lock);
	return error;
}

void verbs_acks_resume(struct verbs_acks *acks)
{
	if (!atomic_load_explicit(&acks->waits, memory_order_acquire))
		return;
	pthread_mutex_lock(&acks->queue->lock);
	(void)!post_acks(acks);
	pthread_mutex_unlock(&acks->queue->lock);
}

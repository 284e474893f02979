/*
 * What waits to become an input: frames from the dataplane thread, console bytes from the control
 * thread. Each queue has one producer and one consumer, the vCPU thread, which takes an input only at
 * a position (D1). A full queue refuses; what is refused stays with its producer.
 *
 * A frame that has been taken stays where it is until the log, which sends its bytes from there, has
 * been written up to the end of its entry:
 *
 *      freed      head              tail
 *   ────┼──────────┼─────────────────┼────
 *       being sent  waiting           free slots
 */
#pragma once

#include "dataplane/port.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_QUEUE 1024u
#define BYTE_QUEUE 4096u

struct frame_queue {
	_Alignas(64) _Atomic uint32_t freed; /* next to give back */
	uint32_t head;                       /* next to take; the consumer's own */
	_Alignas(64) _Atomic uint32_t tail;  /* next to put */
	struct port_frame frame[FRAME_QUEUE];
	uint64_t end[FRAME_QUEUE]; /* of each taken frame's entry; the consumer's own */
};

/* Q1/Q2: the tail's release publishes the frame; the consumer's acquire sees it.
 * Q3/Q4: the release of `freed` gives the slot back; the producer's acquire may then reuse it. */
static inline bool frame_queue_put(struct frame_queue *queue, const struct port_frame *frame)
{
	uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
	if (tail - atomic_load_explicit(&queue->freed, memory_order_acquire) ==
		FRAME_QUEUE) /* Q4 */
		return false;
	queue->frame[tail % FRAME_QUEUE] = *frame;
	atomic_store_explicit(&queue->tail, tail + 1, memory_order_release); /* Q1 */
	return true;
}

/* How many frames wait. */
static inline uint32_t frame_queue_count(const struct frame_queue *queue)
{
	return atomic_load_explicit(&queue->tail, memory_order_acquire) - queue->head; /* Q2 */
}

/* One of those that wait, the oldest is number 0. */
static inline const struct port_frame *frame_queue_at(
	const struct frame_queue *queue, uint32_t number)
{
	return &queue->frame[(queue->head + number) % FRAME_QUEUE];
}

/* The oldest frame that waits, NULL when there is none. */
static inline const struct port_frame *frame_queue_peek(const struct frame_queue *queue)
{
	return frame_queue_count(queue) ? frame_queue_at(queue, 0) : NULL;
}

/* It waits no more. It is kept until its entry, which ends at this LSN, is written; 0: it has none. */
static inline void frame_queue_take(struct frame_queue *queue, uint64_t end)
{
	queue->end[queue->head++ % FRAME_QUEUE] = end;
}

/* Whether frames that were taken are kept. */
static inline bool frame_queue_keeps(const struct frame_queue *queue)
{
	return atomic_load_explicit(&queue->freed, memory_order_relaxed) != queue->head;
}

/* Frees what was taken, in order, as far as the log is written; UINT64_MAX: there is none. */
static inline void frame_queue_free(struct frame_queue *queue, uint64_t written)
{
	uint32_t freed = atomic_load_explicit(&queue->freed, memory_order_relaxed);
	for (; freed != queue->head && queue->end[freed % FRAME_QUEUE] <= written; freed++) {
		port_frame_free(&queue->frame[freed % FRAME_QUEUE]);
		atomic_store_explicit(&queue->freed, freed + 1, memory_order_release); /* Q3 */
	}
}

struct byte_queue {
	_Atomic uint32_t head, tail;
	uint8_t bytes[BYTE_QUEUE];
};

/* Returns how many of the bytes went in. Ordered as above. */
static inline size_t byte_queue_put(struct byte_queue *queue, const uint8_t *bytes, size_t count)
{
	uint32_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
	uint32_t room =
		BYTE_QUEUE - (tail - atomic_load_explicit(&queue->head, memory_order_acquire));
	size_t n = count < room ? count : room;
	for (size_t i = 0; i < n; i++)
		queue->bytes[(tail + i) % BYTE_QUEUE] = bytes[i];
	atomic_store_explicit(&queue->tail, tail + (uint32_t)n, memory_order_release);
	return n;
}

/* Whether there are any; for the consumer. */
static inline bool byte_queue_waits(const struct byte_queue *queue)
{
	return atomic_load_explicit(&queue->tail, memory_order_acquire) !=
	       atomic_load_explicit(&queue->head, memory_order_relaxed);
}

static inline size_t byte_queue_take(struct byte_queue *queue, uint8_t *bytes, size_t count)
{
	uint32_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
	uint32_t used = atomic_load_explicit(&queue->tail, memory_order_acquire) - head;
	size_t n = count < used ? count : used;
	for (size_t i = 0; i < n; i++)
		bytes[i] = queue->bytes[(head + i) % BYTE_QUEUE];
	atomic_store_explicit(&queue->head, head + (uint32_t)n, memory_order_release);
	return n;
}

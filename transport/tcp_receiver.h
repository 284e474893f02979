/*
 * The incoming half of a tcp connection (tcp_wire.h): takes frames from the stream, judges them,
 * and puts what they carry where it belongs.
 *
 * What arrives is hostile. Nothing is placed but inside the guest's memory until that is withdrawn,
 * or inside the ring, in order, and never over what this side has not reported as consumed (L3).
 * Whether the placed bytes are a log is for log_reader to say.
 *
 * One thread, the provider's, calls tcp_receiver_take. The others wait here for what it brings, or
 * end it. The lock is never held while waiting for the peer.
 */
#pragma once

#include "transport/tcp_wire.h"

#include <pthread.h>

/* Received ahead of what it belongs to: small frames come with one system call. */
#define TCP_INPUT_SIZE 65536u

struct tcp_message {
	struct tcp_message *next;
	size_t length;
	uint8_t bytes[];
};

struct tcp_receiver {
	int fd;     /* the caller's */
	int epoll;  /* tells, by edges, that the socket can be read or written */
	int signal; /* readable while there is a message, and for good when it is over */
	bool is_standby;

	pthread_mutex_t lock; /* of everything below but `consumed` */
	pthread_cond_t changed;
	bool is_closed;
	char why[160]; /* the first reason for it */

	/* What is arriving: a frame's header, then `left` bytes of its body. */
	struct tcp_frame frame;
	size_t frame_have;
	uint64_t left;
	uint8_t input[TCP_INPUT_SIZE];
	size_t input_at, input_end;

	struct tcp_message *arriving, *first, **last;
	size_t kept;     /* bytes of messages that nobody has taken */
	bool is_stalled; /* by too many of them */

	bool is_exposed; /* EXPOSED was sent, or has come */
	bool is_attached;
	struct tcp_exposed exposed;

	uint8_t *memory; /* standby: the guest's, while the peer may write it */
	size_t memory_size;
	uint64_t memory_number; /* primary: of the last MEMORY_END sent */
	uint64_t memory_done;   /* the last one received, or answered */

	uint8_t *ring; /* standby: mapped twice in a row */
	size_t ring_size;
	bool has_log;
	uint64_t log_start, log_end; /* what has been placed */
	_Atomic uint64_t consumed;   /* what the standby has reported */

	struct ack_block *acks; /* primary */
	uint64_t secret;
};

/* Nothing is left to undo after an error. */
int tcp_receiver_open(struct tcp_receiver *r, int fd, bool is_standby) MUST_CHECK;
/* No other thread uses it any more. Memory, ring and acks are the caller's. */
void tcp_receiver_destroy(struct tcp_receiver *r);

/* Takes in one helping. `kinds` becomes a set of bits, 1 << type, of the frames of which something
 * came. 0: there may be more; -EAGAIN: not before the next edge, or before a message was taken.
 * Other errors have a message and end the connection. `to_the_end`: the peer has stopped sending.
 */
int tcp_receiver_take(struct tcp_receiver *r, bool to_the_end, uint32_t *kinds) MUST_CHECK;

/* Nothing is placed when this has returned, and who waits is woken. Messages can still be taken. */
void tcp_receiver_close(struct tcp_receiver *r, const char *why);
/* Copies the reason. */
void tcp_receiver_why(struct tcp_receiver *r, char *text, size_t size);

/* Waits for the oldest message, which becomes the caller's, to free(). NULL: none came, and
 * `is_closed` tells whether one ever will. */
struct tcp_message *tcp_receiver_message(
	struct tcp_receiver *r, uint64_t deadline_ns, bool *is_closed);

/* Waits until `is_so`, which looks with the lock held. -ETIMEDOUT, -ECONNRESET: without a message.
 */
int tcp_receiver_await(struct tcp_receiver *r, bool (*is_so)(const struct tcp_receiver *r),
	uint64_t deadline_ns) MUST_CHECK;

/*
 * The outgoing half of a tcp connection (tcp_wire.h): whole frames, several sources, one stream.
 *
 * Whoever has something to send hands it to the socket at once, which rarely refuses. What it does
 * refuse stays with its source until the provider's thread, told by EPOLLOUT, goes on with it. One
 * thread at a time is in the system call, and without the lock; who finds another one there leaves its
 * bytes to that, and waits for nobody:
 *
 *   a letter  a message or bytes for the guest's memory; its sender, the control thread, waits
 *   notes     frames without a body, of which only the newest of each kind counts: the acks
 *   the log   copied into the backlog, a ring of the log ring's size, so that nobody waits
 *
 * The backlog cannot overflow: what has not been sent cannot have been consumed, and the log's
 * writer stays within a ring's size of what has been (L3). A peer that claims to have consumed
 * what it was never sent is caught.
 *
 * MSG_ZEROCOPY is not used: between processes of one machine, and over veth, the kernel copies all
 * the same (it says so in each notification), and with the notifications 64 KiB writes were a third
 * slower and no cheaper. It would pay for large pieces through a network card that gathers them and
 * makes their checksums; a log of small entries has none.
 *
 * Any thread may call any function.
 */
#pragma once

#include "transport/tcp_wire.h"

#include <pthread.h>

enum note { NOTE_MEMORY_DONE = ACK_COUNTERS, NOTES };

enum sender_body { BODY_NONE, BODY_LETTER, BODY_BACKLOG };

struct tcp_sender {
	int fd;
	pthread_mutex_t lock; /* of everything below */
	pthread_cond_t moved; /* the letter is gone, or it is over */
	bool is_closed;
	bool is_full;    /* the socket takes nothing until EPOLLOUT says so */
	bool is_ready;   /* EPOLLOUT has come since the last system call began */
	bool is_sending; /* a thread is in one, and has to itself what is on its way */

	/* What is on its way: the rest of some headers, then the rest of the last one's body. */
	struct tcp_frame headers[NOTES];
	size_t headers_size, headers_sent;
	enum sender_body body;
	uint64_t body_left;

	const struct tcp_frame *letter;
	const uint8_t *letter_bytes; /* behind what has been sent */
	bool letter_more;            /* another follows, and the kernel may wait for it */
	bool letter_begun;

	struct tcp_frame notes[NOTES];
	uint32_t notes_due; /* a bit for each */

	uint8_t *backlog; /* mapped twice in a row; NULL until there is a log */
	uint64_t backlog_size;
	bool has_log;
	uint64_t log_sent; /* LSN behind what the socket has taken */
	uint64_t log_end;  /* LSN behind what has been handed over */
};

/* Nothing is left to undo after an error. */
int tcp_sender_open(struct tcp_sender *sender, int fd) MUST_CHECK;
/* No other thread uses it any more. The socket is the caller's. */
void tcp_sender_destroy(struct tcp_sender *sender);

/* Makes the backlog; once, before the log. */
int tcp_sender_prepare_log(struct tcp_sender *sender, uint64_t ring_size) MUST_CHECK;

/* All that send return -ECONNRESET, without a message, once the connection is closed or broken. */

/* Waits until the frame and its body have left, for at most `timeout_ms`, then -ETIMEDOUT: half of
 * it may be gone, nothing can follow. One thread at a time. `more`: another follows at once. */
int tcp_sender_letter(struct tcp_sender *sender, const struct tcp_frame *frame, const void *body,
	bool more, unsigned timeout_ms) MUST_CHECK;
/* Sends it, or replaces the last one of the same kind that waits. */
int tcp_sender_note(
	struct tcp_sender *sender, unsigned kind, const struct tcp_frame *frame) MUST_CHECK;
/* Sends log bytes; what they point to is not needed afterwards. -EPROTO: the peer has lied, and the
 * backlog has no room. */
int tcp_sender_log(
	struct tcp_sender *sender, uint64_t lsn, const struct iovec *pieces, int count) MUST_CHECK;

/* Goes on with what waits: the socket has room again. */
void tcp_sender_ready(struct tcp_sender *sender);
/* Nothing is sent when this has returned, and who waits is woken. */
void tcp_sender_close(struct tcp_sender *sender);

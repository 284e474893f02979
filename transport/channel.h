/*
 * A channel: frames in order over a connected Unix stream socket, each with up to CHANNEL_FDS
 * descriptors. provider_shm.c speaks it. A stream, because the other kinds limit a frame to what
 * the kernel's socket buffers are set to.
 *
 * One thread sends and receives; channel_shutdown may be called by any. What arrives is hostile:
 * sizes are bounded, descriptors that nobody asked for are closed. After any error but -ETIMEDOUT
 * in receiving the channel is of no further use.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHANNEL_NAME_MAX 64u
#define CHANNEL_FDS 3
#define CHANNEL_BODY_MAX (256u * 1024u)

struct channel_header {
	uint32_t length; /* of the body */
	uint16_t type;
	uint16_t fds;
};

struct channel {
	int fd;
	bool is_broken; /* for good */
	char name[CHANNEL_NAME_MAX + 1];
	struct channel_header header;
	size_t received; /* bytes of the frame that is arriving, header included */
	uint8_t *body;
	int fds[CHANNEL_FDS];
	unsigned fd_count;
};

/* Whether this can be a channel's name; -EINVAL says what can. */
int channel_check(const char *name) MUST_CHECK;

/* These three return a socket or a negative errno. A name that another listens on: -EADDRINUSE. */
int channel_listen(const char *name) MUST_CHECK;
int channel_accept(int listener, const char *name) MUST_CHECK; /* -EAGAIN: nobody is waiting */
int channel_connect(const char *name, unsigned timeout_ms) MUST_CHECK;

/* Takes over the connected socket `fd`, also when it fails. */
int channel_open(struct channel *channel, int fd, const char *name) MUST_CHECK;
void channel_close(struct channel *channel);
void channel_shutdown(struct channel *channel);

/* Waits for a peer that is behind with reading, for at most `timeout_ms` (then -ETIMEDOUT). */
int channel_send(struct channel *channel, uint16_t type, const void *body, size_t length,
	const int *fds, unsigned fd_count, unsigned timeout_ms) MUST_CHECK;

/*
 * Waits for a frame of `type` with exactly `fd_count` descriptors, which become the caller's.
 * -ETIMEDOUT: none yet, call again. -ECONNRESET: the peer is gone or does not follow the protocol.
 * -EMSGSIZE: longer than `capacity`.
 */
int channel_recv(struct channel *channel, uint16_t type, void *body, size_t capacity,
	size_t *length, int *fds, unsigned fd_count, unsigned timeout_ms) MUST_CHECK;

#include "transport/channel.h"

#include "base/idle.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- Meeting ---- */

static int socket_address(const char *name, struct sockaddr_un *address, socklen_t *length)
{
	size_t n = strlen(name);
	if (n < 1 || n > CHANNEL_NAME_MAX ||
		strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") !=
			n)
		return fail(EINVAL,
			"address shm:%s: the name must be 1 to %u of A-Z, a-z, 0-9, '.', '_', '-'",
			name, CHANNEL_NAME_MAX);
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	/* The leading zero byte makes it abstract. */
	int text = snprintf(
		address->sun_path + 1, sizeof address->sun_path - 1, "doppel-shm-%s", name);
	*length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)text);
	return 0;
}

int channel_check(const char *name)
{
	struct sockaddr_un address;
	socklen_t length;
	return socket_address(name, &address, &length);
}

int channel_listen(const char *name)
{
	struct sockaddr_un address;
	socklen_t length;
	int error = socket_address(name, &address, &length);
	if (error)
		return error;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(errno, "cannot make a socket for shm:%s: %s", name, strerror(errno));
	if (bind(fd, (struct sockaddr *)&address, length) == 0 && listen(fd, 8) == 0)
		return fd;
	if (errno == EADDRINUSE)
		error = fail(EADDRINUSE,
			"address shm:%s is in use: another standby waits there; stop it or choose "
			"another name",
			name);
	else
		error = fail(errno, "cannot listen on shm:%s: %s", name, strerror(errno));
	close(fd);
	return error;
}

/* Anybody may connect to an abstract socket, or have taken its name first. */
static int check_peer(int fd, const char *name)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return fail(errno, "cannot tell who is on shm:%s: %s", name, strerror(errno));
	if (peer.uid != geteuid() && peer.uid != 0)
		return fail(EACCES, "user %u is on shm:%s, and only user %u or root is admitted",
			peer.uid, name, geteuid());
	return 0;
}

int channel_accept(int listener, const char *name)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			if (check_peer(fd, name) == 0)
				return fd;
			say("refused a connection: %s", fail_message());
			close(fd);
		} else if (errno == EAGAIN) {
			return -EAGAIN;
		} else if (errno != EINTR && errno != ECONNABORTED) {
			return fail(errno, "cannot accept on shm:%s: %s", name, strerror(errno));
		}
	}
}

int channel_connect(const char *name, unsigned timeout_ms)
{
	struct sockaddr_un address;
	socklen_t length;
	int error = socket_address(name, &address, &length);
	if (error)
		return error;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(errno, "cannot make a socket for shm:%s: %s", name, strerror(errno));
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	while (!error && connect(fd, (struct sockaddr *)&address, length) < 0) {
		/* EAGAIN: the queue of those who wait is full, and poll would not tell when. */
		if (errno == EAGAIN && now_ns() < deadline)
			usleep(1000);
		else if (errno == EAGAIN)
			error = fail(ETIMEDOUT,
				"the standby on shm:%s accepts nobody; is it busy or frozen?",
				name);
		else if (errno == ECONNREFUSED)
			error = fail(ECONNREFUSED,
				"no standby waits on shm:%s; start one there first, in this "
				"network namespace",
				name);
		else if (errno != EINTR)
			error = fail(errno, "cannot connect to shm:%s: %s", name, strerror(errno));
	}
	if (!error)
		error = check_peer(fd, name);
	if (!error)
		return fd;
	close(fd);
	return error;
}

/* ---- Frames ---- */

/* Room for the descriptors of one frame, aligned as the kernel wants it. */
union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(CHANNEL_FDS * sizeof(int))];
};

int channel_open(struct channel *channel, int fd, const char *name)
{
	*channel = (struct channel){.fd = fd, .body = malloc(CHANNEL_BODY_MAX)};
	if (!channel->body) {
		close(fd);
		return fail(ENOMEM, "no memory for the connection to shm:%s", name);
	}
	snprintf(channel->name, sizeof channel->name, "%s", name);
	/* So that a frame rarely waits for its reader; if the kernel allows less, it may. */
	int wanted = 2 * (int)CHANNEL_BODY_MAX;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
	return 0;
}

static void drop_fds(struct channel *channel)
{
	while (channel->fd_count > 0)
		close(channel->fds[--channel->fd_count]);
}

void channel_close(struct channel *channel)
{
	drop_fds(channel);
	close(channel->fd);
	free(channel->body);
}

void channel_shutdown(struct channel *channel)
{
	shutdown(channel->fd, SHUT_RDWR);
}

static int gone(struct channel *channel)
{
	channel->is_broken = true;
	drop_fds(channel);
	return fail(ECONNRESET, "the peer on shm:%s is gone", channel->name);
}

static int broken(struct channel *channel, const char *how)
{
	channel->is_broken = true;
	drop_fds(channel);
	return fail(ECONNRESET,
		"the peer on shm:%s does not follow the protocol: %s; is it the same version?",
		channel->name, how);
}

/* Waits until the socket is ready. -ETIMEDOUT comes without a message: the callers know better. */
static int wait_for(const struct channel *channel, short events, uint64_t deadline_ns)
{
	for (;;) {
		uint64_t now = now_ns();
		uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
		struct pollfd pollfd = {.fd = channel->fd, .events = events};
		struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
			.tv_nsec = (long)(left % 1000000000u)};
		int n = ppoll(&pollfd, 1, &timeout, NULL);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return fail(errno, "cannot wait for the peer on shm:%s: %s", channel->name,
				strerror(errno));
		if (n == 0)
			return -ETIMEDOUT;
	}
}

int channel_send(struct channel *channel, uint16_t type, const void *body, size_t length,
	const int *fds, unsigned fd_count, unsigned timeout_ms)
{
	if (length > CHANNEL_BODY_MAX || fd_count > CHANNEL_FDS)
		return fail(EMSGSIZE, "a message of %zu bytes to shm:%s: %u is the most", length,
			channel->name, CHANNEL_BODY_MAX);
	if (channel->is_broken)
		return gone(channel);
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	struct channel_header header = {
		.length = (uint32_t)length, .type = type, .fds = (uint16_t)fd_count};
	union control control = {0};
	for (size_t sent = 0; sent < sizeof header + length;) {
		struct iovec pieces[2];
		struct msghdr message = {.msg_iov = pieces};
		if (sent < sizeof header)
			pieces[message.msg_iovlen++] =
				(struct iovec){(uint8_t *)&header + sent, sizeof header - sent};
		size_t body_sent = sent < sizeof header ? 0 : sent - sizeof header;
		if (length > body_sent)
			pieces[message.msg_iovlen++] =
				(struct iovec){(uint8_t *)body + body_sent, length - body_sent};
		if (sent == 0 && fd_count > 0) {
			message.msg_control = &control;
			message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
			struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
			cmsg->cmsg_level = SOL_SOCKET;
			cmsg->cmsg_type = SCM_RIGHTS;
			cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
			memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
		}
		ssize_t n = sendmsg(channel->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			sent += (size_t)n;
		} else if (errno == EAGAIN) {
			int error = wait_for(channel, POLLOUT, deadline);
			if (error == -ETIMEDOUT)
				return fail(ETIMEDOUT,
					"the peer on shm:%s did not take a message within %u ms",
					channel->name, timeout_ms);
			if (error)
				return error;
		} else if (errno == EPIPE || errno == ECONNRESET) {
			return gone(channel);
		} else if (errno != EINTR) {
			return fail(errno, "cannot send to the peer on shm:%s: %s", channel->name,
				strerror(errno));
		}
	}
	return 0;
}

/* Keeps the descriptors that came with some bytes. */
static int take_fds(struct channel *channel, struct msghdr *message)
{
	bool too_many = message->msg_flags & MSG_CTRUNC;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(message); cmsg;
		cmsg = CMSG_NXTHDR(message, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof fd, sizeof fd);
			if (channel->fd_count < CHANNEL_FDS) {
				channel->fds[channel->fd_count++] = fd;
			} else {
				close(fd);
				too_many = true;
			}
		}
	}
	return too_many ? broken(channel, "too many descriptors") : 0;
}

/* Receives once what the frame at hand still lacks, and never a byte of the next. */
static int receive_some(struct channel *channel)
{
	size_t header_size = sizeof channel->header, got = channel->received;
	struct iovec piece;
	if (got < header_size)
		piece = (struct iovec){(uint8_t *)&channel->header + got, header_size - got};
	else
		piece = (struct iovec){channel->body + (got - header_size),
			header_size + channel->header.length - got};
	union control control;
	struct msghdr message = {.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof control};
	ssize_t n = recvmsg(channel->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n <= 0)
		return gone(channel);
	channel->received += (size_t)n;
	int error = take_fds(channel, &message);
	if (error)
		return error;
	if (channel->received >= header_size &&
		(channel->header.length > CHANNEL_BODY_MAX || channel->header.fds > CHANNEL_FDS))
		return broken(channel, "a frame with impossible sizes");
	return 0;
}

static bool is_whole(const struct channel *channel)
{
	return channel->received >= sizeof channel->header &&
	       channel->received == sizeof channel->header + channel->header.length;
}

int channel_recv(struct channel *channel, uint16_t type, void *body, size_t capacity,
	size_t *length, int *fds, unsigned fd_count, unsigned timeout_ms)
{
	/* What it sent last may still lie in the socket, with sizes that must not be used. */
	if (channel->is_broken)
		return gone(channel);
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	while (!is_whole(channel)) {
		int error = receive_some(channel);
		if (error == -EAGAIN) {
			error = wait_for(channel, POLLIN, deadline);
			if (error == -ETIMEDOUT)
				return fail(ETIMEDOUT,
					"nothing came from the peer on shm:%s within %u ms",
					channel->name, timeout_ms);
		}
		if (error)
			return error;
	}
	/* The frame is taken, whatever becomes of it. */
	channel->received = 0;
	size_t got = channel->header.length;
	int error = 0;
	if (channel->header.type != type || channel->header.fds != fd_count)
		error = broken(channel, "a frame of another type than the one that is due");
	else if (channel->fd_count != fd_count)
		error = broken(channel, "descriptors are missing");
	else if (got > capacity)
		error = fail(EMSGSIZE, "the peer on shm:%s sent %zu bytes where %zu are the most",
			channel->name, got, capacity);
	if (error) {
		drop_fds(channel);
		return error;
	}
	if (got > 0)
		memcpy(body, channel->body, got);
	*length = got;
	for (unsigned i = 0; i < fd_count; i++)
		fds[i] = channel->fds[i];
	channel->fd_count = 0;
	return 0;
}

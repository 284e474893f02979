#include "transport/tcp_socket.h"

#include "base/idle.h"
#include "transport/host_port.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_socket(const struct addrinfo *info)
{
	return socket(
		info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, info->ai_protocol);
}

static int set_option(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof value);
}

/* Takes over the connected socket. */
static int prepare(int fd, const char *where)
{
	/* The first probe after a second of silence, and one more each second. */
	if (set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) == 0 &&
		set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) == 0 &&
		set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1) == 0 &&
		set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1) == 0 &&
		set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)TCP_SILENCE_MS / 1000) == 0 &&
		set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)TCP_SILENCE_MS) == 0)
		return fd;
	int error = fail(errno, "cannot set up the connection tcp:%s: %s", where, strerror(errno));
	close(fd);
	return error;
}

static int try_to_listen(const struct addrinfo *info)
{
	int fd = open_socket(info);
	if (fd < 0)
		return -errno;
	/* What is left of an old connection does not keep a standby from listening again. */
	if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) == 0 &&
		bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 8) == 0)
		return fd;
	int error = -errno;
	close(fd);
	return error;
}

int tcp_listen(const char *where)
{
	struct addrinfo *found;
	int error = host_port_look_up("tcp", where, true, &found);
	if (error)
		return error;
	int fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *info = found; info && fd < 0; info = info->ai_next)
		fd = try_to_listen(info);
	freeaddrinfo(found);
	if (fd == -EADDRINUSE)
		return fail(EADDRINUSE,
			"address tcp:%s is in use: another standby or program listens there; stop "
			"it or choose another port",
			where);
	if (fd < 0)
		return fail(-fd, "cannot listen on tcp:%s: %s", where, strerror(-fd));
	return fd;
}

/* What accept(2) reports about one who waited; the next may do better. */
static bool is_about_one_peer(int error)
{
	return error == EINTR || error == ECONNABORTED || error == EPERM || error == EPROTO ||
	       error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
	       error == EHOSTUNREACH || error == EOPNOTSUPP || error == ENOPROTOOPT;
}

int tcp_accept(int listener, const char *where)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			return prepare(fd, where);
		if (errno == EAGAIN)
			return -EAGAIN;
		if (!is_about_one_peer(errno))
			return fail(errno, "cannot accept on tcp:%s: %s", where, strerror(errno));
	}
}

/* Waits for a connection that has begun. */
static int await_connection(int fd, uint64_t deadline_ns)
{
	for (;;) {
		uint64_t now = now_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
		struct pollfd pollfd = {.fd = fd, .events = POLLOUT};
		struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
			.tv_nsec = (long)(left % 1000000000u)};
		int n = ppoll(&pollfd, 1, &timeout, NULL);
		if (n == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		int error;
		socklen_t length = sizeof error;
		return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? -errno : -error;
	}
}

/* Where nobody listens on a port that the kernel gives out to those who connect, a socket may meet
 * itself. */
static bool has_met_itself(int fd)
{
	struct sockaddr_storage here = {0}, there = {0};
	socklen_t here_length = sizeof here, there_length = sizeof there;
	return getsockname(fd, (struct sockaddr *)&here, &here_length) == 0 &&
	       getpeername(fd, (struct sockaddr *)&there, &there_length) == 0 &&
	       here_length == there_length && memcmp(&here, &there, here_length) == 0;
}

static int try_to_connect(const struct addrinfo *info, uint64_t deadline_ns)
{
	int fd = open_socket(info);
	if (fd < 0)
		return -errno;
	int error = connect(fd, info->ai_addr, info->ai_addrlen) < 0 ? -errno : 0;
	if (error == -EINPROGRESS || error == -EINTR)
		error = await_connection(fd, deadline_ns);
	if (!error && has_met_itself(fd))
		error = -ECONNREFUSED;
	if (!error)
		return fd;
	close(fd);
	return error;
}

int tcp_connect(const char *where, unsigned timeout_ms)
{
	struct addrinfo *found;
	int error = host_port_look_up("tcp", where, false, &found);
	if (error)
		return error;
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	int fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *info = found; info && fd < 0; info = info->ai_next)
		fd = try_to_connect(info, deadline);
	freeaddrinfo(found);
	if (fd == -ECONNREFUSED)
		return fail(
			ECONNREFUSED, "no standby listens on tcp:%s; start one there first", where);
	if (fd == -ETIMEDOUT)
		return fail(ETIMEDOUT,
			"the standby on tcp:%s does not answer; is its host up, and is it not "
			"busy?",
			where);
	if (fd < 0)
		return fail(-fd, "cannot connect to tcp:%s: %s", where, strerror(-fd));
	return prepare(fd, where);
}

void tcp_be_patient(int fd)
{
	/* It has been set before, and overrules the count of probes. */
	(void)set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)TCP_PATIENCE_MS);
}

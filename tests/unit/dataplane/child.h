/*
 * DPDK starts once a process, so each test that needs it runs in a child of its own; in a network
 * namespace of its own too, where the frames of nobody else pass. A child says what failed and ends
 * with status 1; one that cannot run here says why and ends with CHILD_SKIP.
 */
#pragma once

#include "base/fail.h"
#include "dataplane/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define CHILD_SKIP 77
#define CHILD_SECONDS 20u /* a child that hangs ends by SIGALRM */

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: %s (last failure: %s)\n", __FILE__, __LINE__,      \
				#condition, fail_message());                                       \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static inline void run_in_child(void (*function)(void))
{
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGSEGV, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		alarm(CHILD_SECONDS);
		function();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_SKIP)
		skip();
	if (WIFSIGNALED(status))
		print_error("the child ended by signal %d\n", WTERMSIG(status));
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static inline _Noreturn void skip_child(const char *reason)
{
	printf("skip: %s\n", reason);
	fflush(stdout);
	_exit(CHILD_SKIP);
}

/* DPDK starts in seconds under the thread sanitizer, which also keeps signals back until the thread
 * makes a call that it watches; a loop that polls a driver makes none. */
static inline void need_dpdk(void)
{
#ifdef __SANITIZE_THREAD__
	skip_child("no DPDK under the thread sanitizer");
#endif
}

static inline void own_network(void)
{
	if (geteuid() != 0)
		skip_child("devices can only be made by root");
	if (unshare(CLONE_NEWNET) != 0)
		skip_child("no network namespaces here");
	/* Or the kernel would solicit routers through every interface that we make. */
	FILE *setting = fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w");
	if (setting) {
		fputs("1", setting);
		fclose(setting);
	}
}

static inline void need_file(const char *path)
{
	if (access(path, F_OK) != 0) {
		printf("skip: no %s here\n", path);
		fflush(stdout);
		_exit(CHILD_SKIP);
	}
}

static inline void set_up(const char *interface, bool up)
{
	struct ifreq request = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
	REQUIRE(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	REQUIRE(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
	close(fd);
}

#define OUR_TYPE 0x88b5u /* for experiments (IEEE 802) */

/* A frame that carries its number, with bytes that follow from it. */
static inline void fill_frame(uint8_t *frame, size_t length, uint32_t number)
{
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02\x00\x00\x00\x00\x01", 6);
	frame[12] = OUR_TYPE >> 8;
	frame[13] = OUR_TYPE & 0xff;
	for (size_t i = 14; i < length; i++)
		frame[i] = (uint8_t)(number + i);
	if (length >= 18)
		memcpy(frame + 14, &number, 4);
}

static inline bool is_ours(const void *frame, size_t length)
{
	const uint8_t *bytes = frame;
	return length >= 18 && bytes[12] == OUR_TYPE >> 8 && bytes[13] == (OUR_TYPE & 0xff);
}

/* Whether it is frame `number`, whole and unchanged. */
static inline bool is_frame(const void *frame, size_t length, size_t expected, uint32_t number)
{
	uint8_t other[2048];
	fill_frame(other, expected, number);
	return length == expected && memcmp(frame, other, length) == 0;
}

/* The other end of a device: a raw socket on an interface of the kernel's. */
static inline int open_raw(const char *interface)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(OUR_TYPE));
	REQUIRE(fd >= 0);
	struct sockaddr_ll address = {.sll_family = AF_PACKET,
		.sll_protocol = htons(OUR_TYPE),
		.sll_ifindex = (int)if_nametoindex(interface)};
	REQUIRE(address.sll_ifindex > 0);
	REQUIRE(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
	return fd;
}

static inline void raw_send(int fd, uint32_t number, size_t length)
{
	uint8_t frame[2048];
	fill_frame(frame, length, number);
	REQUIRE(send(fd, frame, length, 0) == (ssize_t)length);
}

/* The next frame that came in; what the socket's own side has sent is not that. */
static inline bool raw_next(int fd, int milliseconds, uint8_t frame[2048], size_t *length)
{
	for (;;) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		struct sockaddr_ll from;
		socklen_t size = sizeof from;
		int n = poll(&ready, 1, milliseconds);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		ssize_t got = recvfrom(fd, frame, 2048, 0, (struct sockaddr *)&from, &size);
		if (got > 0 && from.sll_pkttype != PACKET_OUTGOING) {
			*length = (size_t)got;
			return true;
		}
	}
}

static inline void raw_expect(int fd, uint32_t number, size_t expected)
{
	uint8_t frame[2048];
	size_t length;
	REQUIRE(raw_next(fd, 10000, frame, &length));
	REQUIRE(is_frame(frame, length, expected, number));
}

/*
 * Many connections to memcached at once, for the lab.
 *
 *   crowd open ADDRESS PORT AT_ONCE TOTAL   TOTAL connections, so many at a time: each asks once, is answered, and
 *                                           ends, in turns in order and by a reset
 *   crowd talk ADDRESS PORT AT_ONCE STOP    connections that stay: each stores some bytes and asks for them, again
 *                                           and again, once at least, until there is a file STOP
 *
 * Says how many there were. Exit status: 0 each was answered rightly and none ended by itself, 1 not so, 2 usage.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define AT_ONCE_MAX 512
#define PATIENCE_S 300
#define STORED 16000u /* bytes: more than a frame, so that they are segments and merged ones */

static struct sockaddr_in server;
static const char *stop;
static long total;
static _Atomic long begun, done, faults;

static void complain(unsigned number, const char *what)
{
	/* One tells enough. */
	if (atomic_fetch_add(&faults, 1) < 10)
		fprintf(stderr, "crowd: connection %u: %s: %s\n", number, what, strerror(errno));
}

/* A guest that stands still for seconds, as while a backup joins it, answers no ARP: nothing ends by that. */
static bool connects(int fd)
{
	time_t end = time(NULL) + PATIENCE_S;
	int error;
	do
		error = connect(fd, (struct sockaddr *)&server, sizeof server);
	while (error < 0 && errno == EHOSTUNREACH && time(NULL) < end);
	return error == 0;
}

static int connected(unsigned number)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
		!connects(fd)) {
		complain(number, "connect");
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return fd;
}

static bool say(int fd, const void *bytes, size_t length)
{
	const char *at = bytes;
	while (length > 0) {
		ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
		at += sent;
		length -= (size_t)sent;
	}
	return true;
}

/* Whether the next bytes are these. */
static bool hear(int fd, const char *wanted, size_t length)
{
	char bytes[4096];
	errno = 0;
	for (size_t at = 0; at < length;) {
		size_t most = length - at < sizeof bytes ? length - at : sizeof bytes;
		ssize_t got = recv(fd, bytes, most, 0);
		if (got <= 0 || memcmp(bytes, wanted + at, (size_t)got) != 0)
			return false;
		at += (size_t)got;
	}
	return true;
}

static void *open_many(void *argument)
{
	const struct linger reset = {.l_onoff = 1};
	unsigned number = (unsigned)(uintptr_t)argument;
	for (long n; (n = atomic_fetch_add(&begun, 1)) < total;) {
		int fd = connected(number);
		if (fd < 0)
			continue;
		if (say(fd, "version\r\n", 9) && hear(fd, "VERSION ", 8))
			atomic_fetch_add(&done, 1);
		else
			complain(number, "ask once");
		if (n % 2)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
	}
	return NULL;
}

static void *talk(void *argument)
{
	unsigned number = (unsigned)(uintptr_t)argument;
	char set[64], get[64], bytes[STORED + 2], head[64];
	int fd = connected(number);
	if (fd < 0)
		return NULL;
	for (unsigned turn = 0; turn == 0 || access(stop, F_OK) < 0; turn++) {
		int set_length = snprintf(set, sizeof set, "set key%u 0 0 %u\r\n", number, STORED);
		int get_length = snprintf(get, sizeof get, "get key%u\r\n", number);
		int head_length =
			snprintf(head, sizeof head, "VALUE key%u 0 %u\r\n", number, STORED);
		memset(bytes, (int)('a' + turn % 26), STORED);
		memcpy(bytes + STORED, "\r\n", 2);
		if (!say(fd, set, (size_t)set_length) || !say(fd, bytes, sizeof bytes) ||
			!hear(fd, "STORED\r\n", 8) || !say(fd, get, (size_t)get_length) ||
			!hear(fd, head, (size_t)head_length) || !hear(fd, bytes, sizeof bytes) ||
			!hear(fd, "END\r\n", 5)) {
			complain(number, "talk");
			break;
		}
		atomic_fetch_add(&done, 1);
	}
	close(fd);
	return NULL;
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	pthread_t threads[AT_ONCE_MAX];
	double began = now();
	bool opens = argc == 6 && strcmp(argv[1], "open") == 0;
	long at_once = argc == 6 ? atol(argv[4]) : 0;
	server.sin_family = AF_INET;
	if ((!opens && (argc != 6 || strcmp(argv[1], "talk") != 0)) || at_once < 1 ||
		at_once > AT_ONCE_MAX || inet_pton(AF_INET, argv[2], &server.sin_addr) != 1) {
		fprintf(stderr, "usage: crowd open ADDRESS PORT AT_ONCE TOTAL, or talk ADDRESS "
				"PORT AT_ONCE STOP\n");
		return 2;
	}
	server.sin_port = htons((uint16_t)atoi(argv[3]));
	total = atol(argv[5]);
	stop = argv[5];
	for (long i = 0; i < at_once; i++)
		if (pthread_create(
			    &threads[i], NULL, opens ? open_many : talk, (void *)(uintptr_t)i) != 0)
			return 1;
	for (long i = 0; i < at_once; i++)
		pthread_join(threads[i], NULL);
	printf("answered=%ld faults=%ld seconds=%.1f\n", atomic_load(&done), atomic_load(&faults),
		now() - began);
	return atomic_load(&faults) > 0 || (opens && atomic_load(&done) < total);
}

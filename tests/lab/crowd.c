/*
 * Clients, for the lab: many connections to memcached at once, or one to an echo.
 *
 *   crowd open ADDRESS PORT AT_ONCE TOTAL   TOTAL connections, so many at a time: each asks once, is answered, and
 *                                           ends, in turns in order and by a reset
 *   crowd talk ADDRESS PORT AT_ONCE STOP    connections that stay: each stores some bytes and asks for them, again
 *                                           and again, once at least, until there is a file STOP
 *   crowd echo ADDRESS PORT BYTES TIMES     one connection: so many bytes there and back, one time after the other
 *
 * Says how many there were, or for the echo quantiles in microseconds, a name and a value a line. Exit status: 0 each was
 * answered rightly and none ended by itself, 1 not so, 2 usage.
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
#define ECHO_MAX 1024

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

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* One time more than that: the first one waits for a program that is being started. */
static int echo(size_t length, size_t times)
{
	static const struct {
		const char *name;
		double share;
	} quantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}};
	char bytes[ECHO_MAX];
	double *took = calloc(times, sizeof *took), began = 0;
	int fd = took ? connected(0) : -1;
	bool answered = fd >= 0;
	for (size_t i = 0; i <= times && answered; i++) {
		double asked = now();
		if (i == 1)
			began = asked;
		memset(bytes, (int)('a' + i % 26), length);
		answered = say(fd, bytes, length) && hear(fd, bytes, length);
		if (i > 0)
			took[i - 1] = now() - asked;
	}
	if (answered) {
		printf("rate %.1f\n", (double)times / (now() - began));
		qsort(took, times, sizeof *took, compare);
		for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++)
			printf("%s_us %.1f\n", quantiles[i].name,
				took[(size_t)((double)times * quantiles[i].share)] * 1e6);
	} else if (fd >= 0) {
		complain(0, "echo");
	}
	if (fd >= 0)
		close(fd);
	free(took);
	return answered ? 0 : 1;
}

int main(int argc, char **argv)
{
	pthread_t threads[AT_ONCE_MAX];
	double began = now();
	const char *mode = argc == 6 ? argv[1] : "";
	bool opens = strcmp(mode, "open") == 0, echoes = strcmp(mode, "echo") == 0;
	long at_once = argc == 6 ? atol(argv[4]) : 0;
	server.sin_family = AF_INET;
	if ((!opens && !echoes && strcmp(mode, "talk") != 0) || at_once < 1 ||
		at_once > (echoes ? ECHO_MAX : AT_ONCE_MAX) || (echoes && atol(argv[5]) < 1) ||
		inet_pton(AF_INET, argv[2], &server.sin_addr) != 1) {
		fprintf(stderr, "usage: crowd open ADDRESS PORT AT_ONCE TOTAL, talk ADDRESS PORT "
				"AT_ONCE STOP, or echo ADDRESS PORT BYTES TIMES\n");
		return 2;
	}
	server.sin_port = htons((uint16_t)atoi(argv[3]));
	total = atol(argv[5]);
	stop = argv[5];
	if (echoes)
		return echo((size_t)at_once, (size_t)total);
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

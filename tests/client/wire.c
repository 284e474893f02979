#include "tests/client/wire.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Below the ports that the kernel hands out by itself. */
#define FRESH_FIRST 10240u
#define FRESH_COUNT 22528u

#define RECEIVE_BUFFER (4 << 20) /* what a guest keeps and sends at once after a failover */

uint64_t wire_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int wire_address(struct sockaddr_in *address, const char *text)
{
	char host[INET_ADDRSTRLEN];
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof host)
		return -EINVAL;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (!isdigit((unsigned char)colon[1]) || *end || port == 0 || port > 65535)
		return -EINVAL;
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return inet_pton(AF_INET, host, &address->sin_addr) == 1 ? 0 : -EINVAL;
}

static int open_from(const struct sockaddr_in *server, uint16_t port)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* A checksum left for a network card to finish would reach the guest half done; none at all
	 * is allowed in IPv4. */
	int on = 1, size = RECEIVE_BUFFER;
	setsockopt(fd, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
	if ((port && bind(fd, (struct sockaddr *)&own, sizeof own) < 0) ||
		connect(fd, (const struct sockaddr *)server, sizeof *server) < 0) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

int wire_open(const struct sockaddr_in *server)
{
	return open_from(server, 0);
}

int wire_open_fresh(const struct sockaddr_in *server)
{
	static uint32_t next;
	if (!next && getrandom(&next, sizeof next, 0) != sizeof next)
		next = (uint32_t)getpid();
	int fd = -EADDRINUSE;
	for (unsigned tries = 0; fd == -EADDRINUSE && tries < FRESH_COUNT; tries++)
		fd = open_from(server, (uint16_t)(FRESH_FIRST + next++ % FRESH_COUNT));
	return fd;
}

void wire_send(int fd, const char *text, size_t length)
{
	/* The first try may only fetch an error that an earlier datagram left behind. */
	for (int tries = 0; tries < 2; tries++)
		if (send(fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return;
}

void wire_send_request(int fd, const struct request *request)
{
	char text[64];
	int length = 0;
	switch (request->kind) {
	case REQUEST_ADD:
		length = snprintf(text, sizeof text, "ADD %" PRIu64 " %" PRIu64 "\n", request->id,
			request->amount);
		break;
	case REQUEST_GET:
		length = snprintf(text, sizeof text, "GET\n");
		break;
	case REQUEST_TIME:
		length = snprintf(text, sizeof text, "TIME\n");
		break;
	}
	wire_send(fd, text, (size_t)length);
}

int wire_receive(int fd, char text[WIRE_MOST + 1])
{
	/* An ICMP message about an earlier datagram comes as an error, once; there may be one each.
	 */
	for (int tries = 0; tries < 16; tries++) {
		ssize_t length = recv(fd, text, WIRE_MOST, MSG_DONTWAIT);
		if (length >= 0) {
			text[length] = 0;
			return (int)length;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return -1;
	}
	return -1;
}

/* One number and the character that must follow it. */
static bool parse_number(const char **text, char after, uint64_t *value)
{
	char *end;
	if (!isdigit((unsigned char)**text))
		return false;
	errno = 0;
	*value = strtoull(*text, &end, 10);
	if (errno || *end != after)
		return false;
	*text = end + 1;
	return true;
}

static bool starts_with(const char **text, const char *word)
{
	size_t length = strlen(word);
	if (strncmp(*text, word, length) != 0)
		return false;
	*text += length;
	return true;
}

bool wire_parse(struct answer *answer, const char *text)
{
	*answer = (struct answer){0};
	bool whole = false;
	if (starts_with(&text, "OK ")) {
		answer->kind = REQUEST_ADD;
		whole = parse_number(&text, ' ', &answer->id) &&
			parse_number(&text, '\n', &answer->value);
	} else if (starts_with(&text, "TOTAL ")) {
		answer->kind = REQUEST_GET;
		whole = parse_number(&text, ' ', &answer->value) &&
			parse_number(&text, '\n', &answer->count);
	} else if (starts_with(&text, "TIME ")) {
		answer->kind = REQUEST_TIME;
		whole = parse_number(&text, '\n', &answer->value);
	}
	return whole && !*text;
}

/*
 * A cable between two machines of the lab: carries each frame that one QEMU sends to the other one.
 *
 *   wire FROM_A TO_A FROM_B TO_B        paths of Unix datagram sockets; FROM_ are made here, TO_ by QEMU
 *
 * Two QEMUs can be joined without it, but one whose peer does not read then does nothing else than try
 * to send: a frozen machine would freeze the other one too. Here a frame waits PATIENCE_MS for a reader
 * that is slow, so that nothing is lost under load, and is dropped when there is none. Ends with SIGTERM.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 100
#define FRAME_MAX 65536u /* with room for any MTU */

/* One direction. */
struct way {
	int from, to; /* to: -1 while there is nobody */
	const char *to_path;
	unsigned char frame[FRAME_MAX];
	size_t length;     /* of the frame that waits; 0: none */
	long long drop_ms; /* when it is dropped */
	bool is_deaf;      /* the last one was dropped: none waits until one has gone through */
};

static long long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

static bool address_of(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address->sun_path)
		return false;
	memcpy(address->sun_path, path, strlen(path));
	return true;
}

static int open_from(const char *path)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (fd < 0 || !address_of(&address, path) ||
		bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		perror(path);
		return -1;
	}
	return fd;
}

/* Only of a connected socket poll() tells when its reader has room. */
static int open_to(const char *path)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && address_of(&address, path) &&
		connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void deliver(struct way *way)
{
	if (way->to < 0)
		way->to = open_to(way->to_path);
	if (way->to < 0) {
		way->length = 0;
		return;
	}
	if (send(way->to, way->frame, way->length, MSG_NOSIGNAL) >= 0) {
		way->length = 0;
		way->is_deaf = false;
	} else if (errno != EAGAIN && errno != ENOBUFS) {
		close(way->to);
		way->to = -1;
		way->length = 0;
	} else if (way->is_deaf || now_ms() >= way->drop_ms) {
		way->length = 0;
		way->is_deaf = true;
	}
}

static void take(struct way *way)
{
	ssize_t length = recv(way->from, way->frame, sizeof way->frame, 0);
	if (length <= 0)
		return;
	way->length = (size_t)length;
	way->drop_ms = now_ms() + PATIENCE_MS;
	deliver(way);
}

int main(int argc, char **argv)
{
	static struct way ways[2];
	if (argc != 5) {
		fprintf(stderr, "usage: wire FROM_A TO_A FROM_B TO_B\n");
		return 2;
	}
	for (int i = 0; i < 2; i++) {
		ways[i].from = open_from(argv[1 + 2 * i]);
		ways[i].to = -1;
		ways[i].to_path = argv[4 - 2 * i];
		if (ways[i].from < 0)
			return 1;
	}
	for (;;) {
		struct pollfd pollfds[2];
		int timeout = -1;
		for (int i = 0; i < 2; i++) {
			bool waits = ways[i].length > 0;
			pollfds[i] = (struct pollfd){.fd = waits ? ways[i].to : ways[i].from,
				.events = waits ? POLLOUT : POLLIN};
			if (waits)
				timeout = PATIENCE_MS;
		}
		if (poll(pollfds, 2, timeout) < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < 2; i++) {
			if (ways[i].length > 0)
				deliver(&ways[i]);
			else if (pollfds[i].revents)
				take(&ways[i]);
		}
	}
}

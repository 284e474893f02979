/*
 * A cable between the machines of the lab: carries each frame that comes in at one of its ends to all the
 * others.
 *
 *   wire END END...
 *   END: FROM,TO      the paths of two Unix datagram sockets; FROM is made here, TO by a QEMU
 *        tap:NAME     a network interface, made here and gone with this process
 *
 * Two QEMUs can be joined without it, but one whose peer does not read then does nothing else than try
 * to send: a frozen machine would freeze the other one too. Here a frame waits PATIENCE_MS for a reader
 * that is slow, so that nothing is lost under load, and is dropped when there is none. Ends with SIGTERM.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 100
#define FRAME_MAX 65536u /* with room for any MTU */
#define END_MAX 4

struct end {
	int from, to; /* to: -1 while there is nobody */
	const char *to_path;
	bool is_deaf; /* the last frame to it was dropped: none waits until one has gone through */
	unsigned char frame[FRAME_MAX];
	size_t length;     /* of the frame that came in here and waits */
	unsigned waits;    /* for these ends, a bit each; 0: no frame */
	long long drop_ms; /* when it is dropped */
};

static struct end ends[END_MAX];
static int end_count;

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

static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
		perror(name);
		return -1;
	}
	return fd;
}

static bool open_end(struct end *end, char *word)
{
	char *comma = strchr(word, ',');
	end->to = -1;
	if (strncmp(word, "tap:", 4) == 0) {
		end->from = end->to = open_tap(word + 4);
	} else if (comma) {
		*comma = '\0';
		end->to_path = comma + 1;
		end->from = open_from(word);
	} else {
		fprintf(stderr, "wire: neither FROM,TO nor tap:NAME: %s\n", word);
		return false;
	}
	return end->from >= 0;
}

/* Whether the frame need not wait for this end any longer: it has it, or does without. */
static bool deliver(const struct end *source, struct end *end)
{
	if (end->to < 0)
		end->to = open_to(end->to_path);
	if (end->to < 0)
		return true;
	if (write(end->to, source->frame, source->length) >= 0) {
		end->is_deaf = false;
		return true;
	}
	if (errno == EAGAIN || errno == ENOBUFS) {
		if (!end->is_deaf && now_ms() < source->drop_ms)
			return false;
		end->is_deaf = true;
	} else if (end->to_path) {
		close(end->to);
		end->to = -1;
	}
	return true;
}

static void deliver_to_all(struct end *source)
{
	for (int i = 0; i < end_count; i++)
		if (source->waits & 1u << i && deliver(source, &ends[i]))
			source->waits &= ~(1u << i);
}

static void take(struct end *source)
{
	ssize_t length = read(source->from, source->frame, sizeof source->frame);
	if (length <= 0)
		return;
	source->length = (size_t)length;
	source->waits = ((1u << end_count) - 1) & ~(1u << (source - ends));
	source->drop_ms = now_ms() + PATIENCE_MS;
	deliver_to_all(source);
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc - 1 > END_MAX) {
		fprintf(stderr, "usage: wire END END..., %d at most, each FROM,TO or tap:NAME\n",
			END_MAX);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	for (; end_count < argc - 1; end_count++)
		if (!open_end(&ends[end_count], argv[1 + end_count]))
			return 1;
	for (;;) {
		/* A source whose frame waits is asked for no more; one of those it waits for wakes us. */
		struct pollfd pollfds[2 * END_MAX];
		int timeout = -1;
		for (int i = 0; i < end_count; i++) {
			unsigned waits = ends[i].waits;
			pollfds[2 * i] =
				(struct pollfd){.fd = waits ? -1 : ends[i].from, .events = POLLIN};
			pollfds[2 * i + 1] =
				(struct pollfd){.fd = waits ? ends[__builtin_ctz(waits)].to : -1,
					.events = POLLOUT};
			if (waits)
				timeout = PATIENCE_MS;
		}
		if (poll(pollfds, 2 * (nfds_t)end_count, timeout) < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < end_count; i++) {
			if (ends[i].waits)
				deliver_to_all(&ends[i]);
			else if (pollfds[2 * i].revents)
				take(&ends[i]);
		}
	}
}

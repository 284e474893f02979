/*
 * Two ends of a connection over any provider, in one process or two. What includes this runs the
 * same tests over each address that its command line names, without any over shm, tcp on loopback,
 * and the link model on top of shm.
 */
#pragma once

#include "support.h"

#include "base/idle.h"
#include "transport/memfd.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define PAIR_RING 65536u
#define PAIR_MEMORY (64u * 1024u)
#define PAIR_SECRET 0x1122334455667788u
/* Longer than anything that works takes, and shorter than anybody's patience. */
#define LONG_MS 20000u

static const struct provider *provider;
static const char *where;

/* What is written has arrived when the call returns, and what is fenced arrives no more: with
 * others it may be on its way. */
static inline bool places_at_once(void)
{
	return provider == &provider_shm;
}

struct pair {
	struct listener *listener;
	struct connection *standby, *primary;
	int memory; /* the guest's memfd, of PAIR_MEMORY bytes */
};

/* A name that no other test uses at the same time. */
static inline const char *pair_name(void)
{
	static char name[32];
	snprintf(name, sizeof name, "test-%d", (int)getpid());
	return name;
}

/* A loopback address that belongs to this process, with a port that is free. */
static inline void free_port(char *text, size_t size)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(0x7f000002u + ((uint32_t)getpid() & 0x3fffffu))};
	socklen_t length = sizeof address;
	char host[INET_ADDRSTRLEN];
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0 ||
		getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		abort();
	close(fd);
	inet_ntop(AF_INET, &address.sin_addr, host, sizeof host);
	snprintf(text, size, "%s:%u", host, ntohs(address.sin_port));
}

/* Runs the tests over each address; what main returns. */
static inline int over_each_provider(int argc, char **argv, int (*run)(const char *group))
{
	char tcp[64], shm[64], link[64], port[48];
	free_port(port, sizeof port);
	snprintf(tcp, sizeof tcp, "tcp:%s", port);
	snprintf(shm, sizeof shm, "shm:%s", pair_name());
	snprintf(link, sizeof link, "link:rate=4G,delay=5us/shm:%s", pair_name());
	char *usual[] = {NULL, shm, tcp, link};
	int failed = 0;
	if (argc < 2) {
		argc = sizeof usual / sizeof usual[0];
		argv = usual;
	}
	for (int i = 1; i < argc; i++) {
		if (provider_find(argv[i], &provider, &where) < 0) {
			fprintf(stderr, "%s\n", fail_message());
			return 1;
		}
		failed |= run(argv[i]) != 0;
	}
	return failed;
}

/* Where a provider needs time, the truth of `condition` is awaited. */
#define eventually(condition)                                                                      \
	({                                                                                         \
		uint64_t until_ = now_ns() + LONG_MS * 1000000ull;                                 \
		bool is_so_;                                                                       \
		while (!(is_so_ = (condition)) && now_ns() < until_)                               \
			usleep(20);                                                                \
		is_so_;                                                                            \
	})

static inline struct connection *pair_accept(struct listener *listener)
{
	struct connection *c = NULL;
	struct pollfd pollfd = {.fd = provider->listener_fd(listener), .events = POLLIN};
	return poll(&pollfd, 1, (int)LONG_MS) == 1 && provider->accept(listener, &c) == 0 ? c
											  : NULL;
}

static inline void *pair_attach(void *argument)
{
	struct pair *pair = argument;
	int error = provider->attach(pair->primary, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	return error ? argument : NULL;
}

static inline void *pair_dial(void *argument)
{
	struct pair *pair = argument;
	int error = provider->connect(where, LONG_MS, &pair->primary);
	return error ? argument : NULL;
}

/* Connected, not yet exposed. */
static inline void pair_connect(struct pair *pair)
{
	pthread_t thread;
	void *failed;
	*pair = (struct pair){.memory = -1};
	assert_int_equal(provider->listen(where, &pair->listener), 0);
	assert_int_equal(pthread_create(&thread, NULL, pair_dial, pair), 0);
	pair->standby = pair_accept(pair->listener);
	assert_non_null(pair->standby);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	pair->memory = memfd_make("test guest", PAIR_MEMORY);
	assert_true(pair->memory >= 0);
}

static inline void pair_open(struct pair *pair)
{
	pair_connect(pair);
	pthread_t thread;
	void *failed;
	assert_int_equal(pthread_create(&thread, NULL, pair_attach, pair), 0);
	assert_int_equal(
		provider->expose(pair->standby, PAIR_RING, pair->memory, PAIR_MEMORY, PAIR_SECRET),
		0);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
}

static inline void pair_close(struct pair *pair)
{
	provider->close(pair->primary);
	provider->close(pair->standby);
	provider->listener_close(pair->listener);
	close(pair->memory);
}

/* Two ends of a connection over shm, in one process or two. */
#pragma once

#include "support.h"

#include "transport/memfd.h"
#include "transport/transport.h"

#include <pthread.h>

#define PAIR_RING 65536u
#define PAIR_MEMORY (64u * 1024u)
#define PAIR_SECRET 0x1122334455667788u
/* Longer than anything that works takes, and shorter than anybody's patience. */
#define LONG_MS 20000u

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

static inline void *pair_attach(void *argument)
{
	struct pair *pair = argument;
	int error = provider_shm.attach(pair->primary, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	return error ? argument : NULL;
}

/* Connected, not yet exposed. */
static inline void pair_connect(struct pair *pair)
{
	*pair = (struct pair){.memory = -1};
	assert_int_equal(provider_shm.listen(pair_name(), &pair->listener), 0);
	assert_int_equal(provider_shm.connect(pair_name(), LONG_MS, &pair->primary), 0);
	assert_int_equal(provider_shm.accept(pair->listener, &pair->standby), 0);
	pair->memory = memfd_make("test guest", PAIR_MEMORY);
	assert_true(pair->memory >= 0);
}

static inline void pair_open(struct pair *pair)
{
	pair_connect(pair);
	pthread_t thread;
	void *failed;
	assert_int_equal(pthread_create(&thread, NULL, pair_attach, pair), 0);
	assert_int_equal(provider_shm.expose(
				 pair->standby, PAIR_RING, pair->memory, PAIR_MEMORY, PAIR_SECRET),
		0);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
}

static inline void pair_close(struct pair *pair)
{
	provider_shm.close(pair->primary);
	provider_shm.close(pair->standby);
	provider_shm.listener_close(pair->listener);
	close(pair->memory);
}

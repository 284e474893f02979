/* Two ends of a connection over the fake device. */
#pragma once

#include "fake_verbs.h"

#include "transport/memfd.h"
#include "transport/transport.h"
#include "transport/verbs_connection.h"

#include <poll.h>

#define PLACE "127.0.0.1:7471"
#define PAIR_RING 65536u
#define PAIR_MEMORY (256u * 1024u)
#define PAIR_SECRET 0x1122334455667788u
#define LONG_MS 20000u

static const struct provider *const verbs = &provider_verbs;

/* What write_log is given lies here. */
static uint8_t source[4 * PAIR_RING];

struct pair {
	struct listener *listener;
	struct connection *standby, *primary;
	int memory;
	uint8_t *guest;
};

/* Waits for what other threads bring about. */
#define eventually(condition)                                                                      \
	({                                                                                         \
		uint64_t until_ = now_ns() + LONG_MS * 1000000ull;                                 \
		bool is_so_;                                                                       \
		while (!(is_so_ = (condition)) && now_ns() < until_)                               \
			usleep(20);                                                                \
		is_so_;                                                                            \
	})

static inline bool is_readable(int fd)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	return poll(&pollfd, 1, 0) == 1;
}

/* Connected, not yet exposed. */
static inline void pair_connect(struct pair *pair)
{
	*pair = (struct pair){.memory = -1};
	assert_int_equal(verbs->listen(PLACE, &pair->listener), 0);
	assert_int_equal(verbs->connect(PLACE, LONG_MS, &pair->primary), 0);
	/* What connect has brought, accept finds; but over iWARP the standby cannot say so. */
	if (fake_device.transport_type == IBV_TRANSPORT_IWARP)
		assert_true(eventually(is_readable(verbs->listener_fd(pair->listener))));
	assert_true(is_readable(verbs->listener_fd(pair->listener)));
	assert_int_equal(verbs->accept(pair->listener, &pair->standby), 0);
	pair->memory = memfd_make("test guest", PAIR_MEMORY);
	assert_true(pair->memory >= 0);
	void *at;
	assert_int_equal(memfd_map(&at, pair->memory, PAIR_MEMORY, PROT_READ, false), 0);
	pair->guest = at;
}

static inline void *pair_attach(void *argument)
{
	struct pair *pair = argument;
	int error = verbs->attach(pair->primary, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	return error ? argument : NULL;
}

static inline void pair_open(struct pair *pair)
{
	pair_connect(pair);
	pthread_t thread;
	void *failed;
	assert_int_equal(pthread_create(&thread, NULL, pair_attach, pair), 0);
	assert_int_equal(
		verbs->expose(pair->standby, PAIR_RING, pair->memory, PAIR_MEMORY, PAIR_SECRET), 0);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	assert_int_equal(verbs->register_source(pair->primary, source, sizeof source), 0);
}

static inline void pair_close(struct pair *pair)
{
	verbs->close(pair->primary);
	verbs->close(pair->standby);
	verbs->listener_close(pair->listener);
	memfd_unmap(pair->guest, PAIR_MEMORY, false);
	close(pair->memory);
}

static inline int write_source(struct pair *pair, uint64_t lsn, size_t offset, size_t length)
{
	struct iovec piece = {source + offset, length};
	return verbs->write_log(pair->primary, lsn, &piece, 1);
}

/* Writes until nobody is heard any more, since nobody sleeps. Returns the next LSN. */
static inline uint64_t fall_silent(struct pair *pair)
{
	uint64_t lsn = 0;
	for (; pair->primary->sound.is_wanted || pair->standby->sound.is_wanted; lsn += 64) {
		assert_true(lsn < 1000000 * 64);
		assert_int_equal(write_source(pair, lsn, 0, 64), 0);
		assert_int_equal(verbs->write_ack(pair->standby, ACK_RECEIVED, lsn), 0);
		usleep(10);
	}
	assert_true(eventually(verbs->written(pair->primary) == lsn));
	/* What was heard last is taken in a little later. */
	assert_true(eventually(fake_is_armed(pair->primary->links[VERBS_LOG].recv_cq) &&
			       fake_is_armed(pair->standby->links[VERBS_LOG].recv_cq)));
	return lsn;
}

/* Set-up and tear-down: no test leaves a descriptor, an object of the device or pinned memory
 * behind. */
static inline int begin_test(void **state)
{
	fake_reset();
	fill_random(source, sizeof source, 7);
	return remember_fds(state);
}

static inline int end_test(void **state)
{
	if (fake.ids || fake.qps || fake.mrs || fake.overruns || fake.changed) {
		fprintf(stderr,
			"left behind: ids %d, queue pairs %d, regions %d; overruns %u, changed "
			"%u\n",
			fake.ids != NULL, fake.qps != NULL, fake.mrs != NULL, fake.overruns,
			fake.changed);
		return -1;
	}
	return compare_fds(state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_test, end_test)

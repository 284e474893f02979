/* What the link model adds; that it is a provider like others is tested in test_provider.c. Nothing
 * is ever early; how late it may be is for the bench to tell. */
#include "pair.h"

#include "transport/ack.h"

#include <errno.h>

#define MS 1000000u

static char address[128];
static uint8_t bytes[PAIR_RING];

static void use(const char *options)
{
	const struct provider *found;
	snprintf(address, sizeof address, "link:%s/shm:%s", options, pair_name());
	assert_int_equal(provider_find(address, &found, &where), 0);
	assert_ptr_equal(found, &provider_link);
	provider = found;
}

static void impossible_addresses_are_refused(void **state)
{
	(void)state;
	static const char *const addresses[] = {"", "/", "rate=1G", "rate=/shm:x", "rate=1G,/shm:x",
		"rate=1G,,delay=1us/shm:x", "rate=1X/shm:x", "rate=-1/shm:x", "rate=999/shm:x",
		"rate=1GG/shm:x", "rate=100000G/shm:x", "rate=nan/shm:x", "delay=5/shm:x",
		"delay=1h/shm:x", "delay=11s/shm:x", "delay=us/shm:x", "speed=1G/shm:x",
		"rate=1G;delay=1us/shm:x", ",rate=1G/shm:x"};
	struct listener *listener;
	struct connection *c;
	for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		assert_int_equal(provider_link.listen(addresses[i], &listener), -EINVAL);
		assert_int_equal(provider_link.connect(addresses[i], 0, &c), -EINVAL);
		assert_non_null(strstr(fail_message(), "rate=RATE"));
	}
	assert_int_equal(provider_link.listen("rate=1G/nowhere:x", &listener), -EINVAL);
	assert_non_null(strstr(fail_message(), "no transport"));
}

static void both_units_and_both_orders_are_read(void **state)
{
	(void)state;
	static const char *const options[] = {"rate=1000", "rate=2.5G", "rate=10M,delay=0ns",
		"delay=50us,rate=64K", "delay=1.5ms", "delay=10s"};
	struct listener *listener;
	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		use(options[i]);
		assert_int_equal(provider->listen(where, &listener), 0);
		provider->listener_close(listener);
	}
	/* Models can be stacked. */
	snprintf(address, sizeof address, "rate=1G/link:delay=1us/shm:%s", pair_name());
	assert_int_equal(provider_link.listen(address, &listener), 0);
	provider_link.listener_close(listener);
}

static int write_bytes(struct pair *pair, uint64_t lsn, size_t length)
{
	struct iovec piece = {bytes, length};
	return provider->write_log(pair->primary, lsn, &piece, 1);
}

static bool has_arrived(struct pair *pair, uint64_t lsn)
{
	return provider->ring(pair->standby)[(lsn - 1) % PAIR_RING] == 0xee;
}

static void nothing_arrives_before_its_delay(void **state)
{
	(void)state;
	enum { DELAY = 20 * MS };
	struct pair pair;
	use("delay=20ms");
	pair_open(&pair);
	memset(bytes, 0xee, sizeof bytes);
	uint64_t before = now_ns();
	assert_int_equal(write_bytes(&pair, 0, 100), 0);
	assert_true(eventually(has_arrived(&pair, 100)));
	assert_true(now_ns() - before >= DELAY);

	struct ack_reader reader = {.block = provider->acks(pair.primary),
		.secret = PAIR_SECRET,
		.counter = ACK_RECEIVED};
	before = now_ns();
	assert_int_equal(provider->write_ack(pair.standby, ACK_RECEIVED, 8), 0);
	assert_true(eventually(ack_read(&reader, 8) == 8));
	assert_true(now_ns() - before >= DELAY);

	for (int who = 0; who < 2; who++) {
		size_t length;
		before = now_ns();
		assert_int_equal(provider->send(who ? pair.standby : pair.primary, bytes, 10), 0);
		assert_int_equal(provider->recv(who ? pair.primary : pair.standby, bytes, 10,
					 &length, LONG_MS),
			0);
		assert_true(now_ns() - before >= DELAY);
	}
	before = now_ns();
	assert_int_equal(provider->write_memory(pair.primary, 0, bytes, 10), 0);
	assert_int_equal(provider->finish_memory(pair.primary, LONG_MS), 0);
	assert_true(now_ns() - before >= 2 * DELAY);
	pair_close(&pair);
}

static void nothing_is_faster_than_the_rate(void **state)
{
	(void)state;
	/* A byte in 0.1 us: a ring in 6.6 ms. */
	enum { BYTE_NS = 100, WRITES = 64, LENGTH = PAIR_RING / WRITES };
	struct pair pair;
	use("rate=80M");
	pair_open(&pair);
	memset(bytes, 0xee, sizeof bytes);
	uint64_t before = now_ns();
	for (unsigned i = 0; i < WRITES; i++)
		assert_int_equal(write_bytes(&pair, i * LENGTH, LENGTH), 0);
	for (unsigned i = 0; i < WRITES; i++) {
		assert_true(eventually(has_arrived(&pair, (i + 1) * LENGTH)));
		assert_true(now_ns() - before >= (i + 1) * (uint64_t)LENGTH * BYTE_NS);
	}
	/* The guest's memory takes as long. */
	before = now_ns();
	assert_int_equal(provider->write_memory(pair.primary, 0, bytes, PAIR_MEMORY), 0);
	assert_int_equal(provider->finish_memory(pair.primary, LONG_MS), 0);
	assert_true(now_ns() - before >= PAIR_MEMORY * (uint64_t)BYTE_NS);
	/* A wire that was idle has saved nothing up. */
	usleep(10000);
	uint64_t lsn = PAIR_RING;
	before = now_ns();
	assert_int_equal(write_bytes(&pair, lsn, PAIR_RING), 0);
	assert_true(eventually(provider->written(pair.primary) == lsn + PAIR_RING));
	assert_true(now_ns() - before >= PAIR_RING * (uint64_t)BYTE_NS);
	pair_close(&pair);
}

/* More at once than has a time of its own. */
static void what_is_crowded_arrives_in_order_and_not_early(void **state)
{
	(void)state;
	enum { WRITES = 12000, DELAY = 30 * MS };
	struct pair pair;
	use("rate=10G,delay=30ms");
	pair_open(&pair);
	struct ack_reader received = {.block = provider->acks(pair.primary),
		.secret = PAIR_SECRET,
		.counter = ACK_RECEIVED};
	struct ack_reader replayed = received;
	replayed.counter = ACK_REPLAYED;
	memset(bytes, 0xee, sizeof bytes);
	uint64_t last = 0;
	for (unsigned i = 0; i < WRITES; i++) {
		last = now_ns();
		assert_int_equal(write_bytes(&pair, i * 5, 5), 0);
	}
	assert_true(eventually(has_arrived(&pair, WRITES * 5)));
	assert_true(now_ns() - last >= DELAY);
	for (unsigned i = 0; i < WRITES * 5; i++)
		assert_int_equal(provider->ring(pair.standby)[i], 0xee);
	for (uint64_t i = 1; i <= WRITES; i++) {
		last = now_ns();
		assert_int_equal(provider->write_ack(pair.standby, ACK_RECEIVED, i), 0);
		if (i % 3 == 0)
			assert_int_equal(provider->write_ack(pair.standby, ACK_REPLAYED, i), 0);
	}
	assert_true(eventually(ack_read(&received, UINT64_MAX) == WRITES));
	assert_true(now_ns() - last >= DELAY);
	assert_true(eventually(ack_read(&replayed, UINT64_MAX) == WRITES));
	pair_close(&pair);
}

static void what_is_on_the_way_at_the_fence_is_lost(void **state)
{
	(void)state;
	struct pair pair;
	use("delay=5ms");
	pair_open(&pair);
	memset(bytes, 0xee, sizeof bytes);
	assert_int_equal(write_bytes(&pair, 0, 100), 0);
	provider->fence(pair.primary);
	usleep(10000);
	assert_false(has_arrived(&pair, 100));
	assert_int_equal(write_bytes(&pair, 100, 100), -ECONNRESET);
	pair_close(&pair);
}

/* Whoever writes on although nothing has left is told to wait, and is not believed to have room. */
static void what_has_no_room_is_not_taken(void **state)
{
	(void)state;
	struct pair pair;
	use("delay=50ms");
	pair_open(&pair);
	memset(bytes, 0xee, sizeof bytes);
	assert_int_equal(write_bytes(&pair, 0, PAIR_RING), 0);
	assert_int_equal(write_bytes(&pair, PAIR_RING, 8), -EAGAIN);
	assert_true(eventually(provider->written(pair.primary) == PAIR_RING));
	assert_int_equal(write_bytes(&pair, PAIR_RING, 8), 0);
	pair_close(&pair);
}

static void *fence_soon(void *argument)
{
	usleep(2000);
	provider->fence(argument);
	return NULL;
}

static void a_fence_ends_the_wait_for_the_wire(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	/* This takes hours. */
	use("rate=1K");
	pair_connect(&pair);
	pthread_create(&thread, NULL, fence_soon, pair.primary);
	assert_int_equal(provider->send(pair.primary, bytes, sizeof bytes), -ECONNRESET);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(impossible_addresses_are_refused),
		TEST(both_units_and_both_orders_are_read),
		TEST(nothing_arrives_before_its_delay),
		TEST(nothing_is_faster_than_the_rate),
		TEST(what_is_crowded_arrives_in_order_and_not_early),
		TEST(what_is_on_the_way_at_the_fence_is_lost),
		TEST(what_has_no_room_is_not_taken),
		TEST(a_fence_ends_the_wait_for_the_wire),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

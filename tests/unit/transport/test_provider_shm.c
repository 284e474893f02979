#include "pair.h"

#include "transport/ack.h"
#include "transport/log_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

static const struct provider *const shm = &provider_shm;
static uint8_t payload[LOG_PAYLOAD_MAX];
static uint8_t message[MESSAGE_MAX], answer[MESSAGE_MAX];

static void a_provider_is_found_by_its_scheme(void **state)
{
	(void)state;
	const struct provider *found;
	const char *where;
	assert_int_equal(provider_find("shm:vm1", &found, &where), 0);
	assert_ptr_equal(found, &provider_shm);
	assert_string_equal(where, "vm1");
	static const char *const unknown[] = {
		"shm", "sh:x", "shmem:x", "", ":", "rdma:host:1", "vm1"};
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
		assert_int_equal(provider_find(unknown[i], &found, &where), -EINVAL);
		assert_non_null(strstr(fail_message(), "shm:"));
	}
}

static void a_name_has_one_listener_at_a_time(void **state)
{
	(void)state;
	struct listener *first, *second;
	char expected[64];
	assert_int_equal(shm->listen(pair_name(), &first), 0);
	assert_int_equal(shm->listen(pair_name(), &second), -EADDRINUSE);
	snprintf(expected, sizeof expected, "address shm:%s is in use", pair_name());
	assert_non_null(strstr(fail_message(), expected));
	shm->listener_close(first);
	assert_int_equal(shm->listen(pair_name(), &second), 0);
	shm->listener_close(second);
}

static void impossible_names_are_refused(void **state)
{
	(void)state;
	char longest[65 + 1];
	memset(longest, 'x', sizeof longest);
	longest[65] = 0;
	const char *names[] = {"", "a/b", "a b", "a:b", "\xc3\xa4", longest};
	struct listener *listener;
	struct connection *c;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		assert_int_equal(shm->listen(names[i], &listener), -EINVAL);
		assert_int_equal(shm->connect(names[i], 0, &c), -EINVAL);
	}
	longest[64] = 0;
	assert_int_equal(shm->listen(longest, &listener), 0);
	shm->listener_close(listener);
}

static void where_nobody_listens_nobody_is_connected(void **state)
{
	(void)state;
	struct connection *c;
	assert_int_equal(shm->connect(pair_name(), LONG_MS, &c), -ECONNREFUSED);
	assert_non_null(strstr(fail_message(), pair_name()));
}

static void accept_takes_only_those_who_wait(void **state)
{
	(void)state;
	struct listener *listener;
	struct connection *primary, *standby;
	assert_int_equal(shm->listen(pair_name(), &listener), 0);
	struct pollfd pollfd = {.fd = shm->listener_fd(listener), .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(shm->accept(listener, &standby), -EAGAIN);
	assert_int_equal(shm->connect(pair_name(), LONG_MS, &primary), 0);
	assert_int_equal(poll(&pollfd, 1, 0), 1);
	assert_int_equal(shm->accept(listener, &standby), 0);
	assert_int_equal(shm->accept(listener, &standby), -EAGAIN);
	shm->close(standby);
	shm->close(primary);
	shm->listener_close(listener);
}

static void a_standby_that_accepts_nobody_costs_no_more_than_the_timeout(void **state)
{
	(void)state;
	struct listener *listener;
	struct connection *waiting[64];
	unsigned count = 0;
	int error;
	assert_int_equal(shm->listen(pair_name(), &listener), 0);
	while ((error = shm->connect(pair_name(), 1, &waiting[count])) == 0)
		assert_true(++count < 64);
	assert_int_equal(error, -ETIMEDOUT);
	while (count > 0)
		shm->close(waiting[--count]);
	shm->listener_close(listener);
}

static void only_the_same_user_or_root_is_admitted(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		printf("skip: becoming another user needs root\n");
		skip();
	}
	struct listener *listener;
	struct connection *c;
	assert_int_equal(shm->listen(pair_name(), &listener), 0);
	char name[32];
	strcpy(name, pair_name());
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		char other[40];
		struct listener *ours;
		struct connection *primary;
		REQUIRE(setuid(65534) == 0);
		/* Root is admitted as a standby. */
		REQUIRE(shm->connect(name, LONG_MS, &primary) == 0);
		snprintf(other, sizeof other, "%s-other", name);
		REQUIRE(shm->listen(other, &ours) == 0);
		REQUIRE(write(ready[1], "x", 1) == 1);
		size_t length;
		REQUIRE(shm->recv(primary, message, sizeof message, &length, LONG_MS) ==
			-ECONNRESET);
		_exit(0);
	}
	char byte;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	char other[40];
	snprintf(other, sizeof other, "%s-other", name);
	/* Another user has taken the name: no root's guest is for them. */
	assert_int_equal(shm->connect(other, LONG_MS, &c), -EACCES);
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
	dup2(null, STDERR_FILENO);
	assert_int_equal(shm->accept(listener, &c), -EAGAIN);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	assert_exits_with_0(child);
	close(ready[0]);
	close(ready[1]);
	shm->listener_close(listener);
}

static void *echo(void *argument)
{
	struct connection *c = argument;
	size_t length;
	while (shm->recv(c, answer, sizeof answer, &length, LONG_MS) == 0) {
		if (shm->send(c, answer, length) != 0)
			break;
	}
	return NULL;
}

static void messages_of_all_sizes_arrive_whole_and_in_order(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	pthread_t thread;
	pthread_create(&thread, NULL, echo, pair.standby);
	static uint8_t back[MESSAGE_MAX];
	static const size_t sizes[] = {
		0, 1, 7, 8, 9, 4096, 65536, 200000, MESSAGE_MAX - 1, MESSAGE_MAX};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		size_t length = 99;
		fill_random(message, sizes[i], i);
		assert_int_equal(shm->send(pair.primary, message, sizes[i]), 0);
		assert_int_equal(shm->recv(pair.primary, back, sizeof back, &length, LONG_MS), 0);
		assert_int_equal(length, sizes[i]);
		assert_memory_equal(back, message, length);
	}
	assert_int_equal(shm->send(pair.primary, message, MESSAGE_MAX + 1), -EMSGSIZE);
	shm->fence(pair.primary);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

static void recv_waits_no_longer_than_it_is_told(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pair_connect(&pair);
	assert_int_equal(shm->recv(pair.standby, answer, sizeof answer, &length, 0), -ETIMEDOUT);
	assert_int_equal(shm->recv(pair.standby, answer, sizeof answer, &length, 5), -ETIMEDOUT);
	struct pollfd pollfd = {.fd = shm->fd(pair.standby), .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(shm->send(pair.primary, "hello", 5), 0);
	assert_int_equal(poll(&pollfd, 1, 0), 1);
	/* Longer than there is room for: the message is lost, the connection is not. */
	assert_int_equal(shm->recv(pair.standby, answer, 4, &length, 0), -EMSGSIZE);
	assert_int_equal(shm->send(pair.primary, "again", 5), 0);
	assert_int_equal(shm->recv(pair.standby, answer, 5, &length, 0), 0);
	assert_int_equal(length, 5);
	assert_memory_equal(answer, "again", 5);
	pair_close(&pair);
}

static void what_was_sent_before_the_end_is_still_received(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pair_connect(&pair);
	assert_int_equal(shm->send(pair.primary, "last words", 10), 0);
	shm->close(pair.primary);
	pair.primary = NULL;
	assert_int_equal(shm->recv(pair.standby, answer, sizeof answer, &length, LONG_MS), 0);
	assert_int_equal(length, 10);
	assert_int_equal(
		shm->recv(pair.standby, answer, sizeof answer, &length, LONG_MS), -ECONNRESET);
	assert_int_equal(shm->send(pair.standby, "too late", 8), -ECONNRESET);
	pair_close(&pair);
}

static void nothing_is_shared_before_expose(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	assert_null(shm->ring(pair.standby));
	assert_null(shm->acks(pair.primary));
	assert_null(shm->bell(pair.standby));
	assert_null(shm->bell(pair.primary));
	assert_int_equal(shm->write_memory(pair.primary, 0, payload, 1), -EACCES);
	pair_close(&pair);
}

static void the_ring_is_new_and_mapped_twice(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	const uint8_t *ring = shm->ring(pair.standby);
	for (size_t i = 0; i < 2 * PAIR_RING; i++)
		assert_int_equal(ring[i], 0);
	assert_null(shm->ring(pair.primary));
	assert_null(shm->acks(pair.standby));
	/* Two pieces, laid across the ring's end. */
	fill_random(payload, 1000, 5);
	struct iovec pieces[] = {{payload, 300}, {payload + 300, 700}};
	uint64_t lsn = 9 * PAIR_RING - 500;
	assert_int_equal(shm->write_log(pair.primary, lsn, pieces, 2), 0);
	assert_int_equal(shm->written(pair.primary), lsn + 1000);
	assert_memory_equal(ring + PAIR_RING - 500, payload, 1000);
	assert_memory_equal(ring, payload + 500, 500);
	pair_close(&pair);
}

static void an_entry_can_be_read_at_every_offset_of_the_ring(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	fill_random(payload, 100, 5);
	uint8_t bytes[256];
	for (uint64_t lsn = 0; lsn < 2 * PAIR_RING; lsn += 8) {
		log_encode(bytes, PAIR_SECRET, lsn, LOG_NET_RX, 1, 2, payload, 99);
		struct iovec piece = {bytes, log_entry_size(99)};
		struct log_reader reader;
		struct log_entry entry;
		log_reader_ring(&reader, shm->ring(pair.standby), PAIR_RING, PAIR_SECRET, lsn);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
		assert_int_equal(shm->write_log(pair.primary, lsn, &piece, 1), 0);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		assert_memory_equal(entry.payload, payload, 99);
	}
	pair_close(&pair);
}

static void guest_memory_is_written_until_it_is_withdrawn(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	uint8_t *guest = mmap(NULL, PAIR_MEMORY, PROT_READ, MAP_SHARED, pair.memory, 0);
	assert_ptr_not_equal(guest, MAP_FAILED);
	fill_random(payload, 5000, 8);
	assert_int_equal(shm->write_memory(pair.primary, 123, payload, 5000), 0);
	assert_int_equal(shm->write_memory(pair.primary, PAIR_MEMORY - 1, payload, 1), 0);
	assert_int_equal(shm->finish_memory(pair.primary, LONG_MS), 0);
	assert_memory_equal(guest + 123, payload, 5000);
	assert_int_equal(guest[PAIR_MEMORY - 1], payload[0]);
	assert_int_equal(shm->write_memory(pair.primary, PAIR_MEMORY, payload, 0), 0);
	assert_int_equal(shm->write_memory(pair.primary, PAIR_MEMORY, payload, 1), -EINVAL);
	assert_int_equal(shm->write_memory(pair.primary, 1, payload, PAIR_MEMORY), -EINVAL);
	assert_int_equal(shm->write_memory(pair.primary, UINT64_MAX, payload, 2), -EINVAL);
	assert_int_equal(shm->write_memory(pair.primary, 2, payload, SIZE_MAX), -EINVAL);
	shm->withdraw_memory(pair.standby);
	shm->withdraw_memory(pair.primary);
	shm->withdraw_memory(pair.primary);
	assert_int_equal(shm->write_memory(pair.primary, 0, payload, 8), -EACCES);
	/* The log goes on. */
	struct iovec piece = {payload, 8};
	assert_int_equal(shm->write_log(pair.primary, 0, &piece, 1), 0);
	munmap(guest, PAIR_MEMORY);
	pair_close(&pair);
}

static void acks_arrive_and_ring_the_bell(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	struct ack_reader reader = {
		.block = shm->acks(pair.primary), .secret = PAIR_SECRET, .counter = ACK_REPLAYED};
	assert_int_equal(ack_read(&reader, 1000), 0);
	struct bell *bell = shm->bell(pair.primary);
	uint32_t rung = bell->rung;
	assert_int_equal(shm->write_ack(pair.standby, ACK_REPLAYED, 800), 0);
	assert_int_equal(ack_read(&reader, 1000), 800);
	assert_int_not_equal(bell->rung, rung);
	bell = shm->bell(pair.standby);
	rung = bell->rung;
	struct iovec piece = {payload, 8};
	assert_int_equal(shm->write_log(pair.primary, 0, &piece, 1), 0);
	assert_int_not_equal(bell->rung, rung);
	pair_close(&pair);
}

static void after_a_fence_nothing_leaves_and_everything_is_readable(void **state)
{
	(void)state;
	for (int who = 0; who < 2; who++) {
		struct pair pair;
		size_t length;
		pair_open(&pair);
		struct iovec piece = {payload, 64};
		assert_int_equal(shm->write_log(pair.primary, 0, &piece, 1), 0);
		assert_int_equal(shm->write_ack(pair.standby, ACK_RECEIVED, 64), 0);
		struct connection *self = who ? pair.primary : pair.standby;
		struct connection *other = who ? pair.standby : pair.primary;
		shm->fence(self);
		shm->fence(self);
		if (who) {
			assert_int_equal(shm->write_log(self, 64, &piece, 1), -ECONNRESET);
			assert_int_equal(shm->write_memory(self, 0, payload, 8), -ECONNRESET);
			assert_int_equal(shm->finish_memory(self, LONG_MS), -ECONNRESET);
		} else {
			assert_int_equal(shm->write_ack(self, ACK_RECEIVED, 128), -ECONNRESET);
		}
		assert_int_equal(shm->send(self, "x", 1), -ECONNRESET);
		assert_int_equal(shm->recv(self, answer, 1, &length, LONG_MS), -ECONNRESET);
		/* The other side sees it, and its log thread learns of it, too. */
		struct pollfd pollfd = {.fd = shm->fd(other), .events = POLLIN};
		assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
		assert_int_equal(shm->recv(other, answer, 1, &length, LONG_MS), -ECONNRESET);
		if (who)
			assert_int_equal(shm->write_ack(other, ACK_RECEIVED, 128), -ECONNRESET);
		else
			assert_int_equal(shm->write_log(other, 64, &piece, 1), -ECONNRESET);
		assert_memory_equal(shm->ring(pair.standby), payload, 64);
		struct ack_reader reader = {.block = shm->acks(pair.primary),
			.secret = PAIR_SECRET,
			.counter = ACK_RECEIVED};
		assert_int_equal(ack_read(&reader, 1000), 64);
		pair_close(&pair);
	}
}

struct hammer {
	struct connection *c;
	_Atomic uint64_t done;
	uint64_t after;
};

static void *hammer_acks(void *argument)
{
	struct hammer *hammer = argument;
	uint64_t value = 8;
	for (; shm->write_ack(hammer->c, ACK_RECEIVED, value) == 0; value += 8)
		atomic_store(&hammer->done, value);
	for (int i = 0; i < 1000; i++, value += 8)
		hammer->after += shm->write_ack(hammer->c, ACK_RECEIVED, value) == 0;
	return NULL;
}

static void no_ack_arrives_after_the_fence(void **state)
{
	(void)state;
	for (int round = 0; round < 100; round++) {
		struct pair pair;
		pair_open(&pair);
		struct hammer hammer = {.c = pair.standby};
		pthread_t thread;
		pthread_create(&thread, NULL, hammer_acks, &hammer);
		while (atomic_load(&hammer.done) < 8u * (unsigned)(1 + round * 7 % 50))
			sched_yield();
		shm->fence(pair.standby);
		struct ack_reader reader = {.block = shm->acks(pair.primary),
			.secret = PAIR_SECRET,
			.counter = ACK_RECEIVED};
		uint64_t at_fence = ack_read(&reader, UINT64_MAX);
		uint64_t value = reader.block->cell[ACK_RECEIVED].value;
		uint32_t rung = reader.block->bell.rung;
		pthread_join(thread, NULL);
		assert_int_equal(hammer.after, 0);
		/* Not only is no new value taken: not a word has changed. */
		assert_int_equal(ack_read(&reader, UINT64_MAX), at_fence);
		assert_int_equal(reader.block->cell[ACK_RECEIVED].value, value);
		assert_int_equal(reader.block->bell.rung, rung);
		assert_int_equal(at_fence, value);
		pair_close(&pair);
	}
}

static void *fence_it(void *argument)
{
	shm->fence(argument);
	return NULL;
}

static void a_fence_wakes_who_waits_for_a_message(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pair_connect(&pair);
	pthread_t thread;
	pthread_create(&thread, NULL, fence_it, pair.standby);
	assert_int_equal(shm->recv(pair.standby, answer, 1, &length, LONG_MS), -ECONNRESET);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

static void a_guest_memory_that_could_shrink_is_not_exposed(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(unsealed, PAIR_MEMORY), 0);
	assert_int_equal(
		shm->expose(pair.standby, PAIR_RING, unsealed, PAIR_MEMORY, PAIR_SECRET), -EPROTO);
	close(unsealed);
	assert_int_equal(
		shm->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY + 1, PAIR_SECRET),
		-EPROTO);
	assert_int_equal(
		shm->expose(pair.standby, PAIR_RING + 4096, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-EINVAL);
	assert_int_equal(shm->attach(pair.primary, 32768, PAIR_MEMORY, PAIR_SECRET), -EINVAL);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(a_provider_is_found_by_its_scheme),
		TEST(a_name_has_one_listener_at_a_time),
		TEST(impossible_names_are_refused),
		TEST(where_nobody_listens_nobody_is_connected),
		TEST(accept_takes_only_those_who_wait),
		TEST(a_standby_that_accepts_nobody_costs_no_more_than_the_timeout),
		TEST(only_the_same_user_or_root_is_admitted),
		TEST(messages_of_all_sizes_arrive_whole_and_in_order),
		TEST(recv_waits_no_longer_than_it_is_told),
		TEST(what_was_sent_before_the_end_is_still_received),
		TEST(nothing_is_shared_before_expose),
		TEST(the_ring_is_new_and_mapped_twice),
		TEST(an_entry_can_be_read_at_every_offset_of_the_ring),
		TEST(guest_memory_is_written_until_it_is_withdrawn),
		TEST(acks_arrive_and_ring_the_bell),
		TEST(after_a_fence_nothing_leaves_and_everything_is_readable),
		TEST(no_ack_arrives_after_the_fence),
		TEST(a_fence_wakes_who_waits_for_a_message),
		TEST(a_guest_memory_that_could_shrink_is_not_exposed),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

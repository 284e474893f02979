/* Two processes over shm: a long stream, and either one's death at any moment. */
#include "pair.h"

#include "base/idle.h"
#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"

#include <errno.h>
#include <poll.h>
#include <sys/prctl.h>
#include <time.h>

#define ENTRIES 100000u
#define START (5u * PAIR_RING + 8)
#define LONG_NS (LONG_MS * 1000000ull)

static const struct provider *const shm = &provider_shm;
static uint8_t noise[65536];

/* Lengths and bytes follow from the entry's number: mostly small, now and then close to the ring's.
 */
static uint32_t entry_length(uint64_t number)
{
	uint64_t word = mix64(number);
	if (word % 512 == 0)
		return 14 + (uint32_t)(word >> 32) % 40000;
	return 14 + (uint32_t)(word >> 32) % (word % 16 == 0 ? 1500 : 200);
}

static const uint8_t *entry_bytes(uint64_t number)
{
	return noise + mix64(~number) % 4096;
}

/* What one end and its idle loop share. A sleep that lasts to its end means a lost wake-up. */
static void rest(struct idle *idle)
{
	uint64_t before = now_ns();
	idle_pause(idle);
	REQUIRE(now_ns() - before < LONG_NS);
}

struct sender {
	struct connection *c;
	struct ack_reader consumed;
};

static int sender_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	return shm->write_log(((struct sender *)context)->c, lsn, pieces, count);
}

static uint64_t sender_written(void *context)
{
	return shm->written(((struct sender *)context)->c);
}

static uint64_t sender_consumed(void *context, uint64_t head)
{
	return ack_read(&((struct sender *)context)->consumed, head);
}

static const struct log_sink sender_sink = {
	.write = sender_write, .written = sender_written, .consumed = sender_consumed};

/* Sends entries until there are no more or the connection ends; returns how many were appended. */
static uint64_t stream(struct connection *c, uint64_t entries)
{
	struct sender sender = {.c = c,
		.consumed = {.block = shm->acks(c),
			.secret = PAIR_SECRET,
			.counter = ACK_CONSUMED,
			.last = START}};
	struct ack_reader received = sender.consumed;
	received.counter = ACK_RECEIVED;
	struct log_writer *writer;
	struct idle idle = {.bell = shm->bell(c), .longest_ns = LONG_NS};
	REQUIRE(log_writer_create(&writer, &sender_sink, &sender, PAIR_RING, PAIR_SECRET, START) ==
		0);
	uint64_t number = 0;
	int error = 0;
	while (!error && (number < entries || ack_read(&received, log_writer_flushed(writer)) <
						      log_writer_head(writer))) {
		idle_watch(&idle);
		/* The bell rings for acks alone; a death is told by the socket. */
		struct pollfd pollfd = {.fd = shm->fd(c), .events = POLLIN};
		char byte;
		size_t length;
		if (number % 64 == 0 && poll(&pollfd, 1, 0) > 0)
			error = shm->recv(c, &byte, 1, &length, 0);
		int appended = number == entries
				       ? -EAGAIN
				       : log_writer_append(writer, LOG_NET_RX, number, 0,
						 entry_bytes(number), entry_length(number), NULL);
		if (appended == 0) {
			number++;
			idle_busy(&idle);
		}
		if (!error && (appended || mix64(number) % 8 == 0))
			error = log_writer_flush(writer);
		if (!error && appended) {
			REQUIRE(appended == -EAGAIN);
			uint64_t taken = ack_read(&received, log_writer_flushed(writer));
			if (number < entries || taken < log_writer_head(writer)) {
				idle.longest_ns = entries == UINT64_MAX ? 1000000 : LONG_NS;
				rest(&idle);
			}
			if (entries == UINT64_MAX && poll(&pollfd, 1, 0) > 0)
				error = shm->recv(c, &byte, 1, &length, 0);
		}
	}
	REQUIRE(!error || error == -ECONNRESET);
	log_writer_destroy(writer);
	return number;
}

/* Receives entries and checks each, until `entries` have come or the connection has ended and
 * nothing valid is left. Returns how many came. */
static uint64_t follow(struct connection *c, uint64_t entries)
{
	struct log_reader reader;
	log_reader_ring(&reader, shm->ring(c), PAIR_RING, PAIR_SECRET, START);
	struct idle idle = {
		.bell = shm->bell(c), .longest_ns = entries == UINT64_MAX ? 1000000 : LONG_NS};
	uint64_t number = 0, acked = START;
	bool gone = false;
	while (number < entries) {
		struct log_entry entry;
		idle_watch(&idle);
		enum log_verdict verdict = log_reader_peek(&reader, &entry);
		if (verdict == LOG_VALID) {
			/* L1, L2: the very entry that was sent, and none left out. */
			REQUIRE(entry.position == number);
			REQUIRE(entry.length == entry_length(number));
			REQUIRE(memcmp(entry.payload, entry_bytes(number), entry.length) == 0);
			log_reader_take(&reader, &entry);
			number++;
			idle_busy(&idle);
		}
		if (acked != reader.next && (verdict != LOG_VALID || mix64(number) % 16 == 0)) {
			acked = reader.next;
			int error = shm->write_ack(c, ACK_RECEIVED, acked);
			if (!error)
				error = shm->write_ack(c, ACK_CONSUMED, acked);
			REQUIRE(!error || error == -ECONNRESET);
			continue;
		}
		if (verdict == LOG_VALID)
			continue;
		if (gone)
			break;
		struct pollfd pollfd = {.fd = shm->fd(c), .events = POLLIN};
		char byte;
		size_t length;
		if (entries == UINT64_MAX && poll(&pollfd, 1, 0) > 0) {
			REQUIRE(shm->recv(c, &byte, 1, &length, 0) == -ECONNRESET);
			/* Fenced by that; what was placed before is still looked at. */
			gone = true;
			continue;
		}
		rest(&idle);
	}
	if (entries != UINT64_MAX) {
		REQUIRE(shm->write_ack(c, ACK_CONSUMED, reader.next) == 0);
		REQUIRE(shm->write_ack(c, ACK_RECEIVED, reader.next) == 0);
	}
	return number;
}

static struct connection *open_primary(const char *name)
{
	struct connection *c;
	/* Never outlives the test. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	REQUIRE(shm->connect(name, LONG_MS, &c) == 0);
	REQUIRE(shm->attach(c, PAIR_RING, PAIR_MEMORY, PAIR_SECRET) == 0);
	return c;
}

static struct connection *open_standby(struct listener *listener)
{
	struct connection *c;
	struct pollfd pollfd = {.fd = shm->listener_fd(listener), .events = POLLIN};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	REQUIRE(poll(&pollfd, 1, (int)LONG_MS) == 1);
	REQUIRE(shm->accept(listener, &c) == 0);
	int memory = memfd_make("test guest", PAIR_MEMORY);
	REQUIRE(memory >= 0);
	REQUIRE(shm->expose(c, PAIR_RING, memory, PAIR_MEMORY, PAIR_SECRET) == 0);
	close(memory);
	return c;
}

static int set_up(void **state)
{
	(void)state;
	fill_random(noise, sizeof noise, 77);
	/* Sleep early: it is the bells that are tested. */
	idle_configure(4, 1);
	return 0;
}

static void a_long_stream_arrives_entry_by_entry(void **state)
{
	(void)state;
	struct listener *listener;
	const char *name = pair_name();
	assert_int_equal(shm->listen(name, &listener), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct connection *c = open_primary(name);
		REQUIRE(stream(c, ENTRIES) == ENTRIES);
		shm->close(c);
		_exit(0);
	}
	struct connection *c = open_standby(listener);
	assert_int_equal(follow(c, ENTRIES), ENTRIES);
	assert_exits_with_0(child);
	shm->close(c);
	shm->listener_close(listener);
}

/* Waits a random short while and kills; the waiting is no condition of the test. */
static void kill_at_some_moment(pid_t child, uint64_t *random)
{
	uint64_t ns = next_random(random) % 4000000;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
	kill(child, SIGKILL);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

struct survivor {
	struct connection *c;
	uint64_t count;
};

static void *survive_as_standby(void *argument)
{
	struct survivor *survivor = argument;
	survivor->count = follow(survivor->c, UINT64_MAX);
	return NULL;
}

static void *survive_as_primary(void *argument)
{
	struct survivor *survivor = argument;
	survivor->count = stream(survivor->c, UINT64_MAX);
	return NULL;
}

static void a_primary_killed_at_any_moment_leaves_a_valid_prefix(void **state)
{
	(void)state;
	uint64_t random = (uint64_t)getpid() * 2 + 1, total = 0;
	for (int round = 0; round < 24; round++) {
		struct listener *listener;
		const char *name = pair_name();
		assert_int_equal(shm->listen(name, &listener), 0);
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			shm->listener_close(listener);
			stream(open_primary(name), UINT64_MAX);
			_exit(1);
		}
		struct survivor survivor = {.c = open_standby(listener)};
		pthread_t thread;
		pthread_create(&thread, NULL, survive_as_standby, &survivor);
		kill_at_some_moment(child, &random);
		pthread_join(thread, NULL);
		total += survivor.count;
		assert_int_equal(shm->write_ack(survivor.c, ACK_RECEIVED, 1u << 30), -ECONNRESET);
		shm->close(survivor.c);
		shm->listener_close(listener);
	}
	assert_true(total > 0);
}

static void a_standby_killed_at_any_moment_is_noticed(void **state)
{
	(void)state;
	uint64_t random = (uint64_t)getpid() * 2 + 1, total = 0;
	for (int round = 0; round < 24; round++) {
		struct listener *listener;
		const char *name = pair_name();
		assert_int_equal(shm->listen(name, &listener), 0);
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			follow(open_standby(listener), UINT64_MAX);
			_exit(1);
		}
		/* The name goes with the child. */
		shm->listener_close(listener);
		struct survivor survivor = {.c = open_primary(name)};
		pthread_t thread;
		pthread_create(&thread, NULL, survive_as_primary, &survivor);
		kill_at_some_moment(child, &random);
		pthread_join(thread, NULL);
		total += survivor.count;
		struct iovec piece = {noise, 64};
		assert_int_equal(shm->write_log(survivor.c, START, &piece, 1), -ECONNRESET);
		shm->close(survivor.c);
		assert_int_equal(shm->listen(name, &listener), 0);
		shm->listener_close(listener);
	}
	assert_true(total > 0);
}

/* Death while connecting, exposing and attaching. */
static void a_peer_killed_while_meeting_is_noticed(void **state)
{
	(void)state;
	uint64_t random = (uint64_t)getpid() * 2 + 1;
	for (int round = 0; round < 24; round++) {
		struct listener *listener;
		const char *name = pair_name();
		assert_int_equal(shm->listen(name, &listener), 0);
		int memory = memfd_make("test guest", PAIR_MEMORY);
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			struct connection *c = open_primary(name);
			size_t length;
			(void)!shm->recv(c, noise, 1, &length, LONG_MS);
			_exit(1);
		}
		struct connection *c = NULL;
		struct pollfd pollfd = {.fd = shm->listener_fd(listener), .events = POLLIN};
		assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
		assert_int_equal(shm->accept(listener, &c), 0);
		if (next_random(&random) % 2)
			kill(child, SIGKILL);
		int error = shm->expose(c, PAIR_RING, memory, PAIR_MEMORY, PAIR_SECRET);
		assert_true(error == 0 || error == -ECONNRESET);
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, NULL, 0), child);
		size_t length;
		assert_int_equal(shm->recv(c, noise + 65535, 1, &length, LONG_MS), -ECONNRESET);
		shm->close(c);
		shm->listener_close(listener);
		close(memory);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_long_stream_arrives_entry_by_entry),
		cmocka_unit_test(a_primary_killed_at_any_moment_leaves_a_valid_prefix),
		cmocka_unit_test(a_standby_killed_at_any_moment_is_noticed),
		cmocka_unit_test(a_peer_killed_while_meeting_is_noticed),
	};
	return !!cmocka_run_group_tests(tests, set_up, NULL);
}

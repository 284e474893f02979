/* Two processes over every provider (pair.h): a long stream, and the death of either at any moment.
 */
#include "pair.h"

#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define ENTRIES 100000u
#define ENDLESS UINT64_MAX
#define START (5u * PAIR_RING + 8)
#define LONG_NS (LONG_MS * 1000000ull)

static uint8_t noise[65536];

/* Lengths and bytes follow from the entry's number: mostly small, now and then close to the ring's.
 */
static uint32_t entry_length(uint64_t number)
{
	uint64_t word = mix64(number);
	if (word % 512 == 0)
		return 26 + (uint32_t)(word >> 32) % 40000;
	return 26 + (uint32_t)(word >> 32) % (word % 16 == 0 ? 1500 : 200);
}

static const uint8_t *entry_bytes(uint64_t number)
{
	return noise + mix64(~number) % 4096;
}

/* A sleep that lasts to its end means a lost wake-up. */
static void rest(struct idle *idle)
{
	uint64_t before = now_ns();
	idle_pause(idle);
	REQUIRE(now_ns() - before < LONG_NS);
}

/* Whether the peer is gone. The bells ring for log and acks alone; a death is told by the fd, where
 * there is one. */
static bool has_ended(struct connection *c)
{
	struct pollfd pollfd = {.fd = provider->fd(c), .events = POLLIN};
	char byte;
	size_t length;
	if (pollfd.fd >= 0 && poll(&pollfd, 1, 0) == 0)
		return false;
	int error = provider->recv(c, &byte, 1, &length, 0);
	REQUIRE(error == -ECONNRESET || error == -ETIMEDOUT);
	return error == -ECONNRESET;
}

struct sender {
	struct connection *c;
	struct ack_reader consumed;
};

static int sender_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	return provider->write_log(((struct sender *)context)->c, lsn, pieces, count);
}

static uint64_t sender_written(void *context)
{
	return provider->written(((struct sender *)context)->c);
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
		.consumed = {.block = provider->acks(c),
			.secret = PAIR_SECRET,
			.counter = ACK_CONSUMED,
			.last = START}};
	struct ack_reader received = sender.consumed;
	received.counter = ACK_RECEIVED;
	struct log_writer *writer;
	struct idle idle = {.bell = provider->bell(c)};
	void *staging;
	size_t size;
	REQUIRE(log_writer_create(&writer, &sender_sink, &sender, PAIR_RING, PAIR_SECRET, START) ==
		0);
	log_writer_staging(writer, &staging, &size);
	int error = provider->register_source(c, staging, size);
	REQUIRE(error == 0 || error == -ECONNRESET);
	uint64_t number = 0;
	while (!error && (number < entries || ack_read(&received, log_writer_flushed(writer)) <
						      log_writer_head(writer))) {
		idle_watch(&idle);
		if (number % 64 == 0 && has_ended(c))
			error = -ECONNRESET;
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
				/* No bell is promised for writes that finish, only for acks. */
				bool is_for_acks =
					provider->written(c) == log_writer_flushed(writer);
				idle.longest_ns =
					entries == ENDLESS || !is_for_acks ? 1000000 : LONG_NS;
				rest(&idle);
			}
			if (entries == ENDLESS && has_ended(c))
				error = -ECONNRESET;
		}
	}
	REQUIRE(!error || error == -ECONNRESET);
	/* Every write is reported as finished. */
	REQUIRE(error || eventually(provider->written(c) == log_writer_head(writer)));
	log_writer_destroy(writer);
	return number;
}

/* Receives entries and checks each, until `entries` have come or the connection has ended and
 * nothing valid is left. Returns how many came. */
static uint64_t follow(struct connection *c, uint64_t entries)
{
	struct log_reader reader;
	log_reader_ring(&reader, provider->ring(c), PAIR_RING, PAIR_SECRET, START);
	struct idle idle = {
		.bell = provider->bell(c), .longest_ns = entries == ENDLESS ? 1000000 : LONG_NS};
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
			int error = provider->write_ack(c, ACK_RECEIVED, acked);
			if (!error)
				error = provider->write_ack(c, ACK_CONSUMED, acked);
			REQUIRE(!error || error == -ECONNRESET);
			continue;
		}
		if (verdict == LOG_VALID)
			continue;
		if (gone)
			break;
		if (entries == ENDLESS && has_ended(c)) {
			/* What was placed before is still looked at. */
			gone = true;
			continue;
		}
		rest(&idle);
	}
	/* When it has heard of the last entry, the primary leaves, maybe before we know that we told it. */
	if (entries != ENDLESS && acked != reader.next) {
		REQUIRE(provider->write_ack(c, ACK_CONSUMED, reader.next) == 0);
		int error = provider->write_ack(c, ACK_RECEIVED, reader.next);
		REQUIRE(!error || error == -ECONNRESET);
	}
	return number;
}

/* Whoever waits there may not have begun to. */
static struct connection *dial(void)
{
	struct connection *c;
	uint64_t until = now_ns() + LONG_NS;
	int error;
	while ((error = provider->connect(where, LONG_MS, &c)) == -ECONNREFUSED && now_ns() < until)
		usleep(200);
	REQUIRE(error == 0);
	return c;
}

static struct connection *open_primary(void)
{
	struct connection *c = dial();
	REQUIRE(provider->attach(c, PAIR_RING, PAIR_MEMORY, PAIR_SECRET) == 0);
	return c;
}

static int expose(struct connection *c)
{
	int memory = memfd_make("test guest", PAIR_MEMORY);
	REQUIRE(memory >= 0);
	int error = provider->expose(c, PAIR_RING, memory, PAIR_MEMORY, PAIR_SECRET);
	close(memory);
	return error;
}

static struct connection *take(struct listener *listener)
{
	struct connection *c = pair_accept(listener);
	REQUIRE(c);
	return c;
}

static struct listener *listen_there(void)
{
	struct listener *listener;
	REQUIRE(provider->listen(where, &listener) == 0);
	return listener;
}

static struct connection *open_standby(struct listener *listener)
{
	struct connection *c = take(listener);
	REQUIRE(expose(c) == 0);
	return c;
}

/* ---- Processes ---- */

/* Forks; what the child does is `function`, and it never outlives us. An RDMA device is of no use to
 * a process whose parent has opened it: both ends begin before either has met the provider. */
static pid_t begin(void (*function)(int number), int number)
{
	pid_t child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		function(number);
		_exit(0);
	}
	return child;
}

/* Runs `function`, which is to be one end and to begin the other, in a process that is new. */
static void in_a_new_process(void (*function)(int number), int number)
{
	assert_exits_with_0(begin(function, number));
}

static void require_was_killed(pid_t child)
{
	int status;
	REQUIRE(waitpid(child, &status, 0) == child);
	REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Waits a random short while and kills; the waiting is no condition of the test. */
static void kill_at_some_moment(pid_t child, int round)
{
	uint64_t random = (uint64_t)getpid() * 64 + (uint64_t)round + 1;
	(void)next_random(&random);
	uint64_t ns = next_random(&random) % 4000000;
	nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
	kill(child, SIGKILL);
	require_was_killed(child);
}

static uint64_t *total; /* of the entries that rounds have seen; shared by all processes */

static int set_up(void **state)
{
	(void)state;
	fill_random(noise, sizeof noise, 77);
	/* Sleep early: it is the bells that are tested. */
	idle_configure(4, 1);
	total = mmap(
		NULL, sizeof *total, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return total == MAP_FAILED ? -1 : 0;
}

static int tear_down(void **state)
{
	(void)state;
	return munmap(total, sizeof *total);
}

/* ---- A long life ---- */

static void stream_to_the_end(int unused)
{
	(void)unused;
	struct connection *c = open_primary();
	REQUIRE(stream(c, ENTRIES) == ENTRIES);
	provider->close(c);
}

static void follow_to_the_end(int unused)
{
	(void)unused;
	int status;
	pid_t child = begin(stream_to_the_end, 0);
	struct listener *listener = listen_there();
	struct connection *c = open_standby(listener);
	REQUIRE(follow(c, ENTRIES) == ENTRIES);
	REQUIRE(waitpid(child, &status, 0) == child && status == 0);
	provider->close(c);
	provider->listener_close(listener);
}

static void a_long_stream_arrives_entry_by_entry(void **state)
{
	(void)state;
	in_a_new_process(follow_to_the_end, 0);
}

/* ---- Death at any moment ---- */

struct survivor {
	struct connection *c;
	uint64_t count;
};

static void *survive_as_standby(void *argument)
{
	struct survivor *survivor = argument;
	survivor->count = follow(survivor->c, ENDLESS);
	return NULL;
}

static void *survive_as_primary(void *argument)
{
	struct survivor *survivor = argument;
	survivor->count = stream(survivor->c, ENDLESS);
	return NULL;
}

static void stream_without_end(int unused)
{
	(void)unused;
	stream(open_primary(), ENDLESS);
}

static void outlive_a_primary(int round)
{
	pthread_t thread;
	pid_t child = begin(stream_without_end, 0);
	struct listener *listener = listen_there();
	struct survivor survivor = {.c = open_standby(listener)};
	pthread_create(&thread, NULL, survive_as_standby, &survivor);
	kill_at_some_moment(child, round);
	pthread_join(thread, NULL);
	*total += survivor.count;
	REQUIRE(provider->write_ack(survivor.c, ACK_RECEIVED, 1u << 30) == -ECONNRESET);
	provider->close(survivor.c);
	provider->listener_close(listener);
}

static void a_primary_killed_at_any_moment_leaves_a_valid_prefix(void **state)
{
	(void)state;
	*total = 0;
	for (int round = 0; round < 24; round++)
		in_a_new_process(outlive_a_primary, round);
	assert_true(*total > 0);
}

static void follow_without_end(int unused)
{
	(void)unused;
	follow(open_standby(listen_there()), ENDLESS);
}

static void outlive_a_standby(int round)
{
	pthread_t thread;
	struct iovec piece = {noise, 64};
	pid_t child = begin(follow_without_end, 0);
	struct survivor survivor = {.c = open_primary()};
	pthread_create(&thread, NULL, survive_as_primary, &survivor);
	kill_at_some_moment(child, round);
	pthread_join(thread, NULL);
	*total += survivor.count;
	REQUIRE(provider->write_log(survivor.c, START, &piece, 1) == -ECONNRESET);
	provider->close(survivor.c);
	/* The name has gone with the child. */
	provider->listener_close(listen_there());
}

static void a_standby_killed_at_any_moment_is_noticed(void **state)
{
	(void)state;
	*total = 0;
	for (int round = 0; round < 24; round++)
		in_a_new_process(outlive_a_standby, round);
	assert_true(*total > 0);
}

/* ---- The death of either between any two of its steps ---- */

static void die_at(int step, int *now)
{
	if ((*now)++ == step)
		kill(getpid(), SIGKILL);
}

#define STEPS 9

/* One source for all writes; what is written is of no interest here. */
static void write_some(struct connection *c, uint64_t lsn, size_t length)
{
	struct iovec piece = {noise, length};
	int error = provider->write_log(c, lsn, &piece, 1);
	REQUIRE(error == 0 || error == -ECONNRESET);
}

static void die_as_primary(int step)
{
	int now = 0;
	uint64_t length;
	struct connection *c = dial();
	die_at(step, &now);
	(void)!provider->send(c, noise, 60000);
	die_at(step, &now);
	(void)!provider->recv(c, noise, sizeof noise, &length, LONG_MS);
	die_at(step, &now);
	(void)!provider->attach(c, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	die_at(step, &now);
	(void)!provider->write_memory(c, 0, noise, 30000);
	die_at(step, &now);
	(void)!provider->finish_memory(c, LONG_MS);
	die_at(step, &now);
	provider->withdraw_memory(c);
	(void)!provider->register_source(c, noise, sizeof noise);
	write_some(c, START, 1000);
	die_at(step, &now);
	write_some(c, START + 1000, 40000);
	die_at(step, &now);
	provider->fence(c);
	die_at(step, &now);
}

static void die_as_standby(int step)
{
	int now = 0;
	size_t length;
	struct connection *c = take(listen_there());
	die_at(step, &now);
	(void)!provider->recv(c, noise, sizeof noise, &length, LONG_MS);
	die_at(step, &now);
	(void)!provider->send(c, noise, 1000);
	die_at(step, &now);
	(void)!expose(c);
	die_at(step, &now);
	(void)!provider->recv(c, noise, sizeof noise, &length, LONG_MS);
	die_at(step, &now);
	provider->withdraw_memory(c);
	die_at(step, &now);
	(void)!provider->write_ack(c, ACK_RECEIVED, START + 8);
	die_at(step, &now);
	(void)!provider->send(c, noise, 60000);
	die_at(step, &now);
	provider->fence(c);
	die_at(step, &now);
}

static void require_done_or_gone(int error)
{
	REQUIRE(error == 0 || error == -ECONNRESET || error == -EMSGSIZE);
}

/* Whatever the dead one has left undone, nothing waits for it for long, and in the end all say so.
 */
static void require_gone(struct connection *c)
{
	size_t length;
	int error;
	do {
		error = provider->recv(c, noise, sizeof noise, &length, LONG_MS);
		require_done_or_gone(error);
	} while (error != -ECONNRESET);
	REQUIRE(provider->send(c, noise, 8) == -ECONNRESET);
	struct pollfd pollfd = {.fd = provider->fd(c), .events = POLLIN};
	REQUIRE(pollfd.fd < 0 || poll(&pollfd, 1, 0) == 1);
}

/* Before its third step a peer has not shared anything. From then on a network may bring the news of its death
 * before what it did last. */
static void require_outcome(int error, int step)
{
	if (step < 3)
		REQUIRE(error == -ECONNRESET);
	else if (places_at_once())
		REQUIRE(error == 0);
	else
		require_done_or_gone(error);
}

static void be_held_up_by_no_primary(int step)
{
	size_t length;
	pid_t child = begin(die_as_primary, step);
	struct listener *listener = listen_there();
	struct connection *c = take(listener);
	require_done_or_gone(provider->recv(c, noise, sizeof noise, &length, LONG_MS));
	require_done_or_gone(provider->send(c, noise, 1000));
	/* One that is dead by now, or will be before it attaches, cannot attach. */
	int error = expose(c);
	require_outcome(error, step);
	if (!error) {
		require_done_or_gone(provider->write_ack(c, ACK_BEAT, 1));
		require_gone(c);
		REQUIRE(provider->write_ack(c, ACK_BEAT, 2) == -ECONNRESET);
	} else {
		require_gone(c);
	}
	require_was_killed(child);
	provider->close(c);
	provider->listener_close(listener);
}

static void a_primary_that_dies_at_any_step_holds_nobody_up(void **state)
{
	(void)state;
	for (int step = 0; step < STEPS; step++)
		in_a_new_process(be_held_up_by_no_primary, step);
}

static void be_held_up_by_no_standby(int step)
{
	size_t length;
	struct iovec piece = {noise, 8};
	pid_t child = begin(die_as_standby, step);
	struct connection *c = dial();
	require_done_or_gone(provider->send(c, noise, 60000));
	require_done_or_gone(provider->recv(c, noise, sizeof noise, &length, LONG_MS));
	int error = provider->attach(c, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	require_outcome(error, step);
	if (!error) {
		require_done_or_gone(provider->register_source(c, noise, sizeof noise));
		require_done_or_gone(provider->write_memory(c, 0, noise, 30000));
		require_done_or_gone(provider->finish_memory(c, LONG_MS));
		provider->withdraw_memory(c);
		require_done_or_gone(provider->send(c, noise, 100));
		write_some(c, START, 1000);
		require_gone(c);
		REQUIRE(provider->write_log(c, START + 1000, &piece, 1) == -ECONNRESET);
	} else {
		require_gone(c);
	}
	require_was_killed(child);
	provider->close(c);
}

static void a_standby_that_dies_at_any_step_holds_nobody_up(void **state)
{
	(void)state;
	for (int step = 0; step < STEPS; step++)
		in_a_new_process(be_held_up_by_no_standby, step);
}

static int run(const char *group)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_long_stream_arrives_entry_by_entry),
		cmocka_unit_test(a_primary_killed_at_any_moment_leaves_a_valid_prefix),
		cmocka_unit_test(a_standby_killed_at_any_moment_is_noticed),
		cmocka_unit_test(a_primary_that_dies_at_any_step_holds_nobody_up),
		cmocka_unit_test(a_standby_that_dies_at_any_step_holds_nobody_up),
	};
	return cmocka_run_group_tests_name(group, tests, set_up, tear_down);
}

int main(int argc, char **argv)
{
	return over_each_provider(argc, argv, run);
}

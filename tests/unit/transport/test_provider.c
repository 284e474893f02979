/* What every provider owes its callers (transport.h). See pair.h for the addresses. */
#include "pair.h"

#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"

#include <errno.h>
#include <sys/mman.h>

#define START (5u * PAIR_RING + 8)

static uint8_t payload[LOG_PAYLOAD_MAX];
static uint8_t message[MESSAGE_MAX], answer[MESSAGE_MAX];
/* What write_log is given lies here, for providers that want to know it in advance. */
static uint8_t source[2 * PAIR_RING];

static void open_with_source(struct pair *pair)
{
	pair_open(pair);
	assert_int_equal(provider->register_source(pair->primary, source, sizeof source), 0);
}

static int write_source(struct pair *pair, uint64_t lsn, size_t offset, size_t length)
{
	struct iovec piece = {source + offset, length};
	return provider->write_log(pair->primary, lsn, &piece, 1);
}

static struct ack_reader reader_of(struct pair *pair, enum ack_counter counter)
{
	return (struct ack_reader){
		.block = provider->acks(pair->primary), .secret = PAIR_SECRET, .counter = counter};
}

static bool is_gone(struct connection *c)
{
	size_t length;
	return provider->recv(c, answer, sizeof answer, &length, LONG_MS) == -ECONNRESET;
}

/* ---- Meeting ---- */

static void a_provider_is_found_by_its_scheme(void **state)
{
	(void)state;
	const struct provider *found;
	const char *rest;
	assert_int_equal(provider_find("shm:vm1", &found, &rest), 0);
	assert_ptr_equal(found, &provider_shm);
	assert_string_equal(rest, "vm1");
	assert_int_equal(provider_find("tcp:[::1]:7000", &found, &rest), 0);
	assert_ptr_equal(found, &provider_tcp);
	assert_string_equal(rest, "[::1]:7000");
	static const char *const unknown[] = {
		"shm", "sh:x", "shmem:x", "", ":", "udp:host:1", "vm1"};
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
		assert_int_equal(provider_find(unknown[i], &found, &rest), -EINVAL);
		assert_non_null(strstr(fail_message(), "shm:"));
		assert_non_null(strstr(fail_message(), "tcp:"));
	}
}

static void a_place_has_one_listener_at_a_time(void **state)
{
	(void)state;
	struct listener *first, *second;
	assert_int_equal(provider->listen(where, &first), 0);
	assert_int_equal(provider->listen(where, &second), -EADDRINUSE);
	assert_non_null(strstr(fail_message(), "is in use"));
	provider->listener_close(first);
	assert_int_equal(provider->listen(where, &second), 0);
	provider->listener_close(second);
}

static void where_nobody_listens_nobody_is_connected(void **state)
{
	(void)state;
	struct connection *c;
	assert_int_equal(provider->connect(where, LONG_MS, &c), -ECONNREFUSED);
	assert_non_null(strstr(fail_message(), "no standby"));
}

static void accept_takes_only_those_who_wait(void **state)
{
	(void)state;
	struct pair pair = {.memory = -1};
	struct connection *nobody;
	pthread_t thread;
	void *failed;
	assert_int_equal(provider->listen(where, &pair.listener), 0);
	struct pollfd pollfd = {.fd = provider->listener_fd(pair.listener), .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(provider->accept(pair.listener, &nobody), -EAGAIN);
	assert_int_equal(pthread_create(&thread, NULL, pair_dial, &pair), 0);
	pair.standby = pair_accept(pair.listener);
	assert_non_null(pair.standby);
	assert_int_equal(pthread_join(thread, &failed), 0);
	assert_null(failed);
	assert_int_equal(provider->accept(pair.listener, &nobody), -EAGAIN);
	provider->close(pair.standby);
	provider->close(pair.primary);
	provider->listener_close(pair.listener);
}

static void a_standby_that_accepts_nobody_costs_no_more_than_the_timeout(void **state)
{
	(void)state;
	struct listener *listener;
	struct connection *waiting[64];
	unsigned count = 0;
	int error;
	assert_int_equal(provider->listen(where, &listener), 0);
	while ((error = provider->connect(where, 1, &waiting[count])) == 0)
		assert_true(++count < 64);
	assert_int_equal(error, -ETIMEDOUT);
	while (count > 0)
		provider->close(waiting[--count]);
	provider->listener_close(listener);
}

/* ---- Messages ---- */

static void *echo(void *argument)
{
	struct connection *c = argument;
	size_t length;
	while (provider->recv(c, answer, sizeof answer, &length, LONG_MS) == 0) {
		if (provider->send(c, answer, length) != 0)
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
		assert_int_equal(provider->send(pair.primary, message, sizes[i]), 0);
		assert_int_equal(
			provider->recv(pair.primary, back, sizeof back, &length, LONG_MS), 0);
		assert_int_equal(length, sizes[i]);
		assert_memory_equal(back, message, length);
	}
	assert_int_equal(provider->send(pair.primary, message, MESSAGE_MAX + 1), -EMSGSIZE);
	provider->fence(pair.primary);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

static void *send_many(void *argument)
{
	struct pair *pair = argument;
	for (unsigned i = 0; i < 200; i++) {
		size_t size = 4 + i * 997 % 100000;
		memcpy(message, &i, sizeof i);
		if (provider->send(pair->primary, message, size) < 0)
			return argument;
	}
	return NULL;
}

/* More than is kept anywhere: the sender waits, nothing is lost or changes places. */
static void a_reader_that_is_behind_misses_no_message(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	void *failed;
	pair_connect(&pair);
	pthread_create(&thread, NULL, send_many, &pair);
	for (unsigned i = 0; i < 200; i++) {
		size_t length;
		unsigned number;
		if (i % 50 == 0)
			usleep(2000);
		assert_int_equal(
			provider->recv(pair.standby, answer, sizeof answer, &length, LONG_MS), 0);
		memcpy(&number, answer, sizeof number);
		assert_int_equal(number, i);
		assert_int_equal(length, 4 + i * 997 % 100000);
	}
	pthread_join(thread, &failed);
	assert_null(failed);
	pair_close(&pair);
}

static void recv_waits_no_longer_than_it_is_told(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pair_connect(&pair);
	assert_int_equal(
		provider->recv(pair.standby, answer, sizeof answer, &length, 0), -ETIMEDOUT);
	assert_int_equal(
		provider->recv(pair.standby, answer, sizeof answer, &length, 5), -ETIMEDOUT);
	struct pollfd pollfd = {.fd = provider->fd(pair.standby), .events = POLLIN};
	if (pollfd.fd >= 0)
		assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(provider->send(pair.primary, "hello", 5), 0);
	if (pollfd.fd >= 0)
		assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
	/* Longer than there is room for: the message is lost, the connection is not. */
	assert_int_equal(provider->recv(pair.standby, answer, 4, &length, LONG_MS), -EMSGSIZE);
	if (pollfd.fd >= 0)
		assert_int_equal(poll(&pollfd, 1, 0), 0);
	assert_int_equal(provider->send(pair.primary, "again", 5), 0);
	assert_int_equal(provider->recv(pair.standby, answer, 5, &length, LONG_MS), 0);
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
	assert_int_equal(provider->send(pair.primary, "last words", 10), 0);
	provider->close(pair.primary);
	pair.primary = NULL;
	assert_int_equal(provider->recv(pair.standby, answer, sizeof answer, &length, LONG_MS), 0);
	assert_int_equal(length, 10);
	assert_true(is_gone(pair.standby));
	assert_int_equal(provider->send(pair.standby, "too late", 8), -ECONNRESET);
	pair_close(&pair);
}

/* ---- Sharing ---- */

static void nothing_is_shared_before_expose(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	assert_null(provider->ring(pair.standby));
	assert_null(provider->acks(pair.primary));
	assert_null(provider->bell(pair.standby));
	assert_null(provider->bell(pair.primary));
	assert_int_equal(provider->write_memory(pair.primary, 0, payload, 1), -EACCES);
	pair_close(&pair);
}

static void the_ring_is_new_and_mapped_twice(void **state)
{
	(void)state;
	struct pair pair;
	open_with_source(&pair);
	const uint8_t *ring = provider->ring(pair.standby);
	for (size_t i = 0; i < 2 * PAIR_RING; i++)
		assert_int_equal(ring[i], 0);
	assert_null(provider->ring(pair.primary));
	assert_null(provider->acks(pair.standby));
	/* Two pieces, laid across the ring's end. */
	fill_random(source, 1000, 5);
	struct iovec pieces[] = {{source, 300}, {source + 300, 700}};
	uint64_t lsn = 9 * PAIR_RING - 500;
	assert_int_equal(provider->write_log(pair.primary, lsn, pieces, 2), 0);
	assert_true(eventually(provider->written(pair.primary) == lsn + 1000));
	assert_true(eventually(memcmp(ring + PAIR_RING - 500, source, 1000) == 0));
	assert_memory_equal(ring, source + 500, 500);
	pair_close(&pair);
}

static void what_cannot_be_shared_is_refused(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(unsealed, PAIR_MEMORY), 0);
	assert_int_equal(
		provider->expose(pair.standby, PAIR_RING, unsealed, PAIR_MEMORY, PAIR_SECRET),
		-EPROTO);
	close(unsealed);
	pair_close(&pair);
	static const struct {
		size_t ring, memory;
		int error;
	} bad[] = {
		{PAIR_RING, PAIR_MEMORY + 1, -EPROTO},
		{PAIR_RING + 4096, PAIR_MEMORY, -EINVAL},
		{PAIR_RING / 2, PAIR_MEMORY, -EINVAL},
		{0, PAIR_MEMORY, -EINVAL},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		pair_connect(&pair);
		assert_int_equal(provider->expose(pair.standby, bad[i].ring, pair.memory,
					 bad[i].memory, PAIR_SECRET),
			bad[i].error);
		if (bad[i].error == -EINVAL)
			assert_int_equal(provider->attach(pair.primary, bad[i].ring, PAIR_MEMORY,
						 PAIR_SECRET),
				-EINVAL);
		pair_close(&pair);
	}
}

static void *attach_to_more(void *argument)
{
	struct pair *pair = argument;
	int error = provider->attach(pair->primary, PAIR_RING, 2 * PAIR_MEMORY, PAIR_SECRET);
	provider->fence(pair->primary);
	return error == -EPROTO ? NULL : argument;
}

static void an_offer_that_is_not_what_was_agreed_is_refused(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	void *failed;
	pair_connect(&pair);
	assert_int_equal(pthread_create(&thread, NULL, attach_to_more, &pair), 0);
	assert_int_equal(
		provider->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-ECONNRESET);
	pthread_join(thread, &failed);
	assert_null(failed);
	pair_close(&pair);
}

static void guest_memory_is_written_until_it_is_withdrawn(void **state)
{
	(void)state;
	struct pair pair;
	open_with_source(&pair);
	uint8_t *guest = mmap(NULL, PAIR_MEMORY, PROT_READ, MAP_SHARED, pair.memory, 0);
	assert_ptr_not_equal(guest, MAP_FAILED);
	fill_random(payload, 5000, 8);
	assert_int_equal(provider->write_memory(pair.primary, 123, payload, 5000), 0);
	assert_int_equal(provider->write_memory(pair.primary, PAIR_MEMORY - 1, payload, 1), 0);
	assert_int_equal(provider->finish_memory(pair.primary, LONG_MS), 0);
	assert_memory_equal(guest + 123, payload, 5000);
	assert_int_equal(guest[PAIR_MEMORY - 1], payload[0]);
	assert_int_equal(provider->write_memory(pair.primary, PAIR_MEMORY, payload, 0), 0);
	assert_int_equal(provider->write_memory(pair.primary, PAIR_MEMORY, payload, 1), -EINVAL);
	assert_int_equal(provider->write_memory(pair.primary, 1, payload, PAIR_MEMORY), -EINVAL);
	assert_int_equal(provider->write_memory(pair.primary, UINT64_MAX, payload, 2), -EINVAL);
	assert_int_equal(provider->write_memory(pair.primary, 2, payload, SIZE_MAX), -EINVAL);
	/* All of it, byte by byte known, in pieces of all sizes. */
	fill_random(message, PAIR_MEMORY, 9);
	for (size_t at = 0, part; at < PAIR_MEMORY; at += part) {
		part = at * 7 % 9000 + 1;
		if (part > PAIR_MEMORY - at)
			part = PAIR_MEMORY - at;
		assert_int_equal(provider->write_memory(pair.primary, at, message + at, part), 0);
	}
	assert_int_equal(provider->finish_memory(pair.primary, LONG_MS), 0);
	assert_memory_equal(guest, message, PAIR_MEMORY);
	provider->withdraw_memory(pair.primary);
	provider->withdraw_memory(pair.primary);
	provider->withdraw_memory(pair.standby);
	assert_int_equal(provider->write_memory(pair.primary, 0, payload, 8), -EACCES);
	/* The log goes on. */
	memset(source, 0x5a, 8);
	assert_int_equal(write_source(&pair, 0, 0, 8), 0);
	assert_true(eventually(memcmp(provider->ring(pair.standby), source, 8) == 0));
	munmap(guest, PAIR_MEMORY);
	pair_close(&pair);
}

/* ---- The log and its acks ---- */

/* Entries of a size that, in units of 8, has no common factor with the ring's. */
static void an_entry_can_be_read_at_every_offset_of_the_ring(void **state)
{
	(void)state;
	enum { LENGTH = 90, COUNT = PAIR_RING / 8 };
	struct pair pair;
	open_with_source(&pair);
	struct log_reader reader;
	struct log_entry entry;
	uint64_t size = log_entry_size(LENGTH), lsn = START, sum = 0;
	assert_int_equal(size / 8 % 2, 1);
	fill_random(payload, LENGTH, 5);
	log_reader_ring(&reader, provider->ring(pair.standby), PAIR_RING, PAIR_SECRET, START);
	for (unsigned i = 0; i < COUNT; i++, lsn += size) {
		size_t offset = lsn % PAIR_RING;
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
		log_encode(source + offset, PAIR_SECRET, lsn, LOG_NET_RX, i, 2, payload, LENGTH);
		assert_int_equal(write_source(&pair, lsn, offset, size), 0);
		/* Polled without a sleep: it comes in no time. */
		uint64_t until = now_ns() + LONG_MS * 1000000ull;
		while (log_reader_peek(&reader, &entry) != LOG_VALID) {
			assert_true(now_ns() < until);
			sched_yield();
		}
		assert_memory_equal(entry.payload, payload, LENGTH);
		assert_int_equal(entry.position, i);
		log_reader_take(&reader, &entry);
		sum += offset;
		if (i % 16 == 15)
			assert_int_equal(
				provider->write_ack(pair.standby, ACK_CONSUMED, reader.next), 0);
	}
	/* Each offset once. */
	assert_int_equal(sum, 8ull * COUNT * (COUNT - 1) / 2);
	assert_true(eventually(provider->written(pair.primary) == lsn));
	pair_close(&pair);
}

/* An entry handed over in two parts, cut anywhere, is not there before its last byte is. */
static void no_entry_is_valid_before_it_is_whole(void **state)
{
	(void)state;
	struct pair pair;
	open_with_source(&pair);
	struct log_reader reader;
	struct log_entry entry;
	enum { LENGTH = 61 };
	uint64_t size = log_entry_size(LENGTH), lsn = START;
	fill_random(payload, LENGTH, 6);
	log_reader_ring(&reader, provider->ring(pair.standby), PAIR_RING, PAIR_SECRET, START);
	for (size_t cut = 1; cut < size; cut++, lsn += size) {
		size_t offset = lsn % PAIR_RING;
		log_encode(source + offset, PAIR_SECRET, lsn, LOG_NET_RX, cut, 2, payload, LENGTH);
		assert_int_equal(write_source(&pair, lsn, offset, cut), 0);
		const uint8_t *ring = provider->ring(pair.standby) + offset;
		assert_true(eventually(memcmp(ring, source + offset, cut) == 0));
		assert_int_not_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		assert_int_equal(write_source(&pair, lsn + cut, offset + cut, size - cut), 0);
		assert_true(eventually(log_reader_peek(&reader, &entry) == LOG_VALID));
		log_reader_take(&reader, &entry);
	}
	pair_close(&pair);
}

static void acks_arrive_and_ring_the_bell(void **state)
{
	(void)state;
	struct pair pair;
	open_with_source(&pair);
	struct ack_reader reader = reader_of(&pair, ACK_REPLAYED);
	assert_int_equal(ack_read(&reader, 1000), 0);
	struct bell *bell = provider->bell(pair.primary);
	uint32_t rung = atomic_load(&bell->rung);
	assert_int_equal(provider->write_ack(pair.standby, ACK_REPLAYED, 800), 0);
	assert_true(eventually(ack_read(&reader, 1000) == 800));
	assert_true(eventually(atomic_load(&bell->rung) != rung));
	bell = provider->bell(pair.standby);
	rung = atomic_load(&bell->rung);
	assert_int_equal(write_source(&pair, 0, 0, 8), 0);
	assert_true(eventually(atomic_load(&bell->rung) != rung));
	/* Each counter has a place of its own. */
	for (int counter = 0; counter < ACK_COUNTERS; counter++)
		assert_int_equal(provider->write_ack(pair.standby, (enum ack_counter)counter,
					 1000u + 8u * (unsigned)counter),
			0);
	for (int counter = 0; counter < ACK_COUNTERS; counter++) {
		reader = reader_of(&pair, (enum ack_counter)counter);
		assert_true(eventually(
			ack_read(&reader, UINT64_MAX) == 1000u + 8u * (unsigned)counter));
	}
	pair_close(&pair);
}

static void the_newest_of_many_acks_arrives(void **state)
{
	(void)state;
	struct pair pair;
	open_with_source(&pair);
	struct ack_reader received = reader_of(&pair, ACK_RECEIVED);
	struct ack_reader replayed = reader_of(&pair, ACK_REPLAYED);
	for (uint64_t value = 8; value <= 8 * 20000; value += 8) {
		assert_int_equal(provider->write_ack(pair.standby, ACK_RECEIVED, value), 0);
		assert_int_equal(provider->write_ack(pair.standby, ACK_REPLAYED, value - 8), 0);
	}
	assert_true(eventually(ack_read(&received, UINT64_MAX) == 8 * 20000));
	assert_true(eventually(ack_read(&replayed, UINT64_MAX) == 8 * 20000 - 8));
	pair_close(&pair);
}

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	/* The source stands for the staging ring, which a provider may need to know. */
	uint64_t at = lsn;
	struct iovec piece = {source + lsn % PAIR_RING, 0};
	for (int i = 0; i < count; i++) {
		memcpy(source + at % PAIR_RING, pieces[i].iov_base, pieces[i].iov_len);
		at += pieces[i].iov_len;
		piece.iov_len += pieces[i].iov_len;
	}
	return provider->write_log(((struct pair *)context)->primary, lsn, &piece, 1);
}

static uint64_t sink_written(void *context)
{
	return provider->written(((struct pair *)context)->primary);
}

static struct ack_reader consumed_reader;

static uint64_t sink_consumed(void *context, uint64_t head)
{
	(void)context;
	return ack_read(&consumed_reader, head);
}

static const struct log_sink sink = {
	.write = sink_write, .written = sink_written, .consumed = sink_consumed};

/* A consumer that is behind stops the writer when the ring is full, loses nothing, and starts it
 * again; and every write is reported as finished though nobody reads. */
static void a_full_ring_stops_the_writer_and_loses_nothing(void **state)
{
	(void)state;
	struct pair pair;
	struct log_writer *writer;
	struct log_reader reader;
	struct log_entry entry;
	open_with_source(&pair);
	consumed_reader = reader_of(&pair, ACK_CONSUMED);
	consumed_reader.last = START;
	assert_int_equal(
		log_writer_create(&writer, &sink, &pair, PAIR_RING, PAIR_SECRET, START), 0);
	log_reader_ring(&reader, provider->ring(pair.standby), PAIR_RING, PAIR_SECRET, START);
	fill_random(payload, 4096, 3);
	uint64_t sent = 0, taken = 0;
	for (unsigned lap = 0; lap < 24; lap++) {
		int error;
		while ((error = log_writer_append(writer, LOG_NET_RX, sent, 0, payload,
				26 + (uint32_t)(sent * 131 % 1500), NULL)) == 0) {
			/* Entries that wrap keep to the source's twofold size. */
			assert_int_equal(log_writer_flush(writer), 0);
			sent++;
		}
		assert_int_equal(error, -EAGAIN);
		uint64_t head = log_writer_head(writer);
		assert_true(eventually(provider->written(pair.primary) == head));
		/* Some laps take all, others a few. */
		uint64_t leave = lap % 3 ? 5 : 0;
		while (taken + leave < sent) {
			assert_true(eventually(log_reader_peek(&reader, &entry) == LOG_VALID));
			assert_int_equal(entry.position, taken);
			assert_memory_equal(entry.payload, payload, entry.length);
			log_reader_take(&reader, &entry);
			taken++;
		}
		assert_int_equal(provider->write_ack(pair.standby, ACK_CONSUMED, reader.next), 0);
		assert_true(eventually(ack_read(&consumed_reader, head) == reader.next));
	}
	assert_true(sent > 24 * 20);
	log_writer_destroy(writer);
	pair_close(&pair);
}

/* ---- The end ---- */

static void after_a_fence_nothing_leaves_and_everything_is_readable(void **state)
{
	(void)state;
	for (int who = 0; who < 2; who++) {
		struct pair pair;
		size_t length;
		open_with_source(&pair);
		fill_random(source, 64, 4);
		assert_int_equal(write_source(&pair, 0, 0, 64), 0);
		assert_int_equal(provider->write_ack(pair.standby, ACK_RECEIVED, 64), 0);
		const uint8_t *ring = provider->ring(pair.standby);
		struct ack_reader reader = reader_of(&pair, ACK_RECEIVED);
		assert_true(eventually(ack_read(&reader, 1000) == 64));
		assert_true(eventually(memcmp(ring, source, 64) == 0));
		struct connection *self = who ? pair.primary : pair.standby;
		struct connection *other = who ? pair.standby : pair.primary;
		provider->fence(self);
		provider->fence(self);
		if (who) {
			assert_int_equal(write_source(&pair, 64, 0, 64), -ECONNRESET);
			assert_int_equal(provider->write_memory(self, 0, payload, 8), -ECONNRESET);
			assert_int_equal(provider->finish_memory(self, LONG_MS), -ECONNRESET);
		} else {
			assert_int_equal(provider->write_ack(self, ACK_RECEIVED, 128), -ECONNRESET);
		}
		assert_int_equal(provider->send(self, "x", 1), -ECONNRESET);
		assert_int_equal(provider->recv(self, answer, 1, &length, LONG_MS), -ECONNRESET);
		/* The other side sees it, and its log thread learns of it, too. */
		struct pollfd pollfd = {.fd = provider->fd(other), .events = POLLIN};
		if (pollfd.fd >= 0)
			assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
		assert_int_equal(provider->recv(other, answer, 1, &length, LONG_MS), -ECONNRESET);
		if (who)
			assert_int_equal(
				provider->write_ack(other, ACK_RECEIVED, 128), -ECONNRESET);
		else
			assert_int_equal(write_source(&pair, 64, 0, 64), -ECONNRESET);
		assert_memory_equal(ring, source, 64);
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
	for (; provider->write_ack(hammer->c, ACK_RECEIVED, value) == 0; value += 8)
		atomic_store(&hammer->done, value);
	for (int i = 0; i < 100; i++, value += 8)
		hammer->after += provider->write_ack(hammer->c, ACK_RECEIVED, value) == 0;
	return NULL;
}

/* One that was on its way may: it tells of entries that whoever has fenced has got. */
static void no_ack_that_is_written_after_the_fence_arrives(void **state)
{
	(void)state;
	for (int round = 0; round < 40; round++) {
		struct pair pair;
		pair_open(&pair);
		struct hammer hammer = {.c = pair.standby};
		pthread_t thread;
		pthread_create(&thread, NULL, hammer_acks, &hammer);
		while (atomic_load(&hammer.done) < 8u * (unsigned)(1 + round * 7 % 50))
			sched_yield();
		provider->fence(pair.standby);
		struct ack_reader reader = reader_of(&pair, ACK_RECEIVED);
		const struct ack_cell *cell = &reader.block->cell[ACK_RECEIVED];
		uint64_t at_fence = ack_read(&reader, UINT64_MAX), value = cell->value;
		uint32_t rung = reader.block->bell.rung;
		pthread_join(thread, NULL);
		assert_int_equal(hammer.after, 0);
		if (places_at_once()) {
			/* Not only is no new value taken: not a word has changed. */
			assert_int_equal(cell->value, value);
			assert_int_equal(reader.block->bell.rung, rung);
			assert_int_equal(at_fence, value);
		}
		assert_true(is_gone(pair.primary));
		/* The write that the fence has met may have been its last. */
		assert_true(ack_read(&reader, UINT64_MAX) <= atomic_load(&hammer.done) + 8);
		value = cell->value;
		usleep(100);
		assert_int_equal(cell->value, value);
		pair_close(&pair);
	}
}

static void *fence_it(void *argument)
{
	usleep(500);
	provider->fence(argument);
	return NULL;
}

static void a_fence_wakes_who_waits(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pthread_t thread;
	/* For a message. */
	for (int who = 0; who < 2; who++) {
		pair_connect(&pair);
		pthread_create(&thread, NULL, fence_it, who ? pair.primary : pair.standby);
		assert_int_equal(
			provider->recv(pair.standby, answer, 1, &length, LONG_MS), -ECONNRESET);
		pthread_join(thread, NULL);
		pair_close(&pair);
	}
	/* For the other side's memory. */
	pair_connect(&pair);
	pthread_create(&thread, NULL, fence_it, pair.primary);
	assert_int_equal(
		provider->attach(pair.primary, PAIR_RING, PAIR_MEMORY, PAIR_SECRET), -ECONNRESET);
	pthread_join(thread, NULL);
	pair_close(&pair);
	pair_connect(&pair);
	pthread_create(&thread, NULL, fence_it, pair.standby);
	assert_int_equal(
		provider->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-ECONNRESET);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

static void *send_until_it_ends(void *argument)
{
	while (provider->send(argument, message, MESSAGE_MAX) == 0)
		;
	return NULL;
}

static void a_fence_wakes_who_waits_for_a_reader(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	pair_connect(&pair);
	pthread_create(&thread, NULL, send_until_it_ends, pair.primary);
	usleep(20000);
	provider->fence(pair.primary);
	pthread_join(thread, NULL);
	pair_close(&pair);
}

/* Once beforehand: librdmacm keeps a device open that it has used. */
static int meet_once(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	pair_close(&pair);
	return 0;
}

static int run(const char *group)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(a_provider_is_found_by_its_scheme),
		TEST(a_place_has_one_listener_at_a_time),
		TEST(where_nobody_listens_nobody_is_connected),
		TEST(accept_takes_only_those_who_wait),
		TEST(a_standby_that_accepts_nobody_costs_no_more_than_the_timeout),
		TEST(messages_of_all_sizes_arrive_whole_and_in_order),
		TEST(a_reader_that_is_behind_misses_no_message),
		TEST(recv_waits_no_longer_than_it_is_told),
		TEST(what_was_sent_before_the_end_is_still_received),
		TEST(nothing_is_shared_before_expose),
		TEST(the_ring_is_new_and_mapped_twice),
		TEST(what_cannot_be_shared_is_refused),
		TEST(an_offer_that_is_not_what_was_agreed_is_refused),
		TEST(guest_memory_is_written_until_it_is_withdrawn),
		TEST(an_entry_can_be_read_at_every_offset_of_the_ring),
		TEST(no_entry_is_valid_before_it_is_whole),
		TEST(acks_arrive_and_ring_the_bell),
		TEST(the_newest_of_many_acks_arrives),
		TEST(a_full_ring_stops_the_writer_and_loses_nothing),
		TEST(after_a_fence_nothing_leaves_and_everything_is_readable),
		TEST(no_ack_that_is_written_after_the_fence_arrives),
		TEST(a_fence_wakes_who_waits),
		TEST(a_fence_wakes_who_waits_for_a_reader),
	};
	return cmocka_run_group_tests_name(group, tests, meet_once, NULL);
}

int main(int argc, char **argv)
{
	return over_each_provider(argc, argv, run);
}

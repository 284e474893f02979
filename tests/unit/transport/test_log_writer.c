#include "support.h"

#include "transport/log_reader.h"
#include "transport/log_writer.h"
#include "transport/memfd.h"

#include <errno.h>
#include <sys/mman.h>
#include <time.h>

#define SECRET 0xabcdef12345u
#define RING 65536u

/* A backup's ring. Writes reach it at once, or, where `delayed`, when deliver() is called: until
 * then the pieces are only remembered, as a network card would. */
struct far {
	uint8_t *ring;
	uint64_t start, written, consumed;
	uint64_t expected; /* the next write's LSN */
	unsigned writes;
	int error;
	bool delayed, unlimited;
	long cost_ns; /* what a write takes, and more */
	struct {
		uint64_t lsn;
		struct iovec piece;
	} pending[1024];
	unsigned pending_count;
	struct log_reader reader;
};

static struct far far;
static struct log_writer *writer;
static uint8_t payload[LOG_PAYLOAD_MAX];
static bool is_lent; /* the payloads leave from where they lie */

static void deliver(void)
{
	for (unsigned i = 0; i < far.pending_count; i++) {
		uint64_t lsn = far.pending[i].lsn;
		struct iovec piece = far.pending[i].piece;
		/* L3: nothing that the consumer has not finished with is overwritten. */
		assert_true(lsn + piece.iov_len <= far.consumed + RING);
		/* The ring is mapped twice, so this is the split that a provider would make. */
		assert_true(piece.iov_len <= RING);
		memcpy(far.ring + lsn % RING, piece.iov_base, piece.iov_len);
		far.written = lsn + piece.iov_len;
	}
	far.pending_count = 0;
}

static int far_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	assert_ptr_equal(context, &far);
	if (far.error)
		return far.error;
	assert_int_equal(lsn, far.expected);
	if (far.cost_ns > 0)
		nanosleep(&(struct timespec){.tv_nsec = far.cost_ns}, NULL);
	for (int i = 0; i < count; i++) {
		assert_true(far.pending_count < 1024);
		far.pending[far.pending_count].lsn = lsn;
		far.pending[far.pending_count++].piece = pieces[i];
		lsn += pieces[i].iov_len;
	}
	far.expected = lsn;
	far.writes++;
	if (!far.delayed)
		deliver();
	return 0;
}

static uint64_t far_written(void *context)
{
	(void)context;
	return far.written;
}

static uint64_t far_consumed(void *context, uint64_t head)
{
	(void)context;
	assert_int_equal(head, far.expected);
	return far.unlimited ? UINT64_MAX : far.consumed;
}

static const struct log_sink far_sink = {
	.write = far_write, .written = far_written, .consumed = far_consumed};

static void start_at(uint64_t start)
{
	uint8_t *ring = far.ring;
	memset(ring, 0, RING);
	far = (struct far){.ring = ring, .start = start, .consumed = start, .expected = start};
	log_reader_ring(&far.reader, ring, RING, SECRET, start);
	log_writer_destroy(writer);
	assert_int_equal(log_writer_create(&writer, &far_sink, &far, RING, SECRET, start), 0);
	if (is_lent)
		log_writer_lend(writer, payload, sizeof payload);
}

static int set_up(void **state)
{
	(void)state;
	int fd = memfd_make("test ring", RING);
	assert_true(fd >= 0);
	void *at;
	assert_int_equal(memfd_map(&at, fd, RING, PROT_READ | PROT_WRITE, true), 0);
	close(fd);
	far.ring = at;
	fill_random(payload, sizeof payload, 3);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	log_writer_destroy(writer);
	writer = NULL;
	memfd_unmap(far.ring, RING, true);
	return 0;
}

static int fresh(void **state)
{
	(void)state;
	start_at(0);
	return 0;
}

/* A frame whose bytes and length follow from its number, which is also its position. */
static uint32_t frame_length(uint64_t number)
{
	return 26 + (uint32_t)(mix64(number) % 1501);
}

static int append(uint64_t number, uint64_t *end)
{
	return log_writer_append(
		writer, LOG_NET_RX, number, 0, payload + number % 64, frame_length(number), end);
}

static void expect(uint64_t number)
{
	struct log_entry entry;
	assert_int_equal(log_reader_peek(&far.reader, &entry), LOG_VALID);
	assert_int_equal(entry.position, number);
	assert_int_equal(entry.length, frame_length(number));
	assert_memory_equal(entry.payload, payload + number % 64, entry.length);
	log_reader_take(&far.reader, &entry);
}

static void entries_gather_and_leave_together(void **state)
{
	(void)state;
	uint64_t ends[4];
	for (uint64_t i = 0; i < 4; i++) {
		assert_int_equal(append(i, &ends[i]), 0);
		assert_int_equal(log_writer_head(writer), ends[i]);
	}
	assert_int_equal(far.writes, 0);
	assert_int_equal(log_writer_flushed(writer), 0);
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.writes, 1);
	assert_int_equal(log_writer_flushed(writer), ends[3]);
	assert_int_equal(log_writer_entries(writer), 4);
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.writes, 1);
	for (uint64_t i = 0; i < 4; i++) {
		expect(i);
		assert_int_equal(far.reader.next, ends[i]);
	}
}

static void the_log_is_whole_from_every_offset_of_the_ring(void **state)
{
	(void)state;
	/* Two entries across the ring's end, from each multiple of 8 that lets them cross it. */
	for (uint64_t offset = RING - 704; offset <= RING + 8; offset += 8) {
		start_at(3 * RING + offset % RING);
		uint64_t one = offset, two = offset + 1, end;
		assert_int_equal(
			log_writer_append(writer, LOG_NET_RX, one, 0, payload, 300, NULL), 0);
		assert_int_equal(
			log_writer_append(writer, LOG_NET_RX, two, 0, payload, 301, &end), 0);
		assert_int_equal(log_writer_flush(writer), 0);
		struct log_entry entry;
		for (uint32_t i = 0; i < 2; i++) {
			assert_int_equal(log_reader_peek(&far.reader, &entry), LOG_VALID);
			assert_int_equal(entry.position, offset + i);
			assert_int_equal(entry.length, 300 + i);
			assert_memory_equal(entry.payload, payload, entry.length);
			log_reader_take(&far.reader, &entry);
		}
		assert_int_equal(far.reader.next, end);
	}
}

static void a_full_ring_stops_the_writer_until_the_consumer_has_gone_on(void **state)
{
	(void)state;
	uint64_t next = 0, read = 0, refusals = 0, random = 11;
	while (next < 3000) {
		int error = append(next, NULL);
		if (error == 0) {
			next++;
			if (next_random(&random) % 4 == 0)
				assert_int_equal(log_writer_flush(writer), 0);
			continue;
		}
		assert_int_equal(error, -EAGAIN);
		refusals++;
		/* Nothing has changed, so the answer does not. */
		assert_int_equal(append(next, NULL), -EAGAIN);
		assert_true(log_writer_head(writer) + log_entry_size(frame_length(next)) >
			    far.consumed + RING);
		assert_int_equal(log_writer_flush(writer), 0);
		/* deliver() has seen that nothing was overwritten; all that was not consumed is
		 * there. */
		while (far.reader.next < far.expected)
			expect(read++);
		uint64_t gap = far.reader.next - far.consumed;
		far.consumed += next_random(&random) % (gap / 8 + 1) * 8;
	}
	assert_true(refusals > 10);
	assert_int_equal(log_writer_flush(writer), 0);
	while (read < next)
		expect(read++);
}

static void the_ring_is_used_to_its_last_byte(void **state)
{
	(void)state;
	/* 512 entries of 128 bytes fill it; the next needs room for exactly one more. */
	for (uint64_t i = 0; i < RING / 128; i++)
		assert_int_equal(log_writer_append(writer, LOG_NET_RX, i, 0, payload, 88, NULL), 0);
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 512, 0, payload, 88, NULL), -EAGAIN);
	assert_int_equal(log_writer_flush(writer), 0);
	far.consumed = 120;
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 512, 0, payload, 88, NULL), -EAGAIN);
	far.consumed = 128;
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 512, 0, payload, 88, NULL), 0);
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 513, 0, payload, 88, NULL), -EAGAIN);
}

static void staged_bytes_stay_until_they_are_written(void **state)
{
	(void)state;
	far.delayed = true;
	far.unlimited = true;
	uint64_t next = 0, read = 0;
	while (append(next, NULL) == 0) {
		next++;
		assert_int_equal(log_writer_flush(writer), 0);
	}
	/* The consumer sets no limit: the writer stops only because nothing has left its staging
	 * ring. */
	assert_true(log_writer_head(writer) > RING - 2048);
	assert_int_equal(append(next, NULL), -EAGAIN);
	far.consumed = log_writer_head(writer);
	deliver();
	while (read < next)
		expect(read++);
	assert_int_equal(append(next, NULL), 0);
}

static void a_log_that_starts_high_needs_no_word_from_the_sink(void **state)
{
	(void)state;
	start_at(1ull << 40);
	far.consumed = 0;
	assert_int_equal(append(1, NULL), 0);
	far.consumed = far.start;
	assert_int_equal(log_writer_flush(writer), 0);
	expect(1);
}

static void a_flush_is_due_by_size_or_by_age(void **state)
{
	(void)state;
	uint64_t now = now_ns();
	log_writer_lend(writer, NULL, 0);
	assert_false(log_writer_flush_due(writer, now));
	assert_false(log_writer_flush_due(writer, UINT64_MAX));
	assert_int_equal(append(0, NULL), 0);
	uint64_t after = now_ns();
	assert_false(log_writer_flush_due(writer, now));
	assert_false(log_writer_flush_due(writer, now + FLUSH_NS - 1));
	assert_true(log_writer_flush_due(writer, after + FLUSH_NS));
	assert_int_equal(log_writer_flush(writer), 0);
	assert_false(log_writer_flush_due(writer, after + FLUSH_NS));
	for (uint64_t i = 1; log_writer_head(writer) - log_writer_flushed(writer) < FLUSH_BYTES;
		i++) {
		assert_false(log_writer_flush_due(writer, now));
		assert_int_equal(append(i, NULL), 0);
	}
	assert_true(log_writer_flush_due(writer, now));
}

static void dear_flushes_are_fewer_but_come_in_time(void **state)
{
	(void)state;
	far.cost_ns = FLUSH_NS_MAX / FLUSH_SHARE * 2;
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(append(i, NULL), 0);
		assert_int_equal(log_writer_flush(writer), 0);
		far.consumed = far.expected;
	}
	uint64_t before = now_ns();
	assert_int_equal(append(16, NULL), 0);
	uint64_t after = now_ns();
	assert_false(log_writer_flush_due(writer, before + FLUSH_NS_MAX - 1));
	assert_true(log_writer_flush_due(writer, after + FLUSH_NS_MAX));
	/* They have become cheap again. */
	far.cost_ns = 0;
	for (unsigned i = 17; i < 200; i++) {
		assert_int_equal(append(i, NULL), 0);
		assert_int_equal(log_writer_flush(writer), 0);
		far.consumed = far.expected;
	}
	before = now_ns();
	assert_int_equal(append(200, NULL), 0);
	assert_true(log_writer_flush_due(writer, before + FLUSH_NS_MAX - 1));
}

static void a_failed_write_is_reported_and_loses_nothing(void **state)
{
	(void)state;
	assert_int_equal(append(0, NULL), 0);
	far.error = -ECONNRESET;
	assert_int_equal(log_writer_flush(writer), -ECONNRESET);
	assert_int_equal(log_writer_flushed(writer), 0);
	assert_int_equal(append(1, NULL), 0);
	assert_int_equal(log_writer_flush(writer), -ECONNRESET);
	far.error = 0;
	assert_int_equal(log_writer_flush(writer), 0);
	expect(0);
	expect(1);
}

static void a_lent_payload_is_sent_from_where_it_lies_and_never_copied(void **state)
{
	(void)state;
	static uint8_t other[100];
	void *at;
	size_t size;
	uint64_t ends[3];
	log_writer_lend(writer, payload, sizeof payload);
	log_writer_staging(writer, &at, &size);
	uint8_t *staging = at;
	memset(staging, 0xee, RING);
	far.delayed = true;
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 0, 0, payload, 1501, &ends[0]), 0);
	/* As close to the lent memory as can be, and not of it. */
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 1, 0, other, 100, &ends[1]), 0);
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 2, 0, payload + sizeof payload - 30,
				 30, &ends[2]),
		0);
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.writes, 1);
	assert_int_equal(far.pending_count, 5);
	const struct iovec wanted[] = {{staging, LOG_HEADER_SIZE}, {payload, 1501},
		{staging + LOG_HEADER_SIZE + 1501, ends[1] - 1501},
		{payload + sizeof payload - 30, 30}, {staging + ends[2] - 2 - 8, 2 + 8}};
	for (unsigned i = 0; i < 5; i++) {
		assert_ptr_equal(far.pending[i].piece.iov_base, wanted[i].iov_base);
		assert_int_equal(far.pending[i].piece.iov_len, wanted[i].iov_len);
	}
	/* Its place in the staging ring is as it was. */
	for (unsigned i = 0; i < 1501; i++)
		assert_int_equal(staging[LOG_HEADER_SIZE + i], 0xee);
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(staging[ends[1] + LOG_HEADER_SIZE + i], 0xee);
	assert_int_equal(log_writer_written(writer), 0);
	deliver();
	assert_int_equal(log_writer_written(writer), ends[2]);
	struct log_entry entry;
	const uint8_t *const bytes[] = {payload, other, payload + sizeof payload - 30};
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(log_reader_peek(&far.reader, &entry), LOG_VALID);
		assert_memory_equal(entry.payload, bytes[i], entry.length);
		log_reader_take(&far.reader, &entry);
	}
	assert_int_equal(far.reader.next, ends[2]);
}

static void a_payload_may_come_in_parts_of_which_some_are_lent(void **state)
{
	(void)state;
	uint8_t copied[3][4] = {"one", "two", "six"};
	log_writer_lend(writer, payload, sizeof payload);
	far.delayed = true;
	const struct iovec parts[] = {{copied[0], 4}, {payload, 1501}, {copied[1], 4},
		{payload + 3000, 60}, {payload + 4000, 3}, {copied[2], 4}};
	uint64_t end;
	assert_int_equal(log_writer_append_parts(writer, LOG_NET_RX, 7, 0, parts, 6, &end), 0);
	memset(copied, 0, sizeof copied);
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.writes, 1);
	assert_int_equal(far.pending_count, 7);
	assert_ptr_equal(far.pending[1].piece.iov_base, payload);
	assert_ptr_equal(far.pending[3].piece.iov_base, payload + 3000);
	assert_int_equal(far.pending[4].piece.iov_len, 0);
	assert_ptr_equal(far.pending[5].piece.iov_base, payload + 4000);
	deliver();
	struct log_entry entry;
	assert_int_equal(log_reader_peek(&far.reader, &entry), LOG_VALID);
	assert_int_equal(entry.length, 4 + 1501 + 4 + 60 + 3 + 4);
	assert_int_equal(entry.end, end);
	assert_memory_equal(entry.payload, "one", 4);
	assert_memory_equal(entry.payload + 4, payload, 1501);
	assert_memory_equal(entry.payload + 1505, "two", 4);
	assert_memory_equal(entry.payload + 1509, payload + 3000, 60);
	assert_memory_equal(entry.payload + 1569, payload + 4000, 3);
	assert_memory_equal(entry.payload + 1572, "six", 4);
}

static void what_lies_only_partly_in_lent_memory_is_copied(void **state)
{
	(void)state;
	log_writer_lend(writer, payload + 64, 256);
	far.delayed = true;
	const struct {
		unsigned from, length;
	} parts[] = {{63, 64}, {257, 64}, {0, 1000}, {320, 64}};
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(log_writer_append(writer, LOG_NET_RX, i, 0,
					 payload + parts[i].from, parts[i].length, NULL),
			0);
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.pending_count, 1);
}

static void a_flush_gathers_only_so_many_payloads_and_copies_the_rest(void **state)
{
	(void)state;
	uint64_t now = now_ns();
	log_writer_lend(writer, payload, sizeof payload);
	far.delayed = true;
	for (unsigned i = 0; i < FLUSH_LENT_MAX + 3; i++) {
		assert_int_equal(log_writer_flush_due(writer, now), i >= FLUSH_LENT);
		assert_int_equal(
			log_writer_append(writer, LOG_NET_RX, i, 0, payload + i, 64, NULL), 0);
	}
	assert_int_equal(log_writer_flush(writer), 0);
	assert_int_equal(far.pending_count, 2 * FLUSH_LENT_MAX + 1);
	assert_false(log_writer_flush_due(writer, now));
	deliver();
	struct log_entry entry;
	for (unsigned i = 0; i < FLUSH_LENT_MAX + 3; i++) {
		assert_int_equal(log_reader_peek(&far.reader, &entry), LOG_VALID);
		assert_memory_equal(entry.payload, payload + i, 64);
		log_reader_take(&far.reader, &entry);
	}
}

static void an_entry_larger_than_the_ring_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(
		log_writer_append(writer, LOG_NET_RX, 1, 0, payload, LOG_PAYLOAD_MAX, NULL),
		-EMSGSIZE);
	assert_int_equal(
		log_writer_append(writer, LOG_NET_RX, 1, 0, payload, LOG_PAYLOAD_MAX + 1, NULL),
		-EMSGSIZE);
	assert_int_equal(log_writer_append(writer, LOG_NET_RX, 1, 0, payload, RING - 40, NULL), 0);
	assert_int_equal(log_writer_head(writer), RING);
}

static void impossible_rings_are_refused(void **state)
{
	(void)state;
	struct log_writer *none = NULL;
	assert_int_equal(log_writer_create(&none, &far_sink, &far, 32768, SECRET, 0), -EINVAL);
	assert_int_equal(
		log_writer_create(&none, &far_sink, &far, 65536 + 4096, SECRET, 0), -EINVAL);
	assert_int_equal(log_writer_create(&none, &far_sink, &far, RING, SECRET, 4), -EINVAL);
	assert_null(none);
}

static void fill_up(void *argument)
{
	uint64_t number = *(uint64_t *)argument;
	while (append(number, NULL) == 0)
		number++;
	_exit(0);
}

static void a_sink_that_has_more_than_was_flushed_stops_the_process(void **state)
{
	(void)state;
	uint64_t number = 0;
	assert_int_equal(append(number++, NULL), 0);
	assert_int_equal(log_writer_flush(writer), 0);
	int status = status_in_child(fill_up, &number);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	far.consumed = far.expected + 8;
	assert_aborts(fill_up, &number);
	far.consumed = far.expected;
	far.written = far.expected + 8;
	assert_aborts(fill_up, &number);
}

static void append_backwards(void *argument)
{
	(void)argument;
	_exit(append(4, NULL) == 0 ? 0 : 1);
}

static void a_position_that_goes_back_stops_the_process(void **state)
{
	(void)state;
	assert_int_equal(append(5, NULL), 0);
	assert_int_equal(append(5, NULL), 0);
	assert_aborts(append_backwards, NULL);
}

static int lend(void **state)
{
	is_lent = true;
	return set_up(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(entries_gather_and_leave_together, fresh),
		cmocka_unit_test_setup(the_log_is_whole_from_every_offset_of_the_ring, fresh),
		cmocka_unit_test_setup(
			a_full_ring_stops_the_writer_until_the_consumer_has_gone_on, fresh),
		cmocka_unit_test_setup(the_ring_is_used_to_its_last_byte, fresh),
		cmocka_unit_test_setup(staged_bytes_stay_until_they_are_written, fresh),
		cmocka_unit_test_setup(a_log_that_starts_high_needs_no_word_from_the_sink, fresh),
		cmocka_unit_test_setup(a_flush_is_due_by_size_or_by_age, fresh),
		cmocka_unit_test_setup(dear_flushes_are_fewer_but_come_in_time, fresh),
		cmocka_unit_test_setup(a_failed_write_is_reported_and_loses_nothing, fresh),
		cmocka_unit_test_setup(an_entry_larger_than_the_ring_is_an_error, fresh),
		cmocka_unit_test_setup(impossible_rings_are_refused, fresh),
		cmocka_unit_test_setup(
			a_sink_that_has_more_than_was_flushed_stops_the_process, fresh),
		cmocka_unit_test_setup(a_position_that_goes_back_stops_the_process, fresh),
	};
	const struct CMUnitTest lent_tests[] = {
		cmocka_unit_test_setup(
			a_lent_payload_is_sent_from_where_it_lies_and_never_copied, fresh),
		cmocka_unit_test_setup(what_lies_only_partly_in_lent_memory_is_copied, fresh),
		cmocka_unit_test_setup(a_payload_may_come_in_parts_of_which_some_are_lent, fresh),
		cmocka_unit_test_setup(
			a_flush_gathers_only_so_many_payloads_and_copies_the_rest, fresh),
	};
	int failed = cmocka_run_group_tests_name("log_writer", tests, set_up, tear_down);
	failed |= cmocka_run_group_tests_name("lending", lent_tests, set_up, tear_down);
	failed |= cmocka_run_group_tests_name(
		"log_writer with payloads lent", tests, lend, tear_down);
	return !!failed;
}

#include "support.h"

#include "transport/log_reader.h"
#include "transport/memfd.h"

#include <sys/mman.h>

#define SECRET 0x5ec5e7u
#define RING 4096u

static uint8_t *ring; /* mapped twice in a row */
static uint8_t payload[LOG_PAYLOAD_MAX];

static int set_up(void **state)
{
	(void)state;
	int fd = memfd_make("test ring", RING);
	assert_true(fd >= 0);
	void *at;
	assert_int_equal(memfd_map(&at, fd, RING, PROT_READ | PROT_WRITE, true), 0);
	close(fd);
	ring = at;
	fill_random(payload, sizeof payload, 3);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	memfd_unmap(ring, RING, true);
	return 0;
}

static int clear(void **state)
{
	(void)state;
	memset(ring, 0, RING);
	return 0;
}

static uint64_t place(uint64_t lsn, enum log_kind kind, uint64_t position, uint32_t length)
{
	log_encode(ring + lsn % RING, SECRET, lsn, kind, position, 0, payload, length);
	return lsn + log_entry_size(length);
}

static void entries_come_in_order_and_are_seen_until_taken(void **state)
{
	(void)state;
	struct log_reader reader;
	struct log_entry entry;
	log_reader_ring(&reader, ring, RING, SECRET, 0);
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
	uint64_t second = place(0, LOG_NET_RX, 1, 60), third = place(second, LOG_CLOCK, 2, 8);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		assert_int_equal(entry.lsn, 0);
	}
	log_reader_take(&reader, &entry);
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
	assert_int_equal(entry.lsn, second);
	assert_int_equal(entry.kind, LOG_CLOCK);
	log_reader_take(&reader, &entry);
	assert_int_equal(reader.next, third);
	assert_int_equal(reader.position, 2);
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
}

static void an_entry_behind_a_gap_is_not_seen(void **state)
{
	(void)state;
	struct log_reader reader;
	struct log_entry entry;
	log_reader_ring(&reader, ring, RING, SECRET, 0);
	uint64_t second = log_entry_size(60);
	place(second, LOG_CLOCK, 2, 8);
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
	place(0, LOG_NET_RX, 1, 60);
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
	ring[40] ^= 1;
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_PARTIAL);
	ring[40] ^= 1;
	assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
}

static void an_entry_is_whole_at_every_offset_of_the_ring(void **state)
{
	(void)state;
	for (uint64_t start = 0; start < RING; start += 8) {
		uint64_t lsn = start + 7 * RING;
		memset(ring, 0, RING);
		struct log_reader reader;
		struct log_entry entry;
		log_reader_ring(&reader, ring, RING, SECRET, lsn);
		uint64_t next = place(lsn, LOG_NET_RX, 1, 333);
		place(next, LOG_NET_RX, 1, 99);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		assert_memory_equal(entry.payload, payload, 333);
		log_reader_take(&reader, &entry);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		assert_memory_equal(entry.payload, payload, 99);
	}
}

static void what_an_older_lap_left_is_not_seen_again(void **state)
{
	(void)state;
	struct log_reader reader;
	struct log_entry entry;
	/* Entries of 128 bytes: each lap lies exactly over the one before. */
	log_reader_ring(&reader, ring, RING, SECRET, 0);
	for (uint64_t lsn = 0; lsn < 5 * RING; lsn += 128) {
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_ABSENT);
		assert_int_equal(place(lsn, LOG_NET_RX, 1, 88), lsn + 128);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		log_reader_take(&reader, &entry);
	}
}

static void positions_may_stay_but_never_go_back(void **state)
{
	(void)state;
	static const struct {
		enum log_kind kind;
		uint32_t length;
	} kinds[] = {{LOG_TICK, 16}, {LOG_CLOCK, 8}, {LOG_NET_RX, 26}, {LOG_OUTPUT, 16},
		{LOG_MARK, 8}, {LOG_RELEASED, 16}, {LOG_END, 8}};
	struct log_reader reader;
	struct log_entry entry;
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		memset(ring, 0, RING);
		log_reader_ring(&reader, ring, RING, SECRET, 64);
		uint64_t second = place(64, LOG_CLOCK, 100, 8);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		log_reader_take(&reader, &entry);
		place(second, kinds[i].kind, 99, kinds[i].length);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_PARTIAL);
		place(second, kinds[i].kind, 100, kinds[i].length);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
		place(second, kinds[i].kind, 101, kinds[i].length);
		assert_int_equal(log_reader_peek(&reader, &entry), LOG_VALID);
	}
}

static void readers_of_one_ring_do_not_disturb_one_another(void **state)
{
	(void)state;
	struct log_reader first, second;
	struct log_entry entry;
	log_reader_ring(&first, ring, RING, SECRET, 0);
	log_reader_ring(&second, ring, RING, SECRET, 0);
	uint64_t end = place(0, LOG_NET_RX, 1, 60);
	assert_int_equal(log_reader_peek(&first, &entry), LOG_VALID);
	log_reader_take(&first, &entry);
	assert_int_equal(first.next, end);
	assert_int_equal(second.next, 0);
	/* What the first has found good is judged again. */
	ring[50] ^= 4;
	assert_int_equal(log_reader_peek(&second, &entry), LOG_PARTIAL);
}

static void take_another(void *argument)
{
	log_reader_take(argument, &(struct log_entry){.lsn = 128, .end = 256});
}

static void only_the_next_entry_can_be_taken(void **state)
{
	(void)state;
	struct log_reader reader;
	log_reader_ring(&reader, ring, RING, SECRET, 0);
	assert_aborts(take_another, &reader);
}

static int count_entries(const uint8_t *bytes, uint64_t size, uint64_t start)
{
	struct log_reader reader;
	struct log_entry entry;
	int count = 0;
	log_reader_file(&reader, bytes, size, SECRET, start);
	while (log_reader_peek(&reader, &entry) == LOG_VALID) {
		assert_true(entry.end - start <= size);
		log_reader_take(&reader, &entry);
		count++;
	}
	return count;
}

/* A file of entries, cut at every byte: those that are whole, and nothing else. */
static void a_file_cut_anywhere_ends_with_its_last_whole_entry(void **state)
{
	(void)state;
	static const uint32_t lengths[] = {60, 8, 26, 100, 8};
	enum { COUNT = 5 };
	uint8_t file[1024];
	uint64_t start = 1ull << 33, ends[COUNT], size = 0;
	for (int i = 0; i < COUNT; i++) {
		log_encode(file + size, SECRET, start + size,
			lengths[i] == 8 ? LOG_CLOCK : LOG_NET_RX, (uint64_t)i, 0, payload,
			lengths[i]);
		size += log_entry_size(lengths[i]);
		ends[i] = size;
	}
	for (uint64_t cut = 0; cut <= size; cut++) {
		/* A copy of just that many bytes, so that the sanitizers see a read behind the end;
		 * and all of them, so that one who does read there finds something. */
		uint8_t *copy = malloc(cut + 1);
		memcpy(copy, file, cut);
		int expected = 0;
		while (expected < COUNT && ends[expected] <= cut)
			expected++;
		assert_int_equal(count_entries(copy, cut, start), expected);
		assert_int_equal(count_entries(file, cut, start), expected);
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(entries_come_in_order_and_are_seen_until_taken, clear),
		cmocka_unit_test_setup(an_entry_behind_a_gap_is_not_seen, clear),
		cmocka_unit_test_setup(an_entry_is_whole_at_every_offset_of_the_ring, clear),
		cmocka_unit_test_setup(what_an_older_lap_left_is_not_seen_again, clear),
		cmocka_unit_test_setup(positions_may_stay_but_never_go_back, clear),
		cmocka_unit_test_setup(readers_of_one_ring_do_not_disturb_one_another, clear),
		cmocka_unit_test_setup(only_the_next_entry_can_be_taken, clear),
		cmocka_unit_test_setup(a_file_cut_anywhere_ends_with_its_last_whole_entry, clear),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

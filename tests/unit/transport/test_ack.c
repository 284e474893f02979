#include "support.h"

#include "transport/ack.h"

#include <pthread.h>

#define SECRET 0xfedcba9876543210u

static struct ack_block block;

static struct ack_reader reader_of(enum ack_counter counter, uint64_t last)
{
	return (struct ack_reader){
		.block = &block, .secret = SECRET, .counter = counter, .last = last};
}

static int clear(void **state)
{
	(void)state;
	memset(&block, 0, sizeof block);
	return 0;
}

static void a_counter_that_was_stored_is_read(void **state)
{
	(void)state;
	for (int counter = 0; counter < ACK_COUNTERS; counter++) {
		struct ack_reader reader = reader_of((enum ack_counter)counter, 4096);
		assert_int_equal(ack_read(&reader, 100000), 4096);
		ack_store(&block, SECRET, (enum ack_counter)counter, 5000);
		assert_int_equal(ack_read(&reader, 100000), 5000);
		ack_store(&block, SECRET, (enum ack_counter)counter, 100000);
		assert_int_equal(ack_read(&reader, 100000), 100000);
	}
}

static void a_block_nobody_has_written_says_nothing(void **state)
{
	(void)state;
	struct ack_reader reader = reader_of(ACK_RECEIVED, 64);
	assert_int_equal(ack_read(&reader, UINT64_MAX), 64);
	memset(&block, 0xff, sizeof block);
	assert_int_equal(ack_read(&reader, UINT64_MAX), 64);
}

static void the_newest_beat_is_believed_without_a_head(void **state)
{
	(void)state;
	struct ack_reader reader = reader_of(ACK_BEAT, 0);
	ack_store(&block, SECRET, ACK_BEAT, UINT64_MAX - 1);
	assert_int_equal(ack_read(&reader, UINT64_MAX), UINT64_MAX - 1);
}

static void a_counter_never_goes_back(void **state)
{
	(void)state;
	struct ack_reader reader = reader_of(ACK_RECEIVED, 0);
	ack_store(&block, SECRET, ACK_RECEIVED, 800);
	assert_int_equal(ack_read(&reader, 1000), 800);
	ack_store(&block, SECRET, ACK_RECEIVED, 792);
	assert_int_equal(ack_read(&reader, 1000), 800);
	ack_store(&block, SECRET, ACK_RECEIVED, 0);
	assert_int_equal(ack_read(&reader, 1000), 800);
	ack_store(&block, SECRET, ACK_RECEIVED, 808);
	assert_int_equal(ack_read(&reader, 1000), 808);
}

static void a_counter_past_the_head_is_not_believed(void **state)
{
	(void)state;
	struct ack_reader reader = reader_of(ACK_CONSUMED, 0);
	ack_store(&block, SECRET, ACK_CONSUMED, 1008);
	assert_int_equal(ack_read(&reader, 1000), 0);
	assert_int_equal(ack_read(&reader, 1007), 0);
	assert_int_equal(ack_read(&reader, 1008), 1008);
}

static void pairs_of_other_counters_and_sessions_are_not_taken(void **state)
{
	(void)state;
	struct ack_reader reader = reader_of(ACK_RECEIVED, 0);
	for (int counter = 0; counter < ACK_COUNTERS; counter++) {
		if (counter == ACK_RECEIVED)
			continue;
		ack_store(&block, SECRET, (enum ack_counter)counter, 500);
		block.cell[ACK_RECEIVED].value = block.cell[counter].value;
		block.cell[ACK_RECEIVED].check = block.cell[counter].check;
		assert_int_equal(ack_read(&reader, 1000), 0);
	}
	ack_store(&block, SECRET ^ 1, ACK_RECEIVED, 500);
	assert_int_equal(ack_read(&reader, 1000), 0);
	ack_store(&block, SECRET, ACK_RECEIVED, 500);
	assert_int_equal(ack_read(&reader, 1000), 500);
}

/* A write of 16 bytes that stops, or is torn, at any byte: only the old pair or the new is taken.
 */
static void a_torn_pair_is_never_taken(void **state)
{
	(void)state;
	uint64_t random = 9, old_value = 0x00ff00ff00ff00f8;
	for (int round = 0; round < 200; round++) {
		uint64_t new_value =
			old_value + 8 * (1 + next_random(&random) % (1u << (round % 24 + 1)));
		uint64_t old_pair[2] = {old_value, ack_check_word(SECRET, ACK_REPLAYED, old_value)};
		uint64_t new_pair[2] = {new_value, ack_check_word(SECRET, ACK_REPLAYED, new_value)};
		for (unsigned taken = 0; taken < 1u << 16;
			taken += 1 + (unsigned)(next_random(&random) % 97)) {
			uint64_t mixed[2];
			for (unsigned i = 0; i < 16; i++)
				((uint8_t *)mixed)[i] = taken >> i & 1 ? ((uint8_t *)new_pair)[i]
								       : ((uint8_t *)old_pair)[i];
			block.cell[ACK_REPLAYED].value = mixed[0];
			block.cell[ACK_REPLAYED].check = mixed[1];
			struct ack_reader reader = reader_of(ACK_REPLAYED, old_value);
			uint64_t got = ack_read(&reader, UINT64_MAX);
			bool whole = memcmp(mixed, new_pair, sizeof mixed) == 0;
			assert_int_equal(got, whole ? new_value : old_value);
		}
		old_value = new_value;
	}
}

static void *count_up(void *argument)
{
	(void)argument;
	for (uint64_t value = 8; value <= 8 * 200000; value += 8)
		ack_store(&block, SECRET, ACK_RECEIVED, value);
	return NULL;
}

static void a_reader_beside_a_writer_sees_only_what_was_stored(void **state)
{
	(void)state;
	pthread_t writer;
	assert_int_equal(pthread_create(&writer, NULL, count_up, NULL), 0);
	struct ack_reader reader = reader_of(ACK_RECEIVED, 0);
	uint64_t last = 0;
	while (last < 8 * 200000) {
		uint64_t value = ack_read(&reader, UINT64_MAX);
		if (value < last || value > 8 * 200000 || value % 8)
			break;
		last = value;
	}
	pthread_join(writer, NULL);
	assert_int_equal(last, 8 * 200000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_counter_that_was_stored_is_read, clear),
		cmocka_unit_test_setup(a_block_nobody_has_written_says_nothing, clear),
		cmocka_unit_test_setup(the_newest_beat_is_believed_without_a_head, clear),
		cmocka_unit_test_setup(a_counter_never_goes_back, clear),
		cmocka_unit_test_setup(a_counter_past_the_head_is_not_believed, clear),
		cmocka_unit_test_setup(pairs_of_other_counters_and_sessions_are_not_taken, clear),
		cmocka_unit_test_setup(a_torn_pair_is_never_taken, clear),
		cmocka_unit_test_setup(a_reader_beside_a_writer_sees_only_what_was_stored, clear),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

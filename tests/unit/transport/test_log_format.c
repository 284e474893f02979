#include "support.h"

#include <sys/mman.h>

#define SECRET 0x0123456789abcdefu
#define LSN 0x7654320u

/* An entry of every kind that there is. */
static const struct sample {
	enum log_kind kind;
	uint32_t length;
} samples[] = {
	{LOG_TICK, 16},
	{LOG_CLOCK, 8},
	{LOG_NET_RX, 18},
	{LOG_NET_RX, 99},
	{LOG_NET_RX, 1514},
	{LOG_NET_RX, LOG_PAYLOAD_MAX},
	{LOG_CONSOLE_RX, 1},
	{LOG_CONSOLE_RX, 4096},
	{LOG_OUTPUT, 16},
	{LOG_MARK, 8},
	{LOG_PAGE, 8},
	{LOG_PAGE, 4104},
	{LOG_COMMIT, 16},
	{LOG_COMMIT, 7000},
	{LOG_RELEASED, 16},
	{LOG_END, 8},
	{LOG_RANDOM, 1},
	{LOG_RANDOM, 256},
};
#define SAMPLES (sizeof samples / sizeof samples[0])

static uint8_t payload[LOG_PAYLOAD_MAX];
static uint8_t whole[LOG_PAYLOAD_MAX + 64];

/* Encodes the entry that most tests damage: 30 bytes of payload and 2 of padding. */
#define FRAME 30u
static size_t encode_frame(uint8_t *out, uint64_t secret, uint64_t lsn)
{
	log_encode(out, secret, lsn, LOG_NET_RX, 1234, 77, payload, FRAME);
	return log_entry_size(FRAME);
}

static enum log_verdict judge(const uint8_t *bytes, size_t available)
{
	struct log_entry entry;
	return log_decode(bytes, available, SECRET, LSN, &entry);
}

static int set_up(void **state)
{
	(void)state;
	fill_random(payload, sizeof payload, 1);
	return 0;
}

static void an_entry_survives_the_round_trip(void **state)
{
	(void)state;
	for (size_t i = 0; i < SAMPLES; i++) {
		size_t size = log_entry_size(samples[i].length);
		assert_int_equal(size % 8, 0);
		log_encode(whole, SECRET, LSN, samples[i].kind, 1ull << 40, 0xfeedbeef, payload,
			samples[i].length);
		struct log_entry entry;
		assert_int_equal(log_decode(whole, size, SECRET, LSN, &entry), LOG_VALID);
		assert_int_equal(entry.lsn, LSN);
		assert_int_equal(entry.end, LSN + size);
		assert_int_equal(entry.position, 1ull << 40);
		assert_int_equal(entry.digest, 0xfeedbeef);
		assert_int_equal(entry.kind, samples[i].kind);
		assert_int_equal(entry.length, samples[i].length);
		assert_ptr_equal(entry.payload, whole + LOG_HEADER_SIZE);
		assert_memory_equal(entry.payload, payload, samples[i].length);
	}
}

/* The polynomial of CRC32C, bit by bit: an independent opinion. */
static uint32_t slow_crc32c(uint32_t crc, const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return crc;
}

static void the_checksum_is_crc32c(void **state)
{
	(void)state;
	assert_int_equal(~crc32c(UINT32_MAX, "123456789", 9), 0xe3069283u);
	for (size_t length = 0; length < 300; length++)
		assert_int_equal(
			crc32c(99, payload + 3, length), slow_crc32c(99, payload + 3, length));
}

static void an_entry_lies_as_the_specification_says(void **state)
{
	(void)state;
	size_t size = encode_frame(whole, SECRET, LSN);
	assert_int_equal(size, 32 + 32 + 8);
	uint64_t word;
	uint32_t half;
	uint16_t quarter;
	memcpy(&word, whole, 8);
	assert_int_equal(word, log_stamp(SECRET, LSN, STAMP_HEADER));
	memcpy(&word, whole + 8, 8);
	assert_int_equal(word, 1234);
	memcpy(&half, whole + 16, 4);
	assert_int_equal(half, FRAME);
	memcpy(&quarter, whole + 20, 2);
	assert_int_equal(quarter, LOG_NET_RX);
	memcpy(&quarter, whole + 22, 2);
	assert_int_equal(quarter, 0);
	memcpy(&half, whole + 24, 4);
	assert_int_equal(half, 77);
	assert_memory_equal(whole + 32, payload, FRAME);
	assert_int_equal(whole[62], 0);
	assert_int_equal(whole[63], 0);
	memcpy(&word, whole + 64, 8);
	assert_int_equal(word, log_stamp(SECRET, LSN, STAMP_TRAILER));
}

static void a_stamp_names_one_lsn_of_one_session(void **state)
{
	(void)state;
	enum { COUNT = 1 << 12 };
	uint64_t state_of_random = 5;
	for (uint64_t i = 0; i < COUNT; i++) {
		uint64_t lsn = i * 8, other = next_random(&state_of_random);
		for (int which = STAMP_HEADER; which <= STAMP_TRAILER; which++) {
			uint64_t stamp = log_stamp(SECRET, lsn, (enum log_stamp)which);
			assert_int_not_equal(stamp, lsn);
			assert_int_not_equal(
				stamp, log_stamp(SECRET, lsn + 8, (enum log_stamp)which));
			assert_int_not_equal(
				stamp, log_stamp(SECRET, lsn + 65536, (enum log_stamp)which));
			assert_int_not_equal(stamp, log_stamp(other, lsn, (enum log_stamp)which));
			assert_int_not_equal(
				stamp, log_stamp(SECRET, lsn, (enum log_stamp) !which));
		}
	}
}

static void a_torn_entry_is_never_valid_until_its_last_byte(void **state)
{
	(void)state;
	size_t size = encode_frame(whole, SECRET, LSN);
	static const int backgrounds[] = {0, 0xff, 0x5a};
	for (size_t b = 0; b < 3; b++) {
		uint8_t ring[128];
		memset(ring, backgrounds[b], sizeof ring);
		for (size_t placed = 0; placed <= size; placed++) {
			memcpy(ring, whole, placed);
			bool complete = memcmp(ring, whole, size) == 0;
			assert_int_equal(judge(ring, sizeof ring) == LOG_VALID, complete);
		}
		memset(ring, backgrounds[b], sizeof ring);
		for (size_t left = size; left-- > 0;) {
			ring[left] = whole[left];
			bool complete = memcmp(ring, whole, size) == 0;
			assert_int_equal(judge(ring, sizeof ring) == LOG_VALID, complete);
		}
	}
}

static void one_wrong_byte_anywhere_spoils_an_entry(void **state)
{
	(void)state;
	size_t size = encode_frame(whole, SECRET, LSN);
	for (size_t at = 0; at < size; at++) {
		for (unsigned change = 1; change < 256; change++) {
			whole[at] ^= (uint8_t)change;
			assert_int_not_equal(judge(whole, size), LOG_VALID);
			whole[at] ^= (uint8_t)change;
		}
	}
	assert_int_equal(judge(whole, size), LOG_VALID);
}

static void an_entry_placed_in_any_order_is_valid_only_when_whole(void **state)
{
	(void)state;
	size_t size = encode_frame(whole, SECRET, LSN);
	uint64_t random = 42;
	for (int round = 0; round < 2000; round++) {
		/* Pieces of 1 to 16 bytes, each missing at first, in a random order. */
		size_t starts[128], count = 0;
		for (size_t at = 0; at < size; at += 1 + next_random(&random) % 16)
			starts[count++] = at;
		starts[count] = size;
		size_t order[128];
		for (size_t i = 0; i < count; i++)
			order[i] = i;
		for (size_t i = count - 1; i > 0; i--) {
			size_t j = next_random(&random) % (i + 1), swap = order[i];
			order[i] = order[j];
			order[j] = swap;
		}
		uint8_t ring[128];
		fill_random(ring, sizeof ring, next_random(&random));
		for (size_t i = 0; i < count; i++) {
			bool complete = memcmp(ring, whole, size) == 0;
			assert_int_equal(judge(ring, sizeof ring) == LOG_VALID, complete);
			size_t from = starts[order[i]];
			memcpy(ring + from, whole + from, starts[order[i] + 1] - from);
		}
		assert_int_equal(judge(ring, sizeof ring), LOG_VALID);
	}
}

/* `old` and the entry at LSN have the same size and payload: only stamps and checksums differ. */
static void assert_no_mixture_is_valid(const uint8_t *old, size_t size)
{
	uint8_t ring[128];
	for (size_t cut = 0; cut <= size; cut++) {
		memcpy(ring, whole, cut);
		memcpy(ring + cut, old + cut, size - cut);
		bool complete = memcmp(ring, whole, size) == 0;
		assert_int_equal(judge(ring, size) == LOG_VALID, complete);
		memcpy(ring, old, cut);
		memcpy(ring + cut, whole + cut, size - cut);
		complete = memcmp(ring, whole, size) == 0;
		assert_int_equal(judge(ring, size) == LOG_VALID, complete);
	}
	for (size_t at = 0; at < size; at += 8) {
		memcpy(ring, whole, size);
		memcpy(ring + at, old + at, 8);
		bool complete = memcmp(ring, whole, size) == 0;
		assert_int_equal(judge(ring, size) == LOG_VALID, complete);
	}
}

static void an_entry_of_an_older_lap_is_never_valid(void **state)
{
	(void)state;
	uint8_t old[128];
	size_t size = encode_frame(old, SECRET, LSN - 65536);
	assert_int_equal(judge(old, size), LOG_ABSENT);
	encode_frame(whole, SECRET, LSN);
	assert_no_mixture_is_valid(old, size);
}

static void an_entry_of_another_session_is_never_valid(void **state)
{
	(void)state;
	uint8_t old[128];
	size_t size = encode_frame(old, SECRET ^ 1, LSN);
	assert_int_equal(judge(old, size), LOG_ABSENT);
	encode_frame(whole, SECRET, LSN);
	assert_no_mixture_is_valid(old, size);
}

/* A client sends frames that hold entries which would be right but for the secret, and copies of
 * real entries of other LSNs (were it ever to see some). No offset of such a frame is an entry. */
static void entries_inside_a_frame_are_never_valid(void **state)
{
	(void)state;
	uint8_t frame[1024];
	for (uint64_t guess = 0; guess < 64; guess++) {
		fill_random(frame, sizeof frame, guess);
		uint64_t inner = 16, base = LSN + LOG_HEADER_SIZE;
		while (inner + log_entry_size(FRAME) <= sizeof frame) {
			uint64_t secret = guess % 2 ? guess : SECRET;
			uint64_t lsn =
				guess % 2 ? base + inner : base + inner - 65536 * (guess + 1);
			inner += encode_frame(frame + inner, secret, lsn);
		}
		log_encode(whole, SECRET, LSN, LOG_NET_RX, 1, 1, frame, sizeof frame);
		size_t size = log_entry_size(sizeof frame);
		assert_int_equal(judge(whole, size), LOG_VALID);
		struct log_entry entry;
		for (size_t at = 8; at < size; at += 8)
			assert_int_equal(
				log_decode(whole + at, size - at, SECRET, LSN + at, &entry),
				LOG_ABSENT);
	}
}

static void no_byte_is_read_behind_what_is_available(void **state)
{
	(void)state;
	uint8_t *pages =
		mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(pages, MAP_FAILED);
	assert_int_equal(mprotect(pages + 4096, 4096, PROT_NONE), 0);
	size_t size = encode_frame(whole, SECRET, LSN);
	for (size_t available = 0; available <= size; available++) {
		uint8_t *at = pages + 4096 - available;
		memcpy(at, whole, available);
		enum log_verdict expected = available < 8      ? LOG_ABSENT
					    : available < size ? LOG_PARTIAL
							       : LOG_VALID;
		assert_int_equal(judge(at, available), expected);
	}
	munmap(pages, 2 * 4096);
}

/* Changes header bytes and makes the checksum right again, which CRC allows without the seed: it is
 * linear in what is changed. The liar who knows the secret is a broken primary. */
static void change_header(uint8_t *entry, size_t offset, const void *bytes, size_t length)
{
	uint32_t old_length;
	memcpy(&old_length, entry + 16, 4);
	uint8_t difference[28 + 4096 + 8] = {0};
	for (size_t i = 0; i < length; i++) {
		difference[offset + i] = entry[offset + i] ^ ((const uint8_t *)bytes)[i];
		entry[offset + i] = ((const uint8_t *)bytes)[i];
	}
	uint32_t crc;
	memcpy(&crc, entry + 28, 4);
	crc ^= crc32c(0, difference, 28 + ((old_length + 7) & ~7u));
	memcpy(entry + 28, &crc, 4);
}

static void kinds_that_do_not_exist_are_refused(void **state)
{
	(void)state;
	for (uint32_t kind = 0; kind <= UINT16_MAX; kind++) {
		uint16_t value = (uint16_t)kind;
		log_encode(whole, SECRET, LSN, LOG_CONSOLE_RX, 1, 1, payload, 16);
		change_header(whole, 20, &value, sizeof value);
		bool right = kind == LOG_TICK || kind == LOG_OUTPUT || kind == LOG_CONSOLE_RX ||
			     kind == LOG_RANDOM || kind == LOG_PAGE || kind == LOG_COMMIT ||
			     kind == LOG_RELEASED;
		assert_int_equal(judge(whole, log_entry_size(16)), right ? LOG_VALID : LOG_PARTIAL);
	}
}

static void lengths_that_a_kind_does_not_allow_are_refused(void **state)
{
	(void)state;
	for (uint32_t length = 1; length <= 4096; length++) {
		for (uint16_t kind = LOG_TICK; kind < LOG_KINDS; kind++) {
			/* A long payload is alike for all. */
			if (length > 40 && length < 4090 && length % 512)
				continue;
			log_encode(whole, SECRET, LSN, LOG_CONSOLE_RX, 1, 1, payload, length);
			change_header(whole, 20, &kind, sizeof kind);
			bool right = kind == LOG_TICK || kind == LOG_OUTPUT  ? length == 16
				     : kind == LOG_RELEASED                  ? length == 16
				     : kind == LOG_CLOCK || kind == LOG_MARK ? length == 8
				     : kind == LOG_END                       ? length == 8
				     : kind == LOG_NET_RX                    ? length >= 18
				     : kind == LOG_PAGE                      ? length >= 8
				     : kind == LOG_COMMIT                    ? length >= 16
				     : kind == LOG_RANDOM                    ? length <= 256
							  : kind == LOG_CONSOLE_RX;
			assert_int_equal(judge(whole, log_entry_size(length)),
				right ? LOG_VALID : LOG_PARTIAL);
		}
	}
}

static void an_impossible_length_is_not_followed(void **state)
{
	(void)state;
	static const uint32_t lengths[] = {LOG_PAYLOAD_MAX + 1, 1u << 20, INT32_MAX, 1u << 31,
		UINT32_MAX - 39, UINT32_MAX - 7, UINT32_MAX};
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		size_t size = encode_frame(whole, SECRET, LSN);
		change_header(whole, 16, &lengths[i], 4);
		assert_int_equal(judge(whole, size), LOG_PARTIAL);
		/* Nor when all of memory seems to be available. */
		assert_int_equal(judge(whole, UINT64_MAX), LOG_PARTIAL);
	}
}

static void reserved_bytes_must_be_zero(void **state)
{
	(void)state;
	size_t size = encode_frame(whole, SECRET, LSN);
	uint16_t value = 1;
	change_header(whole, 22, &value, sizeof value);
	assert_int_equal(judge(whole, size), LOG_PARTIAL);
	value = 0;
	change_header(whole, 22, &value, sizeof value);
	assert_int_equal(judge(whole, size), LOG_VALID);
}

static void encode_reserved_kind(void *argument)
{
	(void)argument;
	log_encode(whole, SECRET, LSN, LOG_DISK_DONE, 1, 1, payload, 8);
}

static void encode_wrong_length(void *argument)
{
	(void)argument;
	log_encode(whole, SECRET, LSN, LOG_MARK, 1, 1, payload, 9);
}

static void encode_odd_lsn(void *argument)
{
	(void)argument;
	log_encode(whole, SECRET, LSN + 4, LOG_MARK, 1, 1, payload, 8);
}

static void what_a_reader_would_refuse_is_not_encoded(void **state)
{
	(void)state;
	assert_aborts(encode_reserved_kind, NULL);
	assert_aborts(encode_wrong_length, NULL);
	assert_aborts(encode_odd_lsn, NULL);
}

/* Frames of 14, 1514 and 15 bytes, the second with a header, and one that says another length. */
static void frames_come_in_order_and_nothing_else_does(void **state)
{
	(void)state;
	static const uint32_t words[] = {14, 1514 | LOG_FRAME_HEADED, 15};
	static const uint8_t no_header[LOG_FRAME_HEADER];
	static uint8_t bytes[4 * 3 + 14 + 12 + 1514 + 15];
	struct log_entry entry = {.payload = bytes, .length = sizeof bytes};
	struct log_frame frame;
	uint32_t end = 0, at = 0;
	for (unsigned i = 0; i < 3; i++) {
		memcpy(bytes + end, &words[i], 4);
		end += 4 + (words[i] & LOG_FRAME_HEADED ? 12u : 0) + (words[i] & ~LOG_FRAME_HEADED);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_true(log_frame_next(&entry, &at, &frame));
		assert_int_equal(frame.length, words[i] & ~LOG_FRAME_HEADED);
		assert_ptr_equal(frame.bytes + frame.length, bytes + at);
		if (words[i] & LOG_FRAME_HEADED)
			assert_ptr_equal(frame.header + 12, frame.bytes);
		else
			assert_memory_equal(frame.header, no_header, sizeof no_header);
	}
	assert_false(log_frame_next(&entry, &at, &frame));
	assert_int_equal(at, sizeof bytes);

	static const uint32_t wrong[] = {0, 13, 16, 1 << 16, INT32_MAX, LOG_FRAME_HEADED, 13 | LOG_FRAME_HEADED,
		4 | LOG_FRAME_HEADED, UINT32_MAX - 3, UINT32_MAX};
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		memcpy(bytes + sizeof bytes - 19, &wrong[i], 4);
		for (at = 0; log_frame_next(&entry, &at, &frame);)
			assert_in_range(frame.bytes + frame.length - bytes, 0, sizeof bytes);
		assert_int_equal(at, sizeof bytes - 19);
	}
	/* A part of a length is none, and a part of a header. */
	for (entry.length = sizeof bytes - 18; entry.length < sizeof bytes - 1; entry.length++) {
		for (at = 0; log_frame_next(&entry, &at, &frame);)
			;
		assert_int_equal(at, sizeof bytes - 19);
	}
}

static void only_a_header_that_says_something_is_logged(void **state)
{
	(void)state;
	uint8_t header[LOG_FRAME_HEADER] = {0};
	assert_int_equal(log_frame_word(header, 12 + 60), 60);
	for (unsigned i = 0; i < sizeof header; i++) {
		header[i] = 1;
		assert_int_equal(log_frame_word(header, 12 + 60), 60 | LOG_FRAME_HEADED);
		header[i] = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_entry_survives_the_round_trip),
		cmocka_unit_test(the_checksum_is_crc32c),
		cmocka_unit_test(an_entry_lies_as_the_specification_says),
		cmocka_unit_test(a_stamp_names_one_lsn_of_one_session),
		cmocka_unit_test(a_torn_entry_is_never_valid_until_its_last_byte),
		cmocka_unit_test(one_wrong_byte_anywhere_spoils_an_entry),
		cmocka_unit_test(an_entry_placed_in_any_order_is_valid_only_when_whole),
		cmocka_unit_test(an_entry_of_an_older_lap_is_never_valid),
		cmocka_unit_test(an_entry_of_another_session_is_never_valid),
		cmocka_unit_test(entries_inside_a_frame_are_never_valid),
		cmocka_unit_test(no_byte_is_read_behind_what_is_available),
		cmocka_unit_test(kinds_that_do_not_exist_are_refused),
		cmocka_unit_test(lengths_that_a_kind_does_not_allow_are_refused),
		cmocka_unit_test(an_impossible_length_is_not_followed),
		cmocka_unit_test(reserved_bytes_must_be_zero),
		cmocka_unit_test(what_a_reader_would_refuse_is_not_encoded),
		cmocka_unit_test(frames_come_in_order_and_nothing_else_does),
		cmocka_unit_test(only_a_header_that_says_something_is_logged),
	};
	return !!cmocka_run_group_tests(tests, set_up, NULL);
}

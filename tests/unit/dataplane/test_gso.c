#include "dataplane/gso.h"
#include "tests/unit/dataplane/tcp_frame.h"

#define MTU 1500u

static uint8_t output[70000], piece[70000], wanted[70000];

static void cut_and_compare(const struct plan *plan, uint16_t size)
{
	struct gso gso;
	size_t length = make_large(output, plan, size);
	assert_true(gso_begin(&gso, output, length, MTU));
	uint32_t done = 0;
	unsigned number = 0;
	do {
		assert_false(gso_ended(&gso));
		uint32_t left = plan->payload - done;
		struct plan part = *plan;
		part.payload = left < size ? left : size;
		part.first += done;
		part.sequence += done;
		part.number = (part.number + number) & 0xffff;
		if (number)
			part.flags &= (uint8_t)~TCP_CWR;
		if (done + part.payload < plan->payload)
			part.flags &= (uint8_t) ~(TCP_PSH | TCP_FIN);
		size_t right = make_frame(wanted, &part, false);
		memset(piece, 0xee, right + 1);
		assert_int_equal(gso_length(&gso), right);
		gso_next(&gso, piece);
		assert_memory_equal(piece, wanted, right);
		assert_int_equal(piece[right], 0xee);
		assert_true(checksums_are_right(piece, &part, right));
		done += part.payload;
		number++;
	} while (done < plan->payload);
	assert_true(gso_ended(&gso));
}

static void a_large_segment_becomes_those_that_would_have_been_sent_alone(void **state)
{
	(void)state;
	static const uint32_t payloads[] = {0, 1, 1447, 1448, 1449, 2896, 10000, 65463};
	for (unsigned i = 0; i < 4 * sizeof payloads / sizeof payloads[0]; i++) {
		uint32_t payload = payloads[i / 4];
		const struct plan plan = {.v6 = i & 1,
			.tagged = i & 2,
			.flags = TCP_ACK | TCP_PSH | TCP_FIN | TCP_CWR,
			.sequence = SEQUENCE,
			.payload = payload,
			.number = 0xfffe};
		cut_and_compare(&plan, 1428);
		cut_and_compare(&plan, 536);
	}
}

static void a_partial_checksum_is_completed(void **state)
{
	(void)state;
	struct gso gso;
	for (uint32_t payload = 0; payload < 600; payload++) {
		const struct plan plan = {
			.v6 = payload & 1, .flags = TCP_ACK, .payload = payload, .first = payload};
		size_t length = make_large(output, &plan, 0);
		output[1] = FRAME_WHOLE;
		assert_true(gso_begin(&gso, output, length, MTU));
		assert_int_equal(gso_length(&gso), length - FRAME_HEADER);
		gso_next(&gso, piece);
		assert_true(gso_ended(&gso));
		assert_true(checksums_are_right(piece, &plan, length - FRAME_HEADER));
	}
}

static void a_checksum_of_zero_is_sent_as_all_ones(void **state)
{
	(void)state;
	struct gso gso;
	memset(output, 0, 100);
	output[0] = FRAME_NEEDS_CHECKSUM;
	output[6] = 20; /* of the two bytes at 20, which are all ones */
	output[FRAME_HEADER + 20] = output[FRAME_HEADER + 21] = 0xff;
	output[8] = 6;
	assert_true(gso_begin(&gso, output, FRAME_HEADER + 60, MTU));
	gso_next(&gso, piece);
	assert_int_equal(frame_get16(piece + 26), 0xffff);
}

static void any_other_frame_is_left_as_it_is(void **state)
{
	(void)state;
	struct gso gso;
	for (size_t length = 14; length <= 1514; length++) {
		memset(output, 0, FRAME_HEADER);
		for (size_t i = 0; i < length; i++)
			output[FRAME_HEADER + i] = (uint8_t)(i * 7 + length);
		assert_true(gso_begin(&gso, output, FRAME_HEADER + length, MTU));
		assert_int_equal(gso_length(&gso), length);
		gso_next(&gso, piece);
		assert_true(gso_ended(&gso));
		assert_memory_equal(piece, output + FRAME_HEADER, length);
	}
}

static void what_is_too_long_or_too_short_is_refused(void **state)
{
	(void)state;
	struct gso gso;
	const struct plan plan = {.flags = TCP_ACK, .payload = 10000};
	memset(output, 0, sizeof output);
	for (size_t length = 0; length < FRAME_HEADER + 14; length++)
		assert_false(gso_begin(&gso, output, length, MTU));
	assert_false(gso_begin(&gso, output, FRAME_HEADER + 1515, MTU));
	size_t length = make_large(output, &plan, 1448); /* with 52 bytes of headers: 1,500 */
	assert_true(gso_begin(&gso, output, length, MTU));
	make_large(output, &plan, 1449);
	assert_false(gso_begin(&gso, output, length, MTU));
	/* So many pieces that it can only be an attack. */
	make_large(output, &plan, 4);
	assert_false(gso_begin(&gso, output, length, MTU));
	make_large(output, &plan, 5);
	assert_true(gso_begin(&gso, output, length, MTU));
}

static void a_header_that_lies_is_refused(void **state)
{
	(void)state;
	struct gso gso;
	const struct plan plan = {.flags = TCP_ACK, .payload = 10000};
	const struct plan short_one = {.flags = TCP_ACK, .payload = 100};
	static const struct {
		size_t at;
		uint8_t value;
	} lies[] = {{0, 0}, {1, 2}, {1, 3}, {1, 4}, {1, 5}, {1, 0x7f}, {4, 0}, {6, 0},
		{8, 6}, /* in the header */
		{FRAME_HEADER + 12, 0x86}, {FRAME_HEADER + 14, 0x65}, {FRAME_HEADER + 14, 0x44},
		{FRAME_HEADER + 14, 0x4f}, {FRAME_HEADER + 16, 0xff}, {FRAME_HEADER + 17, 0},
		{FRAME_HEADER + 20, 0x20}, {FRAME_HEADER + 21, 1}, {FRAME_HEADER + 23, 17},
		{FRAME_HEADER + 46, 0x40}};
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		size_t length = make_large(output, &plan, 1280); /* 0x500 */
		if (lies[i].at == 4)
			output[5] = 0;
		output[lies[i].at] = lies[i].value;
		assert_false(gso_begin(&gso, output, length, MTU));
	}
	/* A checksum outside the frame. */
	size_t length = make_large(output, &short_one, 0) - FRAME_HEADER;
	output[1] = FRAME_WHOLE;
	for (unsigned start = 0; start < 400; start++) {
		output[6] = (uint8_t)start, output[7] = (uint8_t)(start >> 8);
		assert_int_equal(gso_begin(&gso, output, FRAME_HEADER + length, MTU),
			start < length && start + 16 + 2 <= length);
	}
	output[6] = output[7] = output[8] = output[9] = 0xff;
	assert_false(gso_begin(&gso, output, FRAME_HEADER + length, MTU));
}

/* Any bytes at all: nothing is written or read outside (which the sanitizers see), and it ends. */
static void hostile_frames_are_survived(void **state)
{
	(void)state;
	unsigned seed = 1;
	struct gso gso;
	unsigned begun = 0;
	for (unsigned round = 0; round < 100000; round++) {
		const struct plan plan = {.v6 = round & 1,
			.tagged = round & 2,
			.flags = TCP_ACK,
			.payload = (unsigned)rand_r(&seed) % 3000};
		size_t length = make_large(output, &plan, 700);
		for (unsigned n = (unsigned)rand_r(&seed) % 4; n > 0; n--)
			output[(unsigned)rand_r(&seed) % 90] = (uint8_t)rand_r(&seed);
		length -= (unsigned)rand_r(&seed) % 3 ? 0 : (unsigned)rand_r(&seed) % length;
		uint8_t *exact = malloc(length ? length : 1);
		memcpy(exact, output, length);
		bool good = gso_begin(&gso, exact, length, MTU);
		for (unsigned pieces = 0; good && !gso_ended(&gso); pieces++) {
			assert_true(pieces < 4096 && gso_length(&gso) <= 1518);
			uint8_t *to = malloc(gso_length(&gso));
			gso_next(&gso, to);
			free(to);
		}
		begun += good;
		free(exact);
	}
	assert_true(begun > 10000 && begun < 90000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_large_segment_becomes_those_that_would_have_been_sent_alone),
		cmocka_unit_test(a_partial_checksum_is_completed),
		cmocka_unit_test(a_checksum_of_zero_is_sent_as_all_ones),
		cmocka_unit_test(any_other_frame_is_left_as_it_is),
		cmocka_unit_test(what_is_too_long_or_too_short_is_refused),
		cmocka_unit_test(a_header_that_lies_is_refused),
		cmocka_unit_test(hostile_frames_are_survived),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "dataplane/gro.h"
#include "dataplane/gso.h"
#include "tests/unit/dataplane/tcp_frame.h"

#define MOST 65407u

static uint8_t large[70000], merged[FRAME_HEADER + 70000], segments[64][1600];
static size_t lengths[64];

/* Merges segments from `from` on, as the port does it; returns how many. */
static unsigned merge(unsigned from, unsigned count, size_t most)
{
	struct gro gro;
	struct frame_header header;
	const uint8_t *payload;
	uint32_t length;
	uint8_t *frame = merged + FRAME_HEADER;
	if (!gro_begin(&gro, segments[from], lengths[from]))
		return 0;
	memcpy(frame, segments[from], gro.length);
	for (unsigned i = 1; i < count; i++) {
		if (!gro_add(&gro, segments[from + i], lengths[from + i], most, &payload, &length))
			break;
		memcpy(frame + gro.length - length, payload, length);
	}
	gro_headers(&gro, &header, frame);
	memcpy(merged, &header, sizeof header);
	return gro.count;
}

/* Segments of `size` bytes each, `count` of them, of one stream. */
static void make_segments(struct plan plan, unsigned count, uint32_t size)
{
	plan.payload = size;
	for (unsigned i = 0; i < count; i++) {
		lengths[i] = make_frame(segments[i], &plan, false);
		plan.first += size;
		plan.sequence += size;
		plan.number++;
	}
}

static void what_was_cut_is_merged_into_what_it_was(void **state)
{
	(void)state;
	static const uint32_t payloads[] = {1429, 2856, 2857, 40000, 62800};
	for (unsigned i = 0; i < 8 * sizeof payloads / sizeof payloads[0]; i++) {
		const struct plan plan = {.v6 = i & 1,
			.tagged = i & 2,
			.flags = TCP_ACK | (i & 4 ? TCP_PSH : 0),
			.sequence = SEQUENCE,
			.payload = payloads[i / 8],
			.number = 0xfff0};
		struct gso gso;
		size_t length = make_large(large, &plan, 1428);
		unsigned count = 0;
		assert_true(gso_begin(&gso, large, length, 1500));
		for (; !gso_ended(&gso); count++) {
			lengths[count] = gso_length(&gso);
			gso_next(&gso, segments[count]);
		}
		assert_int_equal(merge(0, count, MOST), count);
		assert_memory_equal(merged, large, length);
	}
}

static void only_neighbours_of_one_stream_are_merged(void **state)
{
	(void)state;
	const struct plan plan = {.flags = TCP_ACK, .sequence = SEQUENCE};
	/* A bit of a field that must be equal, or of the sequence; checksums are made right again. */
	static const size_t fields[] = {0, 6, 15, 20, 22, 26, 30, 34, 36, 38, 42, 47, 49, 55, 60};
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		make_segments(plan, 3, 500);
		assert_int_equal(merge(0, 3, MOST), 3);
		uint8_t *frame = segments[1];
		frame[fields[i]] ^= fields[i] == 20 ? 0x80 : 1;
		frame_put16(frame + 24, 0);
		frame_put16(frame + 24, ~slow_sum(0, frame + 14, 20) & 0xffff);
		frame_put16(frame + 50, 0);
		unsigned sum = slow_sum(slow_pseudo(frame + 14, 532), frame + 34, 532);
		frame_put16(frame + 50, ~sum & 0xffff);
		assert_int_equal(merge(0, 3, MOST), 1);
	}
	make_segments(plan, 3, 500);
	memcpy(segments[1], segments[2], lengths[2]); /* one is missing */
	assert_int_equal(merge(0, 2, MOST), 1);
	make_segments(plan, 3, 500);
	assert_int_equal(merge(1, 2, MOST), 2);
}

static void a_wrong_checksum_is_left_for_the_guest_to_see(void **state)
{
	(void)state;
	for (unsigned v6 = 0; v6 < 2; v6++) {
		const struct plan plan = {.v6 = v6, .flags = TCP_ACK, .sequence = SEQUENCE};
		for (unsigned wrong = 0; wrong < 4; wrong++) {
			make_segments(plan, 4, 1000);
			segments[wrong][300] ^= 1;
			assert_int_equal(merge(0, 4, MOST), wrong ? wrong : 1);
		}
		make_segments(plan, 4, 1000);
		segments[1][24] ^= v6 ? 0 : 1; /* of IPv4 */
		assert_int_equal(merge(0, 4, MOST), v6 ? 4 : 1);
	}
}

static void a_shorter_segment_or_PSH_is_the_last(void **state)
{
	(void)state;
	struct plan plan = {.flags = TCP_ACK, .sequence = 5, .payload = 1000};
	make_segments(plan, 4, 1000);
	plan.sequence = 2005, plan.payload = 1000, plan.flags = TCP_ACK | TCP_PSH,
	plan.first = 2000;
	make_frame(segments[2], &plan, false);
	assert_int_equal(merge(0, 4, MOST), 3);
	assert_int_equal(merged[FRAME_HEADER + 34 + TCP_FLAGS], TCP_ACK | TCP_PSH);
	assert_int_equal(merge(2, 2, MOST), 0); /* nor does one with PSH begin */
	plan.flags = TCP_ACK, plan.payload = 999;
	lengths[2] = make_frame(segments[2], &plan, false);
	assert_int_equal(merge(0, 4, MOST), 3);
	plan.sequence = 2005 + 999; /* even if the stream goes on directly behind */
	lengths[3] = make_frame(segments[3], &plan, false);
	assert_int_equal(merge(0, 4, MOST), 3);
	plan.sequence = 2005;
	/* A longer one does not belong to it. */
	plan.payload = 1001;
	lengths[2] = make_frame(segments[2], &plan, false);
	assert_int_equal(merge(0, 4, MOST), 2);
}

static void nothing_but_plain_data_begins(void **state)
{
	(void)state;
	struct gro gro;
	static const uint8_t flags[] = {0, 0x02, 0x12, 0x11, 0x14, 0x18, 0x30, 0x50, 0x90};
	for (size_t i = 0; i < sizeof flags; i++) {
		const struct plan plan = {.flags = flags[i], .payload = 100};
		size_t length = make_frame(segments[0], &plan, false);
		assert_false(gro_begin(&gro, segments[0], length));
	}
	const struct plan empty = {.flags = TCP_ACK};
	assert_false(gro_begin(&gro, segments[0], make_frame(segments[0], &empty, false)));
}

static void a_frame_cut_short_is_left_alone(void **state)
{
	(void)state;
	struct gro gro;
	const struct plan plan = {.flags = TCP_ACK, .payload = 100};
	size_t whole = make_frame(segments[0], &plan, false);
	for (size_t length = 0; length < whole; length++)
		assert_false(gro_begin(&gro, segments[0], length));
	assert_true(gro_begin(&gro, segments[0], whole));
}

static void padding_is_no_payload(void **state)
{
	(void)state;
	const struct plan plan = {.flags = TCP_ACK, .sequence = SEQUENCE};
	make_segments(plan, 2, 3);
	for (unsigned i = 0; i < 2; i++) {
		memset(segments[i] + lengths[i], 0xaa, 20);
		lengths[i] += 20;
	}
	assert_int_equal(merge(0, 2, MOST), 2);
	const struct plan both = {.flags = TCP_ACK, .sequence = SEQUENCE, .payload = 6};
	size_t length = make_large(large, &both, 3);
	assert_memory_equal(merged, large, length);
}

static void it_ends_where_the_room_or_IPs_length_does(void **state)
{
	(void)state;
	const struct plan plan = {.flags = TCP_ACK, .sequence = SEQUENCE};
	make_segments(plan, 60, 1400);
	assert_int_equal(merge(0, 60, 66 + 5 * 1400), 5);
	assert_int_equal(merge(0, 60, 66 + 5 * 1400 - 1), 4);
	assert_int_equal(merge(0, 60, 70000), (65535 - 52) / 1400);
}

static void hostile_frames_are_survived(void **state)
{
	(void)state;
	unsigned seed = 1, merges = 0;
	const uint8_t *payload;
	uint32_t length;
	for (unsigned round = 0; round < 100000; round++) {
		const struct plan plan = {.v6 = round & 1,
			.tagged = round & 2,
			.flags = TCP_ACK,
			.sequence = SEQUENCE};
		make_segments(plan, 2, (unsigned)rand_r(&seed) % 60);
		uint8_t *exact[2];
		for (unsigned i = 0; i < 2; i++) {
			for (unsigned n = (unsigned)rand_r(&seed) % 3; n > 0; n--)
				segments[i][(unsigned)rand_r(&seed) % 90] = (uint8_t)rand_r(&seed);
			if ((unsigned)rand_r(&seed) % 4 == 0)
				lengths[i] = (unsigned)rand_r(&seed) % lengths[i];
			exact[i] = malloc(lengths[i] ? lengths[i] : 1);
			memcpy(exact[i], segments[i], lengths[i]);
		}
		struct gro gro;
		if (gro_begin(&gro, exact[0], lengths[0]) &&
			gro_add(&gro, exact[1], lengths[1], MOST, &payload, &length)) {
			merges++;
			assert_true(
				payload >= exact[1] && payload + length <= exact[1] + lengths[1]);
			assert_true(gro.length <= lengths[0] + lengths[1]);
			struct frame_header header;
			gro_headers(&gro, &header, merged);
		}
		free(exact[0]);
		free(exact[1]);
	}
	assert_true(merges > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_cut_is_merged_into_what_it_was),
		cmocka_unit_test(only_neighbours_of_one_stream_are_merged),
		cmocka_unit_test(a_wrong_checksum_is_left_for_the_guest_to_see),
		cmocka_unit_test(a_shorter_segment_or_PSH_is_the_last),
		cmocka_unit_test(nothing_but_plain_data_begins),
		cmocka_unit_test(a_frame_cut_short_is_left_alone),
		cmocka_unit_test(padding_is_no_payload),
		cmocka_unit_test(it_ends_where_the_room_or_IPs_length_does),
		cmocka_unit_test(hostile_frames_are_survived),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

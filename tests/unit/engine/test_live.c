#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 60u
#define RING (1u << 20)
#define SMALL_RING LOG_RING_MIN

/* What a replay of it all comes to; D5 is checked at every entry. */
static void assert_replays(struct tiny *recorded, struct tiny *twin)
{
	tiny_follow(twin, recorded->log, atomic_load(&recorded->written));
	twin->replay.offline = true;
	twin->replay.limit = atomic_load(&recorded->written);
	twin->replay.ended = true;
	tiny_start(twin);
	tiny_join(twin);
	if (twin->machine.verdict != MACHINE_ENDED && twin->machine.verdict != MACHINE_STOPPED)
		print_error("%s\n", twin->machine.message);
	assert_int_equal(twin->machine.verdict, recorded->machine.verdict);
	assert_int_equal(twin->machine.end_reason, recorded->machine.end_reason);
	assert_int_equal(twin->replay.reader.next, atomic_load(&recorded->written));
}

static void what_is_logged_makes_the_same_machine_again(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS), *twin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_run_disturbed(t);
	assert_powered_off(t);
	assert_printed(t, ROUNDS);

	unsigned kinds[LOG_KINDS] = {0};
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	while (tiny_walk(&reader, &entry))
		kinds[entry.kind]++;
	assert_true(kinds[LOG_TICK] && kinds[LOG_CLOCK] && kinds[LOG_NET_RX] &&
		    kinds[LOG_CONSOLE_RX] && kinds[LOG_OUTPUT] && kinds[LOG_MARK]);
	assert_int_equal(kinds[LOG_END], 1);

	assert_replays(t, twin);
	assert_int_equal(twin->machine.exits, t->machine.exits);
	assert_memory_equal(twin->machine.memory.base, t->machine.memory.base, MEMORY);
	assert_memory_equal(&twin->machine.board, &t->machine.board, sizeof t->machine.board);
	tiny_free(twin);
	tiny_free(t);
}

static void the_cmos_clocks_interrupt_is_an_input(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	t->machine.board.cmos.bytes[11] |=
		0x10; /* update-ended interrupts, the first one at once */
	t->machine.board.cmos.update_ns = 1;
	struct tiny *twin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_run_disturbed(t);
	assert_powered_off(t);

	unsigned ticks = 0;
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	while (tiny_walk(&reader, &entry)) {
		struct log_tick tick;
		memcpy(&tick, entry.payload, entry.kind == LOG_TICK ? sizeof tick : 0);
		ticks += entry.kind == LOG_TICK && tick.timer == LOG_TIMER_CMOS;
	}
	assert_true(ticks >= 1);
	assert_int_equal(t->machine.board.cmos.bytes[12], 0x90); /* nobody has read it away */
	assert_replays(t, twin);
	assert_memory_equal(&twin->machine.board, &t->machine.board, sizeof t->machine.board);
	tiny_free(twin);
	tiny_free(t);
}

static void nothing_follows_the_end(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	struct log_entry entry = {0};
	tiny_record(t, RING);
	tiny_start(t);
	usleep(10000);
	/* Twice, as an impatient person would. */
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	struct log_reader reader = tiny_reader(t);
	unsigned ends = 0;
	while (tiny_walk(&reader, &entry))
		ends += entry.kind == LOG_END;
	assert_int_equal(ends, 1);
	assert_int_equal(entry.kind, LOG_END);
	assert_int_equal(reader.next, atomic_load(&t->written));
	tiny_free(t);
}

static void a_stop_after_the_guests_own_end_changes_nothing(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(2);
	tiny_record(t, RING);
	tiny_start(t);
	tiny_await(&t->over);
	uint64_t written = atomic_load(&t->written);
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(atomic_load(&t->written), written);
	tiny_free(t);
}

static void frames_that_wait_together_are_one_entry(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS), *twin = tiny_twin(t);
	tiny_record(t, RING);
	for (unsigned i = 0; i < RX_COUNT - 4; i++)
		tiny_frame(t, tiny_frame_bytes, sizeof tiny_frame_bytes - i % 7);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	unsigned bursts = 0, frames = 0;
	while (tiny_walk(&reader, &entry)) {
		struct log_frame frame;
		uint32_t at = 0;
		bursts += entry.kind == LOG_NET_RX;
		while (entry.kind == LOG_NET_RX && log_frame_next(&entry, &at, &frame)) {
			assert_memory_equal(frame.header, tiny_frame_bytes, FRAME_HEADER);
			assert_memory_equal(frame.bytes, tiny_frame_bytes + FRAME_HEADER, frame.length);
			assert_int_equal(FRAME_HEADER + frame.length, sizeof tiny_frame_bytes - frames++ % 7);
		}
	}
	assert_int_equal(frames, RX_COUNT - 4);
	assert_int_equal(bursts, 2);
	assert_int_equal(t->machine.board.net.rx_frames, RX_COUNT - 4);
	assert_replays(t, twin);
	assert_int_equal(twin->machine.board.net.rx_frames, RX_COUNT - 4);
	tiny_free(twin);
	tiny_free(t);
}

static void offer(struct tiny *t, uint16_t buffers)
{
	memcpy(t->machine.memory.base + RX_DRIVER + 2, &buffers, sizeof buffers);
}

/* How long a frame has waited for buffers says nothing about the next one that does. */
static void a_burst_ends_the_wait_of_a_frame_for_buffers(void **state)
{
	(void)state;
	NEED_KVM();
	static const uint8_t large[5000] = {[12] = 2, 0, 0, 0, 0, 1, 2};
	struct tiny *t = tiny_busy(ROUNDS);
	struct machine *m = &t->machine;
	m->board.net.mmio.features |= 1u << 15; /* buffers are merged */
	m->exits = 1;
	tiny_record(t, RING);
	offer(t, 1);
	tiny_frame(t, large, sizeof large);
	tiny_frame(t, large, sizeof large);
	m->source->inputs(m);
	assert_int_equal(m->board.net.rx_frames, 0);
	assert_true(t->live.short_since > 0);
	offer(t, RX_COUNT);
	m->source->inputs(m);
	assert_int_equal(m->board.net.rx_frames, 2);
	assert_int_equal(t->live.short_since, 0);
	tiny_free(t);
}

/* L3. The consumer is slow, and leaves the writer with every odd amount of room. */
static void a_full_log_stops_the_guest_not_the_log(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(10 * ROUNDS), *twin = tiny_twin(t);
	static const uint8_t frame[1500] = {[12] = 2, 0, 0, 0, 0, 1, 2};
	tiny_record(t, SMALL_RING);
	atomic_store(&t->consumed, 0);
	for (unsigned i = 0; i < RX_COUNT; i++)
		tiny_frame(t, frame, sizeof frame - i);
	tiny_start(t);
	uint32_t random = 7;
	uint64_t before = 0;
	unsigned stops = 0;
	while (!atomic_load(&t->over)) {
		uint64_t consumed = atomic_load(&t->consumed), written = atomic_load(&t->written);
		assert_true(written - consumed <= SMALL_RING);
		/* A burst of frames may be what waits. */
		if (written == before && written - consumed > SMALL_RING - FLUSH_BYTES - 2048) {
			stops++;
			/* 8 to 384 bytes, often less than the entry that waits. */
			random = random * 1664525u + 1013904223u;
			atomic_store(&t->consumed, consumed + 8 + (random >> 16) % 48 * 8);
		}
		before = written;
		usleep(50);
	}
	tiny_join(t);
	assert_true(stops > 100);
	assert_true(atomic_load(&t->live.stops) > 0);
	assert_powered_off(t);
	assert_printed(t, 10 * ROUNDS);
	assert_replays(t, twin);
	tiny_free(twin);
	tiny_free(t);
}

/* D6: an entry tells its position itself. */
static void a_mark_tells_only_what_no_entry_has_told(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct machine *m = &t->machine;
	struct log_entry entry;
	tiny_record(t, SMALL_RING);
	for (m->exits = 1; m->exits <= 2; m->exits++) {
		if (m->exits == 1)
			m->source->clock(m);
		t->live.flush_wanted = true;
		m->source->inputs(m);
	}
	struct log_reader reader = tiny_reader(t);
	assert_true(tiny_walk(&reader, &entry));
	assert_int_equal(entry.kind, LOG_CLOCK);
	assert_int_equal(entry.position, 1);
	assert_true(tiny_walk(&reader, &entry));
	assert_int_equal(entry.kind, LOG_MARK);
	assert_int_equal(*(const uint64_t *)entry.payload, 2);
	assert_false(tiny_walk(&reader, &entry));
	tiny_free(t);
}

/* D5: a position whose entries found no room has no digest either, or both sides would differ from
 * there on. A CLOCK and a MARK are 48 bytes each, and 1,365 of them leave 16 bytes of the ring. */
static void the_digest_steps_only_where_an_entry_is_logged(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct machine *m = &t->machine;
	tiny_record(t, SMALL_RING);
	atomic_store(&t->consumed, 0);
	m->exits = 1;
	for (unsigned i = 0; i < SMALL_RING / 48; i++)
		m->source->clock(m);
	struct digest before = m->digest;
	assert_int_equal(before.at, 1);
	m->exits = 2;
	t->live.flush_wanted = true;
	m->source->inputs(m);
	assert_int_equal(atomic_load(&t->written), SMALL_RING / 48 * 48); /* no MARK */
	assert_memory_equal(&m->digest, &before, sizeof before);
	tiny_free(t);
}

static void do_count(struct machine *m, void *argument)
{
	unsigned *count = argument;
	(void)m;
	(*count)++;
}

/* The backup is behind and stays there. */
static void a_guest_that_is_slowed_is_the_same_machine_and_answers(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS), *twin = tiny_twin(t);
	unsigned calls = 0, answered = 0;
	t->live.lag.bound_ns = 1000;
	tiny_record(t, RING);
	atomic_store(&t->consumed, 0);
	tiny_start(t);
	for (; !atomic_load(&t->over); calls++, usleep(500)) {
		machine_call(&t->machine, MACHINE_ANYWHERE, do_count, &answered);
		live_beat(&t->machine);
	}
	tiny_join(t);
	assert_true(t->live.lag.slept_ns > 0);
	assert_int_equal(answered, calls);
	assert_powered_off(t);
	assert_printed(t, ROUNDS);
	assert_replays(t, twin);
	tiny_free(twin);
	tiny_free(t);
}

static void stop_in_a_full_log(struct tiny *t)
{
	tiny_record(t, SMALL_RING);
	atomic_store(&t->consumed, 0);
	static const uint8_t frame[1500] = {[12] = 2, 0, 0, 0, 0, 1, 2};
	for (unsigned i = 0; i < RX_COUNT; i++)
		tiny_frame(t, frame, sizeof frame);
	tiny_start(t);
	/* The frames are three bursts, of which two have room. */
	while (atomic_load(&t->written) < SMALL_RING - FLUSH_BYTES)
		usleep(100);
}

static void a_guest_that_waits_for_room_can_be_stopped(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(10 * ROUNDS);
	stop_in_a_full_log(t);
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
	tiny_free(t);
}

/* A sink that has taken all, and sends nothing before it may. */
static _Atomic bool may_send, is_full;
static _Atomic unsigned frames_sent;
static uint8_t pool[4][60];

static int slow_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	if (atomic_load(&is_full))
		return -EAGAIN;
	for (int i = 0; i < count; i++) {
		for (unsigned k = 0; k < 4; k++)
			frames_sent += pieces[i].iov_base == pool[k] + FRAME_HEADER &&
				       pieces[i].iov_len == sizeof pool[k] - FRAME_HEADER;
	}
	return tiny_sink_write(context, lsn, pieces, count);
}

static uint64_t slow_written(void *context)
{
	return atomic_load(&may_send) ? tiny_sink_written(context) : 0;
}

static const struct log_sink slow_sink = {
	.write = slow_write, .written = slow_written, .consumed = tiny_sink_consumed};

static struct tiny *start_slowly(uint32_t rounds, struct tiny **twin)
{
	struct tiny *t = tiny_busy(rounds);
	*twin = tiny_twin(t);
	atomic_store(&may_send, false);
	atomic_store(&frames_sent, 0);
	assert_int_equal(log_writer_create(&t->writer, &slow_sink, t, RING, SECRET, 0), 0);
	log_writer_lend(t->writer, pool, sizeof pool);
	live_begin_log(&t->machine, t->writer, SESSION);
	for (unsigned i = 0; i < 4; i++) {
		memcpy(pool[i], tiny_frame_bytes, sizeof pool[i]);
		tiny_frame(t, pool[i], sizeof pool[i]);
	}
	tiny_start(t);
	return t;
}

static void a_frame_is_sent_from_where_it_lies_and_kept_until_it_is_sent(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *twin, *t = start_slowly(ROUNDS, &twin);
	while (atomic_load(&frames_sent) < 4)
		usleep(100);
	uint64_t before = atomic_load(&t->written);
	while (atomic_load(&t->written) == before)
		usleep(100);
	assert_int_equal(atomic_load(&t->live.frames.freed), 0);
	atomic_store(&may_send, true);
	while (atomic_load(&t->live.frames.freed) < 4)
		usleep(100);
	tiny_join(t);
	assert_int_equal(atomic_load(&frames_sent), 4);
	assert_powered_off(t);
	assert_replays(t, twin);
	tiny_free(twin);
	tiny_free(t);
}

static void a_sink_without_room_is_asked_again_and_loses_nothing(void **state)
{
	(void)state;
	NEED_KVM();
	atomic_store(&is_full, true);
	struct tiny *twin, *t = start_slowly(10 * ROUNDS, &twin);
	usleep(20000);
	assert_int_equal(atomic_load(&t->written), 0);
	atomic_store(&may_send, true);
	atomic_store(&is_full, false);
	tiny_join(t);
	assert_int_equal(atomic_load(&frames_sent), 4);
	assert_powered_off(t);
	assert_replays(t, twin);
	tiny_free(twin);
	tiny_free(t);
}

/* Nothing follows it that would hand it over. */
static void an_end_that_is_refused_is_handed_over_later(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct log_entry entry;
	tiny_load(t, restarting_begin, restarting_end);
	atomic_store(&is_full, true);
	assert_int_equal(log_writer_create(&t->writer, &slow_sink, t, RING, SECRET, 0), 0);
	live_begin_log(&t->machine, t->writer, SESSION);
	tiny_start(t);
	usleep(20000);
	atomic_store(&is_full, false);
	tiny_join(t);
	struct log_reader reader = tiny_reader(t);
	assert_true(tiny_walk(&reader, &entry));
	assert_int_equal(entry.kind, LOG_END);
	tiny_free(t);
}

static void do_end_log(struct machine *m, void *argument)
{
	(void)argument;
	assert_non_null(live_end_log(m));
}

static bool kept_before, kept_behind;

static void do_end_log_with_frames(struct machine *m, void *argument)
{
	struct tiny *t = argument;
	kept_before = frame_queue_keeps(&t->live.frames);
	(void)live_end_log(m);
	kept_behind = frame_queue_keeps(&t->live.frames);
}

/* The next log begins at LSN 0 again, perhaps before the guest's next exit. */
static void no_frame_waits_for_a_log_that_has_ended(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *twin, *t = start_slowly(100 * ROUNDS, &twin);
	while (atomic_load(&frames_sent) < 4)
		usleep(100);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_end_log_with_frames, t);
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	assert_true(kept_before);
	assert_false(kept_behind);
	tiny_free(twin);
	tiny_free(t);
}

static void do_decide(struct machine *m, void *argument)
{
	struct tiny *t = argument;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_decide(m->hold[i], SESSION);
	tiny_release(t);
}

static void a_guest_that_waits_for_room_goes_on_alone(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(2 * ROUNDS);
	atomic_store(&t->acked, 0); /* the backup is gone: what is held stays held */
	stop_in_a_full_log(t);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_end_log, NULL);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_decide, t);
	tiny_join(t);
	assert_powered_off(t);
	assert_printed(t, 2 * ROUNDS);
	tiny_free(t);
}

static void a_broken_log_stops_the_guest_until_it_is_alone(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	tiny_record(t, RING);
	atomic_store(&t->acked, 0);
	tiny_start(t);
	while (atomic_load(&t->written) == 0)
		usleep(100);
	atomic_store(&t->sink_fails, true);
	uint64_t before;
	do {
		before = atomic_load(&t->machine.exits_shown);
		usleep(5000);
	} while (atomic_load(&t->machine.exits_shown) != before);
	assert_false(atomic_load(&t->over));
	machine_call(&t->machine, MACHINE_ANYWHERE, do_end_log, NULL);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_decide, t);
	tiny_join(t);
	assert_powered_off(t);
	assert_printed(t, ROUNDS);
	tiny_free(t);
}

static void a_beat_shows_in_the_log_though_the_guest_computes(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	tiny_load(t, computing_begin, computing_end);
	tiny_record(t, RING);
	tiny_start(t);
	while (atomic_load(&t->machine.exits_shown) == 0)
		usleep(100);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t before = atomic_load(&t->written);
		live_beat(&t->machine);
		while (atomic_load(&t->written) == before)
			usleep(50);
	}
	tiny_end(t);
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	while (tiny_walk(&reader, &entry)) {
		uint64_t left;
		assert_int_equal(entry.kind, LOG_MARK);
		memcpy(&left, entry.payload, sizeof left);
		assert_true(left <= 2);
	}
	tiny_free(t);
}

/* Random bytes are an input: what the log has is what a replay gives (D2), and nothing else. */
static void random_bytes_are_replayed_from_the_log(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new(), *twin = tiny_twin(t), *other = tiny_twin(t);
	uint8_t given[3][RANDOM_MAX], again[RANDOM_MAX];
	tiny_record(t, RING);
	for (unsigned i = 0; i < 3; i++) {
		t->machine.source->random(&t->machine, given[i], i ? 100 * i : 1);
	}
	assert_memory_not_equal(given[1], given[2], 100);
	assert_true(log_writer_flush(t->writer) >= 0);

	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(tiny_walk(&reader, &entry));
		assert_int_equal(entry.kind, LOG_RANDOM);
		assert_int_equal(entry.length, i ? 100 * i : 1);
	}
	tiny_follow(twin, t->log, atomic_load(&t->written));
	twin->replay.limit = atomic_load(&t->written);
	for (unsigned i = 0; i < 3; i++) {
		twin->machine.source->random(&twin->machine, again, i ? 100 * i : 1);
		assert_memory_equal(again, given[i], i ? 100 * i : 1);
	}
	assert_int_equal(twin->machine.verdict, MACHINE_RUNNING);

	tiny_follow(other, t->log, atomic_load(&t->written));
	other->replay.limit = atomic_load(&t->written);
	other->machine.source->random(&other->machine, again, 2);
	assert_int_equal(other->machine.verdict, MACHINE_DIVERGED);
	tiny_free(other);
	tiny_free(twin);
	tiny_free(t);
}

static void what_is_too_short_for_a_frame_is_thrown_away(void **state)
{
	(void)state;
	NEED_KVM();
	static const uint8_t frame[60] = {[12] = 2, 0, 0, 0, 0, 1, 2};
	struct tiny *t = tiny_busy(ROUNDS), *twin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_frame(t, frame, sizeof frame);
	tiny_frame(t, frame, sizeof frame);
	tiny_frame(t, frame, 25);
	tiny_frame(t, frame, 0);
	tiny_frame(t, frame, sizeof frame);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(t->machine.board.net.rx_frames, 3);
	assert_replays(t, twin);
	tiny_free(twin);
	tiny_free(t);
}

static void begin_two_logs(void *argument)
{
	struct tiny *t = tiny_new();
	(void)argument;
	tiny_record(t, RING);
	live_begin_log(&t->machine, t->writer, SESSION + 1);
}

static void begin_a_log_as_alone(void *argument)
{
	struct tiny *t = tiny_new();
	(void)argument;
	if (log_writer_create(&t->writer, &tiny_sink, t, RING, SECRET, 0) == 0)
		live_begin_log(&t->machine, t->writer, SESSION_ALONE);
}

static void a_log_beside_another_or_without_a_session_breaks_O2(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("O2", begin_two_logs, NULL);
	expect_broken("O2", begin_a_log_as_alone, NULL);
}

static void apply_behind(void *argument)
{
	struct tiny *t = tiny_new();
	(void)argument;
	tiny_record(t, RING);
	t->machine.exits = 5;
	t->machine.source->clock(&t->machine);
	t->machine.exits = 4;
	t->machine.source->clock(&t->machine);
}

static void an_input_behind_the_last_position_breaks_D2(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("D2", apply_behind, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_logged_makes_the_same_machine_again),
		cmocka_unit_test(the_cmos_clocks_interrupt_is_an_input),
		cmocka_unit_test(nothing_follows_the_end),
		cmocka_unit_test(a_stop_after_the_guests_own_end_changes_nothing),
		cmocka_unit_test(frames_that_wait_together_are_one_entry),
		cmocka_unit_test(a_burst_ends_the_wait_of_a_frame_for_buffers),
		cmocka_unit_test(a_full_log_stops_the_guest_not_the_log),
		cmocka_unit_test(a_guest_that_is_slowed_is_the_same_machine_and_answers),
		cmocka_unit_test(a_mark_tells_only_what_no_entry_has_told),
		cmocka_unit_test(the_digest_steps_only_where_an_entry_is_logged),
		cmocka_unit_test(an_end_that_is_refused_is_handed_over_later),
		cmocka_unit_test(a_guest_that_waits_for_room_can_be_stopped),
		cmocka_unit_test(a_guest_that_waits_for_room_goes_on_alone),
		cmocka_unit_test(a_broken_log_stops_the_guest_until_it_is_alone),
		cmocka_unit_test(a_beat_shows_in_the_log_though_the_guest_computes),
		cmocka_unit_test(random_bytes_are_replayed_from_the_log),
		cmocka_unit_test(what_is_too_short_for_a_frame_is_thrown_away),
		cmocka_unit_test(a_frame_is_sent_from_where_it_lies_and_kept_until_it_is_sent),
		cmocka_unit_test(a_sink_without_room_is_asked_again_and_loses_nothing),
		cmocka_unit_test(no_frame_waits_for_a_log_that_has_ended),
		cmocka_unit_test(a_log_beside_another_or_without_a_session_breaks_O2),
		cmocka_unit_test(an_input_behind_the_last_position_breaks_D2),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

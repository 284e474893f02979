/* When what a live guest sends may leave, and what is told of it. */
#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 60u
#define RING (1u << 20)

/* O2: what is sealed for a session waits for that session's acks. */
static void nothing_leaves_before_it_is_acked(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	tiny_record(t, RING);
	atomic_store(&t->acked, 0);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(t->length, 0);
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	uint64_t outputs = 0;
	while (tiny_walk(&reader, &entry)) {
		assert_int_not_equal(entry.kind, LOG_RELEASED);
		if (entry.kind != LOG_OUTPUT)
			continue;
		/* Each leaves exactly when its own entry's end is reached. */
		size_t length = t->length;
		atomic_store(&t->acked, entry.end - 1);
		tiny_release(t);
		assert_int_equal(t->length, length);
		atomic_store(&t->acked, entry.end);
		tiny_release(t);
		assert_true(t->length > length);
		outputs++;
	}
	assert_true(outputs >= ROUNDS);
	assert_printed(t, ROUNDS);
	tiny_free(t);
}

static void released_names_only_what_has_left(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	uint64_t began = now_ns();
	tiny_record(t, RING);
	tiny_run_disturbed(t);
	uint64_t took = now_ns() - began;
	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	static uint64_t ends[65536];
	unsigned outputs = 0, released = 0;
	uint64_t last = 0;
	while (tiny_walk(&reader, &entry)) {
		if (entry.kind == LOG_OUTPUT)
			ends[outputs++] = entry.end;
		if (entry.kind != LOG_RELEASED)
			continue;
		struct log_released gone;
		memcpy(&gone, entry.payload, sizeof gone);
		assert_int_equal(gone.device, OUTPUT_CONSOLE); /* it sends no frame */
		assert_true(gone.lsn > last && gone.lsn <= entry.lsn);
		unsigned i = 0;
		while (i < outputs && ends[i] != gone.lsn)
			i++;
		assert_true(i < outputs);
		last = gone.lsn;
		released++;
	}
	assert_true(released > 0);
	assert_true(released <= took / 1000000 + 1); /* one in a millisecond */
	tiny_free(t);
}

static unsigned take_nothing(void *context, const struct hold_output *outputs, unsigned count)
{
	(void)context, (void)outputs, (void)count;
	return 0;
}

static void a_device_that_takes_nothing_keeps_back_no_word_of_another(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	struct machine *m = &t->machine;
	const struct output_group group = {.count = 1, .bytes = 1};
	tiny_record(t, RING);
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++) {
		hold_put(m->hold[i], "x", 1);
		m->source->output(m, i, &group);
	}
	atomic_store(&t->acked, 0);
	live_flush(m);
	atomic_store(&t->acked, UINT64_MAX);
	hold_release(m->hold[OUTPUT_CONSOLE], tiny_acked, take_nothing, t);
	hold_release(m->hold[OUTPUT_NET], tiny_acked, tiny_send, t);
	assert_int_equal(t->frames, 1);
	assert_int_equal(hold_waiting(m->hold[OUTPUT_CONSOLE]), 1);
	live_flush(m);

	struct log_reader reader = tiny_reader(t);
	struct log_entry entry;
	struct log_released gone = {0};
	uint64_t sent = 0;
	unsigned told = 0;
	while (tiny_walk(&reader, &entry)) {
		struct log_output output;
		memcpy(&output, entry.payload, sizeof output);
		if (entry.kind == LOG_OUTPUT && output.device == LOG_DEVICE_NET)
			sent = entry.end;
		if (entry.kind == LOG_RELEASED && ++told)
			memcpy(&gone, entry.payload, sizeof gone);
	}
	assert_int_equal(told, 1);
	assert_int_equal(gone.device, LOG_DEVICE_NET);
	assert_int_equal(gone.lsn, sent);
	tiny_free(t);
}

static void what_the_guest_sends_alone_leaves_at_once(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_busy(ROUNDS);
	atomic_store(&t->acked, 0);
	tiny_start(t);
	tiny_join(t);
	assert_printed(t, ROUNDS);
	tiny_free(t);
}

static void output_without_an_entry(void *argument)
{
	struct tiny *t = tiny_new();
	const struct output_group group = {.count = 1, .bytes = 1};
	(void)argument;
	t->live.session = SESSION; /* a session, but no log */
	t->machine.source->output(&t->machine, OUTPUT_CONSOLE, &group);
}

static void an_output_of_a_session_without_an_entry_breaks_O1(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("O1", output_without_an_entry, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_leaves_before_it_is_acked),
		cmocka_unit_test(released_names_only_what_has_left),
		cmocka_unit_test(a_device_that_takes_nothing_keeps_back_no_word_of_another),
		cmocka_unit_test(what_the_guest_sends_alone_leaves_at_once),
		cmocka_unit_test(an_output_of_a_session_without_an_entry_breaks_O1),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

#include "tests/unit/engine/tiny_guest.h"

#define ROUNDS 110u /* enough for more logged positions than memory has pieces to sweep */
#define RING (1u << 20)
#define ENTRIES 65536u
#define UNUSED 0x80000u /* guest memory that nobody touches */

/* One run of `busy`, recorded, and the machine as it was before. */
static struct tiny *origin;
static uint8_t *log_bytes;
static uint64_t log_size;
static struct log_entry entries[ENTRIES];
static unsigned entry_count;

static int record(void **state)
{
	tiny_set_up(state);
	if (!has_kvm())
		return 0;
	struct tiny *t = tiny_busy(ROUNDS);
	origin = tiny_twin(t);
	tiny_record(t, RING);
	tiny_run_disturbed(t);
	assert_powered_off(t);
	log_size = atomic_load(&t->written);
	log_bytes = t->log;
	struct log_reader reader;
	log_reader_file(&reader, log_bytes, log_size, SECRET, 0);
	while (entry_count < ENTRIES && tiny_walk(&reader, &entries[entry_count]))
		entry_count++;
	assert_int_equal(reader.next, log_size);
	t->log = NULL;
	tiny_free(t);
	return 0;
}

static int forget(void **state)
{
	(void)state;
	if (origin)
		tiny_free(origin);
	free(log_bytes);
	return 0;
}

/* The `number`th entry of a kind; entry_count when there is none. */
static unsigned find(enum log_kind kind, unsigned number)
{
	for (unsigned i = 0; i < entry_count; i++) {
		if (entries[i].kind == kind && number-- == 0)
			return i;
	}
	return entry_count;
}

/* One from the middle of the log. */
static unsigned find_some(enum log_kind kind)
{
	unsigned count = 0;
	for (unsigned i = 0; i < entry_count; i++)
		count += entries[i].kind == kind;
	return find(kind, count / 2);
}

static struct tiny *follower(const uint8_t *log, uint64_t size)
{
	struct tiny *t = tiny_twin(origin);
	tiny_follow(t, log, size);
	return t;
}

/* Replays all that there is, then takes the machine's end. */
static struct tiny *replay_all(const uint8_t *log, uint64_t size)
{
	struct tiny *t = follower(log, size);
	replay_extend(&t->machine, size);
	replay_end_log(&t->machine);
	tiny_start(t);
	while (!atomic_load(&t->over) && !atomic_load(&t->drained))
		usleep(100);
	tiny_end(t);
	return t;
}

/* The log with one entry changed; `payload` of the same length, NULL: as it was. Entries whose kind
 * is 0 are left out. */
static uint64_t change(
	uint8_t *out, unsigned which, enum log_kind kind, int moved, const void *payload)
{
	uint64_t lsn = 0;
	for (unsigned i = 0; i < entry_count; i++) {
		const struct log_entry *entry = &entries[i];
		bool this = i == which;
		if (this && kind == 0)
			continue;
		log_encode(out + lsn, SECRET, lsn, this ? kind : entry->kind,
			entry->position + (uint64_t)(int64_t)(this ? moved : 0), entry->digest,
			this && payload ? payload : entry->payload, entry->length);
		lsn += log_entry_size(entry->length);
	}
	return lsn;
}

/* ... and it must be seen, at the changed entry or before. */
static void assert_diverges(unsigned which, enum log_kind kind, int moved, const void *payload)
{
	uint8_t *log = calloc(1, log_size + 4096);
	uint64_t size = change(log, which, kind, moved, payload);
	struct tiny *t = replay_all(log, size);
	if (t->machine.verdict != MACHINE_DIVERGED)
		print_error("entry %u, kind %d, moved %d\n", which, (int)kind, moved);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_true(t->replay.entries <= which + 1);
	assert_true(strstr(t->machine.message, "position") || strstr(t->machine.message, "LSN"));
	tiny_free(t);
	free(log);
}

static _Atomic unsigned misplaced;

static void note_place(void *context)
{
	struct tiny *t = context;
	const struct log_entry *entry = &entries[t->replay.entries - 1];
	bool about = entry->kind == LOG_MARK || entry->kind == LOG_RELEASED;
	if (entry->position > t->machine.exits || (!about && entry->position != t->machine.exits))
		atomic_fetch_add(&misplaced, 1);
}

/* replay_source, but for a look at each position that is left. What lies between the exits of one
 * instruction is no position that anybody could apply an input at. */
static struct source watched_source;
static _Atomic position proved; /* the primary is known to have left all below */
static _Atomic unsigned left_early;

static void watch_inputs(struct machine *m)
{
	replay_source.inputs(m);
	if (!machine_ended(m) && m->exits >= atomic_load(&proved))
		atomic_fetch_add(&left_early, 1);
}

/* D6, entry by entry. */
static void no_position_is_left_without_proof(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = follower(log_bytes, log_size);
	watched_source = replay_source;
	watched_source.inputs = watch_inputs;
	t->machine.source = &watched_source;
	t->replay.progress = note_place;
	atomic_store(&proved, 0);
	tiny_start(t);
	for (unsigned i = 0; i < entry_count; i++) {
		/* It comes as far as it may, and has time to go too far. */
		while (tiny_position(t) < atomic_load(&proved)) {
			assert_false(atomic_load(&t->over));
			usleep(200); /* each look kicks it, and on a slow machine it must get away between two */
		}
		tiny_position(t);
		position so_far = entries[i].position;
		if (entries[i].kind == LOG_MARK)
			memcpy(&so_far, entries[i].payload, sizeof so_far);
		if (so_far > atomic_load(&proved))
			atomic_store(&proved, so_far);
		replay_extend(&t->machine, entries[i].end);
	}
	tiny_join(t);
	assert_powered_off(t);
	assert_int_equal(atomic_load(&left_early), 0);
	assert_int_equal(atomic_load(&misplaced), 0);
	tiny_free(t);
}

/* Each round reads it twice, and remembers what it read first. */
static void a_read_of_the_clock_gives_what_the_log_says(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = replay_all(log_bytes, log_size);
	uint64_t read;
	memcpy(&read, entries[find(LOG_CLOCK, 2 * ROUNDS - 2)].payload, sizeof read);
	assert_powered_off(t);
	assert_int_equal(tiny_get64(t, GUEST_LAST_TIME), read);
	assert_true(t->replay.time_ns >= read);
	tiny_free(t);
}

static void an_input_at_another_position_is_never_applied(void **state)
{
	(void)state;
	NEED_KVM();
	static const enum log_kind kinds[] = {
		LOG_TICK, LOG_NET_RX, LOG_CONSOLE_RX, LOG_CLOCK, LOG_OUTPUT};
	for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		unsigned which = find_some(kinds[i]);
		assert_true(which < entry_count);
		assert_diverges(which, kinds[i], 1, NULL);
		assert_diverges(which, kinds[i], -1, NULL);
	}
}

static void an_entry_whose_frames_are_none_is_a_divergence(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_NET_RX);
	/* Behind a frame comes one that is longer than the entry, or a byte too short to be any, or no frame at all. */
	uint32_t one = 14, left = entries[which].length - one - 2 * (uint32_t)sizeof one;
	const uint32_t wrong[] = {left + 1, 13, UINT32_MAX, 0};
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		uint8_t frames[sizeof tiny_frame_bytes] = {0}, *log = calloc(1, log_size + 4096);
		memcpy(frames, &one, sizeof one);
		memcpy(frames + sizeof one + one, &wrong[i], sizeof wrong[i]);
		struct tiny *t = replay_all(log, change(log, which, LOG_NET_RX, 0, frames));
		assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
		assert_non_null(strstr(t->machine.message, "its frames are none"));
		assert_int_equal(t->replay.entries, which);
		tiny_free(t);
		free(log);
	}
}

/* An early one of each kind: a frame whose interrupt comes with another's shows in memory alone. */
static void an_entry_that_is_missing_is_missed(void **state)
{
	(void)state;
	NEED_KVM();
	static const enum log_kind kinds[] = {
		LOG_TICK, LOG_NET_RX, LOG_CONSOLE_RX, LOG_CLOCK, LOG_OUTPUT};
	for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		uint8_t *log = calloc(1, log_size);
		struct tiny *t = replay_all(log, change(log, find(kinds[i], 0), 0, 0, NULL));
		assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
		tiny_free(t);
		free(log);
	}
}

static void an_output_that_differs_is_a_divergence_and_stays_unsealed(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_OUTPUT);
	struct log_output output;
	for (unsigned i = 0; i < 3; i++) {
		memcpy(&output, entries[which].payload, sizeof output);
		output.device ^= i == 0;
		output.count ^= i == 1;
		output.digest ^= (uint64_t)(i == 2) << 63;
		uint8_t *log = calloc(1, log_size);
		struct tiny *t = replay_all(log, change(log, which, LOG_OUTPUT, 0, &output));
		assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
		unsigned before = 0;
		for (unsigned j = 0; j < which; j++) {
			struct log_output sealed;
			memcpy(&sealed, entries[j].payload, sizeof sealed);
			before += entries[j].kind == LOG_OUTPUT ? sealed.count : 0;
		}
		assert_int_equal(hold_waiting(t->machine.hold[OUTPUT_CONSOLE]), before);
		tiny_free(t);
		free(log);
	}
}

static void a_tick_of_a_timer_that_is_not_there_is_a_divergence(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_TICK);
	struct log_tick tick;
	memcpy(&tick, entries[which].payload, sizeof tick);
	tick.timer = LOG_TIMER_CMOS + 1;
	assert_diverges(which, LOG_TICK, 0, &tick);
}

static void an_end_of_another_kind_is_a_divergence(void **state)
{
	(void)state;
	NEED_KVM();
	const struct log_ending other = {.reason = LOG_END_SHUTDOWN}, value = {.value = 1};
	assert_int_equal(entries[entry_count - 1].kind, LOG_END);
	assert_diverges(entry_count - 1, LOG_END, 0, &other);
	assert_diverges(entry_count - 1, LOG_END, 0, &value);
}

static void a_stop_in_the_log_stops_the_machine(void **state)
{
	(void)state;
	NEED_KVM();
	const struct log_ending stopped = {.reason = LOG_END_STOPPED};
	uint8_t *log = calloc(1, log_size);
	struct tiny *t = replay_all(log, change(log, entry_count - 1, LOG_END, 0, &stopped));
	assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
	assert_int_equal(t->machine.end_reason, LOG_END_STOPPED);
	tiny_free(t);
	free(log);
}

static void a_log_that_changes_after_it_was_received_is_not_gone_on_with(void **state)
{
	(void)state;
	NEED_KVM();
	uint8_t *log = malloc(log_size);
	memcpy(log, log_bytes, log_size);
	unsigned which = find_some(LOG_OUTPUT);
	log[entries[which].lsn + LOG_HEADER_SIZE] ^= 1;
	struct tiny *t = replay_all(log, log_size);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_int_equal(t->replay.entries, which);
	tiny_free(t);
	free(log);
}

static void nothing_behind_what_was_received_is_looked_at(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_TICK);
	struct tiny *t = follower(log_bytes, log_size);
	replay_extend(&t->machine, entries[which].lsn); /* whole entries lie behind */
	tiny_start(t);
	while (atomic_load(&t->replay.applied) < entries[which].lsn)
		usleep(100);
	for (unsigned i = 0; i < 20; i++)
		tiny_position(t);
	assert_int_equal(atomic_load(&t->replay.applied), entries[which].lsn);
	tiny_end(t);
	tiny_free(t);
}

static void a_recording_cut_short_says_so(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_TICK);
	struct tiny *t = follower(log_bytes, entries[which].lsn + 20);
	t->replay.offline = true;
	t->replay.limit = entries[which].lsn + 20;
	t->replay.ended = true;
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_CUT);
	assert_int_equal(t->replay.reader.next, entries[which].lsn);
	tiny_free(t);
}

static struct tiny *replay_until(uint64_t lsn, uint64_t ns)
{
	struct tiny *t = follower(log_bytes, log_size);
	t->replay.offline = t->replay.has_until = true;
	t->replay.until_lsn = lsn;
	t->replay.until_ns = ns;
	t->replay.limit = log_size;
	t->replay.ended = true;
	tiny_start(t);
	tiny_join(t);
	return t;
}

static void a_replay_stops_before_the_entry_it_is_told(void **state)
{
	(void)state;
	NEED_KVM();
	for (unsigned i = 0; i < entry_count; i += 1 + entry_count / 40) {
		/* The same when the LSN lies within the entry before. */
		for (uint64_t back = 0; back <= 8 && back <= entries[i].lsn; back += 8) {
			struct tiny *t = replay_until(entries[i].lsn - back, UINT64_MAX);
			bool about = entries[i].kind == LOG_MARK || entries[i].kind == LOG_RELEASED;
			assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
			assert_true(t->replay.is_there);
			assert_int_equal(t->replay.reader.next, entries[i].lsn);
			assert_int_equal(t->replay.entries, i);
			/* Where it would be applied; what is about the log, anywhere behind. */
			assert_true(about ? t->machine.exits >= entries[i].position
					  : t->machine.exits == entries[i].position);
			assert_int_equal(
				digest_word(&t->machine.digest), i ? entries[i - 1].digest : 0);
			tiny_free(t);
		}
	}
}

static void a_replay_stops_before_a_later_time_of_the_guest(void **state)
{
	(void)state;
	NEED_KVM();
	struct log_tick tick;
	unsigned which = find_some(LOG_TICK);
	memcpy(&tick, entries[which].payload, sizeof tick);
	struct tiny *t = replay_until(UINT64_MAX, tick.time_ns - 1);
	assert_true(t->replay.is_there);
	assert_true(t->replay.time_ns < tick.time_ns);
	assert_true(t->replay.reader.next <= entries[which].lsn);
	tiny_free(t);
	t = replay_until(UINT64_MAX, tick.time_ns);
	assert_true(t->replay.is_there);
	assert_int_equal(t->replay.time_ns, tick.time_ns);
	assert_true(t->replay.reader.next >= entries[which].end);
	tiny_free(t);
}

static void a_replay_that_is_told_a_place_behind_the_end_ends_there(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = replay_until(log_size, UINT64_MAX - 1);
	assert_int_equal(t->machine.verdict, MACHINE_ENDED);
	assert_false(t->replay.is_there);
	assert_int_equal(t->replay.reader.next, log_size);
	tiny_free(t);
}

/* D5. One bit of memory that nobody uses. */
static void memory_that_differs_is_found_within_one_sweep(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = follower(log_bytes, log_size);
	t->machine.memory.base[UNUSED + 0x123] ^= 0x10;
	replay_extend(&t->machine, log_size);
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_non_null(strstr(t->machine.message, "memory"));
	position from = 0, positions = 0;
	for (unsigned i = 0; i < t->replay.entries; i++) {
		positions += entries[i].position != from;
		from = entries[i].position;
	}
	assert_true(positions <= MEMORY / DIGEST_SWEEP);
	tiny_free(t);

	/* What processors may set by speculation makes no difference. */
	t = follower(log_bytes, log_size);
	t->machine.memory.base[UNUSED] ^= 0x60;
	replay_extend(&t->machine, log_size);
	tiny_start(t);
	tiny_join(t);
	assert_powered_off(t);
	tiny_free(t);
}

static void a_register_that_differs_is_found_at_the_next_entry(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = follower(log_bytes, log_size);
	struct vcpu_state cpu;
	assert_int_equal(vcpu_save(&t->machine.vcpu, &cpu), 0);
	cpu.regs.r15 ^= 1ull << 40;
	assert_int_equal(vcpu_load(&t->machine.vcpu, &cpu), 0);
	replay_extend(&t->machine, log_size);
	tiny_start(t);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_non_null(strstr(t->machine.message, "register"));
	for (unsigned i = 0; i < t->replay.entries; i++)
		assert_int_equal(entries[i].position, 0);
	tiny_free(t);
}

struct turn {
	struct tiny *t;
	uint64_t time_ns;
};

static void do_go_live(struct machine *m, void *argument)
{
	struct turn *turn = argument;
	turn->time_ns = turn->t->replay.time_ns;
	replay_go_live(m, now_ns());
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_decide(m->hold[i], SESSION);
	tiny_release(turn->t);
}

static void go_live_behind(unsigned count)
{
	struct tiny *t = follower(log_bytes, log_size);
	struct turn turn = {.t = t};
	if (count > 0)
		replay_extend(&t->machine, entries[count - 1].end);
	tiny_start(t);
	replay_end_log(&t->machine);
	tiny_await(&t->drained);
	assert_false(machine_ended(&t->machine));
	assert_int_equal(t->length, 0); /* O3: a backup sends nothing */
	machine_call(&t->machine, MACHINE_ANYWHERE, do_go_live, &turn);
	tiny_join(t);
	/* The guest itself sees to it that its clock does not go back. */
	assert_powered_off(t);
	assert_printed(t, ROUNDS);
	bool read_later = false;
	for (unsigned i = count; i < entry_count; i++)
		read_later |= entries[i].kind == LOG_CLOCK;
	if (read_later)
		assert_true(tiny_get64(t, GUEST_LAST_TIME) >= turn.time_ns);
	tiny_free(t);
}

static void a_backup_goes_live_behind_an_entry_of_any_kind(void **state)
{
	(void)state;
	NEED_KVM();
	static const enum log_kind kinds[] = {LOG_TICK, LOG_CLOCK, LOG_NET_RX, LOG_CONSOLE_RX,
		LOG_OUTPUT, LOG_MARK, LOG_RELEASED};
	go_live_behind(0);
	/* In the middle of exits, and of instructions that have several. */
	for (unsigned i = 0; i < 10; i++)
		go_live_behind(find_some(LOG_CLOCK) + i);
	for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		unsigned which = find_some(kinds[i]);
		assert_true(which < entry_count);
		go_live_behind(which + 1);
	}
	go_live_behind(entry_count - 1); /* only END is missing */
}

static void a_backup_whose_log_ends_with_the_guest_ends_too(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = follower(log_bytes, log_size);
	replay_extend(&t->machine, log_size);
	tiny_start(t);
	replay_end_log(&t->machine);
	tiny_join(t);
	assert_powered_off(t);
	assert_false(atomic_load(&t->drained));
	assert_int_equal(t->length, 0);
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_decide(t->machine.hold[i], SESSION);
	tiny_release(t);
	assert_printed(t, ROUNDS);
	tiny_free(t);
}

static void do_release(struct machine *m, void *argument)
{
	(void)m;
	tiny_release(argument);
}

/* O3. The stand-in's text is what has left elsewhere. */
static void released_drops_exactly_what_has_left(void **state)
{
	(void)state;
	NEED_KVM();
	unsigned which = find_some(LOG_RELEASED);
	assert_true(which < entry_count);
	uint64_t left = 0, kept = 0;
	struct log_released gone;
	memcpy(&gone, entries[which].payload, sizeof gone);
	for (unsigned i = 0; i < which; i++) {
		struct log_output output;
		if (entries[i].kind != LOG_OUTPUT)
			continue;
		memcpy(&output, entries[i].payload, sizeof output);
		*(entries[i].end <= gone.lsn ? &left : &kept) += output.count;
	}
	struct tiny *t = follower(log_bytes, log_size);
	replay_extend(&t->machine, entries[which].end);
	tiny_start(t);
	while (atomic_load(&t->replay.applied) < entries[which].end)
		usleep(100);
	atomic_store(&t->acked, gone.lsn);
	machine_call(&t->machine, MACHINE_ANYWHERE, do_release, t);
	assert_int_equal(t->length, left);
	assert_int_equal(hold_waiting(t->machine.hold[OUTPUT_CONSOLE]), kept);
	tiny_end(t);
	tiny_free(t);
}

static uint64_t put_mark(uint8_t *log, uint64_t lsn, position at, uint32_t digest, position left)
{
	log_encode(log + lsn, SECRET, lsn, LOG_MARK, at, digest, &left, sizeof left);
	return lsn + log_entry_size(sizeof left);
}

/* The log ends while the guest is far from its next exit, and may never come to one. */
static void a_guest_that_computes_does_not_hold_up_going_live(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	uint8_t log[4096] = {0};
	uint64_t size = put_mark(log, 0, 0, 0, 2);
	tiny_load(t, computing_begin, computing_end);
	tiny_follow(t, log, sizeof log);
	replay_extend(&t->machine, size);
	tiny_start(t);
	while (atomic_load(&t->replay.applied) < size || atomic_load(&t->machine.exits_shown) < 1)
		usleep(100);
	/* Signs of life go on while the primary computes as well. */
	size = put_mark(log, size, 0, 0, 2);
	size = put_mark(log, size, 0, 0, 2);
	replay_extend(&t->machine, size);
	replay_end_log(&t->machine);
	tiny_await(&t->drained);
	struct turn turn = {.t = t};
	machine_call(&t->machine, MACHINE_ANYWHERE, do_go_live, &turn);
	assert_ptr_equal(t->machine.source, &live_source);
	machine_call(&t->machine, MACHINE_ANYWHERE, tiny_do_stop, NULL);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
	tiny_free(t);
}

static void a_stop_reaches_a_guest_that_computes(void **state)
{
	(void)state;
	NEED_KVM();
	struct tiny *t = tiny_new();
	const struct log_ending stopped = {.reason = LOG_END_STOPPED};
	uint8_t log[4096] = {0};
	uint64_t size = put_mark(log, 0, 0, 0, 2);
	tiny_load(t, computing_begin, computing_end);
	tiny_follow(t, log, sizeof log);
	log_encode(log + size, SECRET, size, LOG_END, 0, 0, &stopped, sizeof stopped);
	size += log_entry_size(sizeof stopped);
	replay_extend(&t->machine, size);
	tiny_start(t);
	while (atomic_load(&t->machine.exits_shown) < 1)
		usleep(100);
	replay_end_log(&t->machine);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_STOPPED);
	tiny_free(t);
}

/* Follows a log by which the primary has left what is endless here. */
static struct tiny *endless_follower(uint8_t log[4096], bool ends)
{
	const uint64_t time = 0;
	struct tiny *t = tiny_new();
	uint64_t size = put_mark(log, 0, 0, 0, 2);
	log_encode(log + size, SECRET, size, LOG_CLOCK, 2, 0, &time, sizeof time);
	size += log_entry_size(sizeof time);
	tiny_load(t, computing_begin, computing_end);
	tiny_follow(t, log, size);
	t->replay.patience_ns = 20000000;
	replay_extend(&t->machine, size);
	if (ends)
		replay_end_log(&t->machine);
	tiny_start(t);
	return t;
}

/* Its acks would freeze, and its primary would stand still, for ever. */
static void a_guest_that_does_not_leave_where_its_primary_did_has_diverged(void **state)
{
	(void)state;
	NEED_KVM();
	uint8_t log[4096] = {0};
	struct tiny *t = endless_follower(log, false);
	tiny_join(t);
	assert_int_equal(t->machine.verdict, MACHINE_DIVERGED);
	assert_non_null(strstr(t->machine.message, "does not come to"));
	tiny_free(t);
}

static void the_last_one_is_waited_for(void **state)
{
	(void)state;
	NEED_KVM();
	uint8_t log[4096] = {0};
	struct tiny *t = endless_follower(log, true);
	usleep(200000);
	assert_false(atomic_load(&t->over));
	assert_false(atomic_load(&t->drained));
	tiny_end(t);
	tiny_free(t);
}

/* A child cannot use its parent's machine. */
static struct tiny *new_follower(void)
{
	struct tiny *t = tiny_new();
	tiny_follow(t, log_bytes, log_size);
	return t;
}

static void go_live_too_early(void *argument)
{
	(void)argument;
	replay_go_live(&new_follower()->machine, now_ns());
}

static void go_live_with_a_rest(void *argument)
{
	struct tiny *t = new_follower();
	(void)argument;
	atomic_store(&t->replay.drained, true);
	replay_extend(&t->machine, entries[0].end);
	replay_go_live(&t->machine, now_ns());
}

static void go_live_diverged(void *argument)
{
	struct tiny *t = new_follower();
	(void)argument;
	atomic_store(&t->replay.drained, true);
	machine_end(&t->machine, MACHINE_DIVERGED, NULL);
	replay_go_live(&t->machine, now_ns());
}

static void going_live_before_all_is_replayed_breaks_L4(void **state)
{
	(void)state;
	NEED_KVM();
	expect_broken("L4", go_live_too_early, NULL);
	expect_broken("L4", go_live_with_a_rest, NULL);
	expect_broken("L4", go_live_diverged, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_position_is_left_without_proof),
		cmocka_unit_test(a_read_of_the_clock_gives_what_the_log_says),
		cmocka_unit_test(an_input_at_another_position_is_never_applied),
		cmocka_unit_test(an_entry_that_is_missing_is_missed),
		cmocka_unit_test(an_entry_whose_frames_are_none_is_a_divergence),
		cmocka_unit_test(an_output_that_differs_is_a_divergence_and_stays_unsealed),
		cmocka_unit_test(a_tick_of_a_timer_that_is_not_there_is_a_divergence),
		cmocka_unit_test(an_end_of_another_kind_is_a_divergence),
		cmocka_unit_test(a_stop_in_the_log_stops_the_machine),
		cmocka_unit_test(a_log_that_changes_after_it_was_received_is_not_gone_on_with),
		cmocka_unit_test(nothing_behind_what_was_received_is_looked_at),
		cmocka_unit_test(a_recording_cut_short_says_so),
		cmocka_unit_test(a_replay_stops_before_the_entry_it_is_told),
		cmocka_unit_test(a_replay_stops_before_a_later_time_of_the_guest),
		cmocka_unit_test(a_replay_that_is_told_a_place_behind_the_end_ends_there),
		cmocka_unit_test(memory_that_differs_is_found_within_one_sweep),
		cmocka_unit_test(a_register_that_differs_is_found_at_the_next_entry),
		cmocka_unit_test(a_backup_goes_live_behind_an_entry_of_any_kind),
		cmocka_unit_test(a_backup_whose_log_ends_with_the_guest_ends_too),
		cmocka_unit_test(released_drops_exactly_what_has_left),
		cmocka_unit_test(a_guest_that_computes_does_not_hold_up_going_live),
		cmocka_unit_test(a_stop_reaches_a_guest_that_computes),
		cmocka_unit_test(a_guest_that_does_not_leave_where_its_primary_did_has_diverged),
		cmocka_unit_test(the_last_one_is_waited_for),
		cmocka_unit_test(going_live_before_all_is_replayed_breaks_L4),
	};
	return !!cmocka_run_group_tests(tests, record, forget);
}

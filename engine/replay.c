#include "engine/replay.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "engine/live.h"
#include "engine/tamper.h"
#include "transport/log_describe.h"

#include <stdio.h>
#include <string.h>

#define WAIT_NS 10000000u /* every wake-up comes by the bell */

enum found {
	FOUND, /* an entry */
	NONE,  /* none yet */
	LIVE,  /* the log is over and this machine is live now */
	ENDED, /* the machine has ended */
};

static void diverged(struct machine *m, const struct log_entry *entry, const char *what)
{
	char text[224] = "the end of the log";
	if (entry)
		log_describe(entry, m->replay->time_ns, text, sizeof text);
	machine_end(m, MACHINE_DIVERGED,
		"diverged at position %llu (rip %#llx): %s; the log says: %s",
		(unsigned long long)m->exits, (unsigned long long)m->vcpu.run->s.regs.regs.rip,
		what, text);
}

/* Offline: whether this entry is one before which the replay is to stop. */
static bool is_far_enough(const struct replay *replay, const struct log_entry *entry)
{
	uint64_t time_ns;
	return entry->lsn >= replay->until_lsn ||
	       (log_tells_time(entry, &time_ns) && time_ns > replay->until_ns);
}

/* The position at which an entry is applied. */
static position place(const struct log_entry *entry)
{
	return entry->kind == LOG_COMMIT && entry->position > 0 ? entry->position - 1
								: entry->position;
}

static enum found look(struct machine *m, struct log_entry *entry)
{
	struct replay *replay = m->replay;
	if (machine_ended(m))
		return ENDED;
	/* R1: `ended` is read before `limit`; pairs with replay_end_log, which sets it after. */
	bool ended = atomic_load_explicit(&replay->ended, memory_order_acquire);
	uint64_t limit = atomic_load_explicit(&replay->limit, memory_order_acquire);
	if (replay->reader.next < limit) {
		/* Checked again here, by the thread that applies it (L2). */
		if (log_reader_peek(&replay->reader, entry) == LOG_VALID && entry->end <= limit) {
			if (!replay->has_until || place(entry) > m->exits ||
				!is_far_enough(replay, entry))
				return FOUND;
			replay->is_there = true;
			machine_end(m, MACHINE_STOPPED, NULL);
			return ENDED;
		}
		if (!replay->offline) {
			machine_end(m, MACHINE_DIVERGED,
				"the log changed at LSN %llu after it was received; not going on "
				"with it",
				(unsigned long long)replay->reader.next);
			return ENDED;
		}
		ended = true;
	}
	if (!ended)
		return NONE;
	if (replay->offline) {
		machine_end(m, MACHINE_CUT,
			"the log ends at LSN %llu, position %llu, before the machine does",
			(unsigned long long)replay->reader.next, (unsigned long long)m->exits);
		return ENDED;
	}
	if (!atomic_exchange(&replay->drained, true))
		replay->drained_now(replay->context);
	return m->source == &replay_source ? NONE : LIVE;
}

/* The entry is applied: the next one may come. */
static void taken(struct machine *m, const struct log_entry *entry)
{
	struct replay *replay = m->replay;
	log_reader_take(&replay->reader, entry);
	replay->entries++;
	replay->last = entry->kind;
	atomic_store_explicit(&replay->applied, entry->end, memory_order_release);
	CRASH_POINT("apply.after");
	TAMPER(m, replay->entries);
	/* M1: pairs with M2 in replay_extend. */
	uint64_t marked = atomic_load_explicit(&replay->marked_lsn, memory_order_acquire);
	if (marked != 0 && entry->end >= marked) {
		histogram_add(&replay->lag, now_ns() - atomic_load(&replay->marked_ns));
		atomic_store_explicit(&replay->marked_lsn, 0, memory_order_release);
	}
	if (replay->progress)
		replay->progress(replay->context);
}

/* D5: our digest at this position against the entry's. False: diverged. */
static bool digest_equal(struct machine *m, const struct log_entry *entry)
{
	uint64_t swept = m->digest.swept;
	if (entry->position != m->digest.at)
		machine_digest(m);
	uint32_t word = digest_word(&m->digest);
	if (word == entry->digest)
		return true;
	char what[120];
	bool memory = (word ^ entry->digest) >> 16 != 0,
	     registers = ((word ^ entry->digest) & 0xffffu) != 0;
	snprintf(what, sizeof what, "the %s differs (memory swept: %#llx to %#llx)",
		memory && registers ? "state of registers and memory"
		: memory            ? "memory"
				    : "register state",
		(unsigned long long)swept, (unsigned long long)(swept + DIGEST_SWEEP));
	diverged(m, entry, what);
	return false;
}

/* Without effect on the machine, so that it may be taken at any position behind its own. */
static bool about_the_log(const struct log_entry *entry)
{
	return entry->kind == LOG_MARK || entry->kind == LOG_RELEASED || entry->kind == LOG_PAGE;
}

static void take_about_the_log(struct machine *m, const struct log_entry *entry)
{
	uint64_t value;
	memcpy(&value, entry->payload, sizeof value);
	if (entry->kind == LOG_MARK && value > m->replay->reached)
		m->replay->reached = value;
	if (!digest_equal(m, entry))
		return;
	if (entry->kind == LOG_PAGE && staging_add(m, entry) < 0) {
		diverged(m, entry, fail_message());
		return;
	}
	taken(m, entry);
	if (entry->kind == LOG_PAGE)
		CRASH_POINT("stage.after");
}

static bool stopped(struct machine *m, const struct log_entry *entry)
{
	struct log_ending ending;
	if (entry->kind != LOG_END)
		return false;
	memcpy(&ending, entry->payload, sizeof ending);
	if (ending.reason != LOG_END_STOPPED)
		return false;
	taken(m, entry);
	m->end_reason = LOG_END_STOPPED;
	machine_end(m, MACHINE_STOPPED, NULL);
	return true;
}

/* Waits for the entry that the guest's own doing calls for: its clock read, its random bytes, its
 * output, its end. */
static enum found expect(struct machine *m, enum log_kind kind, struct log_entry *entry)
{
	for (;;) {
		uint32_t watched = machine_watch(m);
		enum found found = look(m, entry);
		if (found == NONE) {
			machine_wait(m, watched, WAIT_NS);
			continue;
		}
		if (found != FOUND)
			return found;
		if (stopped(m, entry))
			return ENDED;
		if (about_the_log(entry) && entry->position <= m->exits) {
			take_about_the_log(m, entry);
			continue;
		}
		if (entry->kind != kind || entry->position != m->exits) {
			char what[64];
			snprintf(what, sizeof what, "the guest here makes %s", log_kind_name(kind));
			diverged(m, entry, what);
			return ENDED;
		}
		return digest_equal(m, entry) ? FOUND : ENDED;
	}
}

static uint64_t replay_clock(struct machine *m)
{
	struct log_entry entry;
	enum found found = expect(m, LOG_CLOCK, &entry);
	if (found == LIVE)
		return m->source->clock(m);
	if (found != FOUND)
		return 0;
	uint64_t value;
	memcpy(&value, entry.payload, sizeof value);
	m->replay->time_ns = value;
	taken(m, &entry);
	return value;
}

static void replay_random(struct machine *m, void *bytes, size_t length)
{
	struct log_entry entry;
	memset(bytes, 0, length);
	enum found found = expect(m, LOG_RANDOM, &entry);
	if (found == LIVE)
		m->source->random(m, bytes, length);
	if (found != FOUND)
		return;
	if (entry.length != length) {
		diverged(m, &entry, "the guest asks for another number of random bytes");
		return;
	}
	memcpy(bytes, entry.payload, length);
	taken(m, &entry);
}

static void replay_output(
	struct machine *m, enum output_device device, const struct output_group *group)
{
	struct log_entry entry;
	enum found found = expect(m, LOG_OUTPUT, &entry);
	if (found == LIVE) {
		m->source->output(m, device, group);
		return;
	}
	if (found != FOUND)
		return;
	struct log_output output;
	memcpy(&output, entry.payload, sizeof output);
	if (output.device != device || output.count != group->count ||
		output.digest != group->digest) {
		diverged(m, &entry, "the guest sends something else");
		return;
	}
	hold_seal(m->hold[device], m->replay->session, entry.end);
	taken(m, &entry);
}

static bool receive(struct machine *m, const struct log_entry *entry)
{
	struct log_frame frame;
	uint32_t at = 0;
	while (log_frame_next(entry, &at, &frame))
		virtio_net_receive(&m->board.net, &m->env, frame.header, frame.bytes, frame.length);
	return at == entry->length;
}

static void apply(struct machine *m, const struct log_entry *entry)
{
	struct log_tick tick;
	CRASH_POINT("apply.before");
	switch (entry->kind) {
	case LOG_TICK:
		memcpy(&tick, entry->payload, sizeof tick);
		m->replay->time_ns = tick.time_ns;
		if (tick.timer == LOG_TIMER_PIT) {
			pit_tick(&m->board.pit, &m->env, tick.count);
		} else if (tick.timer == LOG_TIMER_CMOS) {
			cmos_tick(&m->board.cmos, &m->env, tick.time_ns);
		} else {
			diverged(m, entry, "the guest here has no such timer");
			return;
		}
		break;
	case LOG_NET_RX:
		if (!receive(m, entry)) {
			diverged(m, entry, "its frames are none");
			return;
		}
		break;
	case LOG_CONSOLE_RX:
		board_keys(&m->board, &m->env, entry->payload, entry->length);
		break;
	default:
		diverged(m, entry, "the guest here makes nothing of the kind");
		return;
	}
	taken(m, entry);
}

/* False: the machine has ended. */
static bool commit(struct machine *m, const struct log_entry *entry)
{
	struct replay *replay = m->replay;
	machine_finish(m);
	if (machine_ended(m))
		return false;
	if (entry->position != m->exits + 1) {
		diverged(m, entry, "the guest is past that position");
		return false;
	}
	if (staging_commit(m, entry) < 0) {
		diverged(m, entry, fail_message());
		return false;
	}
	if (entry->position > replay->reached)
		replay->reached = entry->position;
	if (!digest_equal(m, entry))
		return false;
	taken(m, entry);
	return true;
}

/* Applies every entry of this position, and returns when the guest may leave it (D6). */
static void replay_inputs(struct machine *m)
{
	struct replay *replay = m->replay;
	for (;;) {
		struct log_entry entry;
		uint32_t watched = machine_watch(m);
		if (!(m->halted && !pic_pending(&m->board.pic)) && replay->reached > m->exits)
			return;
		enum found found = look(m, &entry);
		if (found == NONE) {
			machine_wait(m, watched, WAIT_NS);
			continue;
		}
		if (found == LIVE)
			m->source->inputs(m);
		if (found != FOUND || stopped(m, &entry))
			return;
		position at = place(&entry);
		if (at > replay->reached)
			replay->reached = at;
		if (at > m->exits) {
			if (m->halted && !pic_pending(&m->board.pic))
				diverged(m, &entry, "the guest is halted and nothing wakes it");
			return;
		}
		if (about_the_log(&entry)) {
			take_about_the_log(m, &entry);
		} else if (at < m->exits) {
			diverged(m, &entry, "the guest is past that position");
			return;
		} else if (entry.kind == LOG_COMMIT) {
			if (!commit(m, &entry))
				return;
		} else if (digest_equal(m, &entry)) {
			apply(m, &entry);
		}
	}
}

/*
 * The primary keeps what has not left, and we what it has not told us to have left: that may be more, and a log that is
 * over, or full, tells nothing any more. But behind this group's beginning it has only appended anything, but for what is
 * about the log, because its hold had room. Before that it stands here too.
 */
static void replay_held_up(struct machine *m, enum output_device device)
{
	struct log_entry entry;
	enum found found;
	while ((found = look(m, &entry)) == FOUND && about_the_log(&entry))
		take_about_the_log(m, &entry);
	if (found != FOUND || stopped(m, &entry))
		return;
	hold_yield(m->hold[device], OUTPUT_GROUP_COUNT, OUTPUT_GROUP_ROOM);
	live_wake_dataplane(m->live);
}

/* Only an alarm finds a guest that never leaves. */
static void replay_leave(struct machine *m)
{
	struct replay *replay = m->replay;
	if (replay->patience_ns == 0)
		return;
	uint64_t now = now_ns();
	if (replay->alarm_ns > now)
		return;
	replay->alarm_ns = now + replay->patience_ns / 4;
	vcpu_alarm(&m->vcpu, replay->alarm_ns);
}

/* The primary has left the position (D6), and the guest here does not come to the next one. */
static void look_at_patience(struct machine *m)
{
	struct replay *replay = m->replay;
	if (replay->patience_ns == 0 || machine_ended(m) ||
		atomic_load_explicit(&replay->ended, memory_order_relaxed))
		return;
	uint64_t now = vcpu_ran_ns();
	if (replay->computing != m->exits || replay->computing_ns == 0) {
		replay->computing = m->exits;
		replay->computing_ns = now;
	} else if (now - replay->computing_ns > replay->patience_ns) {
		machine_end(m, MACHINE_DIVERGED,
			"diverged behind position %llu (rip %#llx): the guest does not come to "
			"position %llu, where the primary is",
			(unsigned long long)m->exits,
			(unsigned long long)m->vcpu.run->s.regs.regs.rip,
			(unsigned long long)replay->reached);
	}
}

/* The guest computes, perhaps for long: nothing is applied here. But a log that is over must not wait
 * for the guest's next exit, so what it says about itself is taken, as far as that needs no digest of
 * a position: then the machine is drained. */
static bool replay_interrupted(struct machine *m)
{
	struct log_entry entry;
	while (look(m, &entry) == FOUND && !stopped(m, &entry) && about_the_log(&entry) &&
		entry.position <= m->digest.at)
		take_about_the_log(m, &entry);
	look_at_patience(m);
	return false;
}

static void replay_ended(struct machine *m, enum log_end reason, uint32_t value)
{
	struct log_entry entry;
	enum found found = expect(m, LOG_END, &entry);
	if (found == LIVE)
		m->source->ended(m, reason, value);
	if (found != FOUND)
		return;
	struct log_ending ending;
	memcpy(&ending, entry.payload, sizeof ending);
	if (ending.reason != reason || ending.value != value) {
		diverged(m, &entry, "the guest ends in another way");
		return;
	}
	taken(m, &entry);
	m->end_reason = reason;
	m->end_value = value;
	machine_end(m, MACHINE_ENDED, NULL);
}

const struct source replay_source = {
	.clock = replay_clock,
	.random = replay_random,
	.output = replay_output,
	.inputs = replay_inputs,
	.held_up = replay_held_up,
	.leave = replay_leave,
	.interrupted = replay_interrupted,
	.ended = replay_ended,
};

void replay_begin(struct machine *m, struct replay *replay)
{
	replay->reached = m->exits;
	m->arrived = true;
	m->replay = replay;
	m->source = &replay_source;
}

void replay_extend(struct machine *m, uint64_t limit)
{
	struct replay *replay = m->replay;
	if (atomic_load_explicit(&replay->marked_lsn, memory_order_acquire) == 0) {
		atomic_store_explicit(&replay->marked_ns, now_ns(), memory_order_relaxed);
		atomic_store_explicit(&replay->marked_lsn, limit, memory_order_release); /* M2 */
	}
	atomic_store_explicit(&replay->limit, limit, memory_order_release);
	bell_ring(&m->bell);
}

void replay_end_log(struct machine *m)
{
	atomic_store_explicit(&m->replay->ended, true, memory_order_release); /* R1 */
	machine_wake(m);
}

void replay_go_live(struct machine *m, uint64_t host_ns)
{
	struct replay *replay = m->replay;
	CHECK(L4, !machine_ended(m) && atomic_load(&replay->drained),
		"going live before the log is replayed");
	CHECK(L4, replay->reader.next == atomic_load(&replay->limit),
		"going live at LSN %llu of %llu", (unsigned long long)replay->reader.next,
		(unsigned long long)atomic_load(&replay->limit));
	/* A resync without its COMMIT has not happened. */
	staging_drop(&m->staging);
	m->live->newest_ns = replay->time_ns;
	live_set_time(m->live, replay->time_ns, host_ns);
	m->source = &live_source;
}

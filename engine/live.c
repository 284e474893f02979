#include "engine/live.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define FRAME_BURST 32u /* in one entry */
#define FRAMES_MOST 64u /* at one position, or a burst more */
#define FRAME_MIN (FRAME_HEADER + ETHER_HEADER)
#define WAIT_NS 200000u       /* for room in the log */
#define IDLE_NS 100000000u    /* halted without a timer; every wake-up comes by the bell */
#define SHORT_NS 20000000u    /* until a frame that finds too few buffers is dropped */
#define KEPT_NS 1000000u      /* halted while the log still sends frames: their buffers are few */
#define FORGET_NS 1000000000u /* a resync ships what was changed since about then */
#define RELEASED_NS 1000000u  /* what has left is told so often: it may leave twice, and costs an entry */
#define STEP_NS 500000000u    /* the guest's time goes on by no more at once */

void live_set_time(struct live *live, uint64_t guest_ns, uint64_t host_ns)
{
	live->guest_ns = guest_ns;
	live->host_ns = host_ns;
	live->behind_ns = 0;
}

/*
 * Time goes on while the guest stands still, until a backup is live or another one has been copied. But a
 * clock source that has gone on by more than half of its turn is taken for one that went back, and the turn is
 * lost (acpi_pm's takes 4.7 s). So the guest's time goes on by a step at most, and then at twice the speed
 * until it is no longer behind.
 */
static uint64_t guest_now(struct live *live)
{
	uint64_t now = now_ns(), passed = now - live->host_ns;
	if (passed > STEP_NS) {
		live->behind_ns += passed - STEP_NS;
		passed = STEP_NS;
	} else {
		uint64_t back = live->behind_ns < passed ? live->behind_ns : passed;
		live->behind_ns -= back;
		passed += back;
	}
	live->guest_ns += passed;
	live->host_ns = now;
	if (live->guest_ns > live->newest_ns)
		live->newest_ns = live->guest_ns;
	return live->newest_ns;
}

void live_wake_dataplane(struct live *live)
{
	if (live->outputs_wait)
		live->outputs_wait(live->context);
}

/* Gives back the frames whose bytes the log has sent. */
static void free_frames(struct live *live)
{
	if (frame_queue_keeps(&live->frames))
		frame_queue_free(
			&live->frames, live->log ? log_writer_written(live->log) : UINT64_MAX);
}

static void hand_over(struct machine *m)
{
	struct live *live = m->live;
	lag_note(&live->lag, live->logged, now_ns());
	int error = log_writer_flush(live->log);
	/* The provider has no room for what it would have to remember: at the next look. */
	live->flush_wanted = error == -EAGAIN;
	if (live->flush_wanted)
		return;
	if (error < 0)
		live->broken = true;
	atomic_store_explicit(&live->entries, log_writer_entries(live->log), memory_order_relaxed);
	atomic_store_explicit(&live->flushed, log_writer_flushed(live->log), memory_order_release);
	free_frames(live);
	if (live->output_sealed && !live->acks_ring)
		live_wake_dataplane(live);
	live->output_sealed = false;
}

/* Tells the backup what has left, device by device: one that takes nothing is no reason to keep what another has
 * taken. */
static void tell_released(struct machine *m, uint32_t digest)
{
	struct live *live = m->live;
	uint64_t now = now_ns();
	if (now - live->told_released_ns < RELEASED_NS)
		return;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++) {
		const struct log_released gone = {
			.device = i, .lsn = hold_released(m->hold[i], live->session)};
		if (gone.lsn <= live->told_released[i] ||
			log_writer_append(live->log, LOG_RELEASED, m->digest.at, digest, &gone,
				sizeof gone, NULL) < 0)
			continue;
		live->told_released[i] = gone.lsn;
		live->told_released_ns = now;
	}
}

/*
 * Hands everything over, and tells the backup that we have come to this position (D6), unless an entry of
 * this position has said it. MARK and RELEASED never wait for room; they are said again with the next
 * flush. So they carry the digest as it was at the last input or output: one that is stepped at a
 * position, and then finds no room for its entry, would be taken for a divergence (D5).
 */
void live_flush(struct machine *m)
{
	struct live *live = m->live;
	if (!live->log || live->broken)
		return;
	uint32_t word = digest_word(&m->digest);
	tell_released(m, word);
	bool beat = atomic_exchange_explicit(&live->beat_wanted, false, memory_order_relaxed);
	bool news = m->exits > live->told_reached;
	if ((news || beat) && log_writer_append(live->log, LOG_MARK, m->digest.at, word, &m->exits,
				      sizeof m->exits, NULL) == 0)
		live->told_reached = m->exits;
	hand_over(m);
}

static void look_at_lag(struct live *live, uint64_t now)
{
	if (live->log)
		lag_look(&live->lag, log_writer_consumed(live->log), now);
}

/* The guest stands still until the log may have room. `stopped`: for the same entry as before. */
static void wait_for_room(struct machine *m, uint32_t watched, bool *stopped)
{
	struct live *live = m->live;
	if (!*stopped && !live->broken)
		atomic_fetch_add_explicit(&live->stops, 1, memory_order_relaxed);
	*stopped = true;
	look_at_lag(live, now_ns());
	machine_wait(m, watched, WAIT_NS);
}

/*
 * Appends an input or an output at this position. Waits while there is no room, which stops the guest
 * and not the log (L3), and while a broken log's fate is being decided. False when the machine has
 * ended: then nothing may be applied. `end` is 0 when nothing is logged.
 */
static bool append_parts(struct machine *m, enum log_kind kind, const struct iovec *parts,
	unsigned count, uint64_t *end)
{
	struct live *live = m->live;
	*end = 0;
	bool stopped = false;
	while (live->log && !machine_ended(m)) {
		uint32_t watched = machine_watch(m);
		int error = live->broken ? -EAGAIN
					 : log_writer_append_parts(live->log, kind, m->exits,
						   machine_digest(m), parts, count, end);
		if (error == 0) {
			live->logged = *end;
			live->told_reached = m->exits;
			return true;
		}
		CHECK(D2, error == -EAGAIN, "the log refuses %s: %s", log_kind_name(kind),
			fail_message());
		live_flush(m);
		wait_for_room(m, watched, &stopped);
	}
	return !machine_ended(m);
}

static bool append(
	struct machine *m, enum log_kind kind, const void *payload, uint32_t length, uint64_t *end)
{
	const struct iovec part = {.iov_base = (void *)payload, .iov_len = length};
	return append_parts(m, kind, &part, 1, end);
}

bool live_append_resync(struct machine *m, enum log_kind kind, const void *payload, uint32_t length)
{
	struct live *live = m->live;
	bool stopped = false;
	while (live->log && !machine_ended(m)) {
		uint32_t watched = machine_watch(m);
		int error = live->broken ? -EAGAIN
					 : log_writer_append(live->log, kind, m->digest.at,
						   digest_word(&m->digest), payload, length, NULL);
		if (error == 0) {
			if (log_writer_flush_due(live->log, now_ns()))
				hand_over(m);
			return true;
		}
		CHECK(D2, error == -EAGAIN, "the log refuses %s of %u bytes: %s",
			log_kind_name(kind), length, fail_message());
		/* No MARK: that of the position which COMMIT begins must not come before it. */
		if (!live->broken)
			hand_over(m);
		wait_for_room(m, watched, &stopped);
	}
	return false;
}

void live_begin_log(struct machine *m, struct log_writer *log, uint32_t session)
{
	struct live *live = m->live;
	CHECK(O2, !live->log && session != SESSION_ALONE, "a second log is begun");
	live->log = log;
	live->session = session;
	live->broken = false;
	live->told_reached = m->exits;
	m->arrived = true;
	if (vcpu_track(&m->vcpu, true) < 0)
		machine_end(m, MACHINE_FAILED, "%s", fail_message());
	memset(live->told_released, 0, sizeof live->told_released);
	live->output_sealed = false;
	live->logged = 0;
	live->entered_ns = now_ns();
	lag_begin(&live->lag, live->entered_ns);
	atomic_store_explicit(&live->stops, 0, memory_order_relaxed);
	atomic_store_explicit(&live->flushed, log_writer_flushed(log), memory_order_release);
}

struct log_writer *live_end_log(struct machine *m)
{
	struct log_writer *log = m->live->log;
	m->live->log = NULL;
	m->live->session = SESSION_ALONE;
	m->live->broken = false;
	m->live->acks_ring = false;
	lag_end(&m->live->lag);
	/* Their LSNs mean nothing in the next log, which would keep them until it is as long. What may
	 * still be read of them behind the fence is placed nowhere, or is not whole (L2). */
	if (vcpu_track(&m->vcpu, false) < 0)
		machine_end(m, MACHINE_FAILED, "%s", fail_message());
	free_frames(m->live);
	return log;
}

static void take_ticks(struct machine *m, uint64_t now)
{
	struct log_tick tick = {
		.timer = LOG_TIMER_PIT, .count = pit_due(&m->board.pit, now), .time_ns = now};
	uint64_t end;
	if (tick.count > 0 && append(m, LOG_TICK, &tick, sizeof tick, &end))
		pit_tick(&m->board.pit, &m->env, tick.count);
	tick = (struct log_tick){.timer = LOG_TIMER_CMOS, .count = 1, .time_ns = now};
	if (cmos_deadline(&m->board.cmos) <= now && append(m, LOG_TICK, &tick, sizeof tick, &end))
		cmos_tick(&m->board.cmos, &m->env, now);
}

/* A frame that needs more buffers than are offered waits a little, since one merged of many needs many, and
 * what it is made of would be sent again. It does not wait for ever. */
static bool may_deliver(struct machine *m, uint32_t length)
{
	struct live *live = m->live;
	bool fits = virtio_net_fits(&m->board.net, &m->env, length);
	if (!fits && !virtio_net_can_receive(&m->board.net, &m->env, length))
		return false;
	if (!fits && live->short_since == 0)
		live->short_since = now_ns();
	if (!fits && now_ns() - live->short_since < SHORT_NS)
		return false;
	live->short_since = 0;
	return true;
}

/* Nor is it a frame if the log has no entry for its length. */
static bool is_frame(const struct port_frame *frame)
{
	return frame->length >= FRAME_MIN && frame->length <= FRAME_HEADER + LOG_FRAME_MAX;
}

/* How many of the frames that wait can be taken as one burst: they fit into the guest's buffers, and their entry
 * is one that a flush would not have to wait for. */
static unsigned look_for_burst(struct machine *m)
{
	const struct frame_queue *frames = &m->live->frames;
	uint32_t waiting = frame_queue_count(frames), lengths[FRAME_BURST], bytes = 0;
	unsigned count = 0;
	for (; count < waiting && count < FRAME_BURST; count++) {
		const struct port_frame *frame = frame_queue_at(frames, count);
		bytes += frame->length;
		if (!is_frame(frame) || bytes > FLUSH_BYTES)
			break;
		lengths[count] = frame->length;
	}
	return count > 1 ? virtio_net_fitting(&m->board.net, &m->env, lengths, count) : count;
}

/* Takes `count` frames by one entry. False: the machine has ended. */
static bool receive(struct machine *m, unsigned count)
{
	struct frame_queue *frames = &m->live->frames;
	uint32_t words[FRAME_BURST];
	struct iovec parts[2 * FRAME_BURST] = {0};
	for (unsigned i = 0; i < count; i++) {
		const struct port_frame *frame = frame_queue_at(frames, i);
		words[i] = log_frame_word(frame->bytes, frame->length);
		uint32_t from = words[i] & LOG_FRAME_HEADED ? 0 : FRAME_HEADER;
		parts[2 * i] = (struct iovec){.iov_base = &words[i], .iov_len = sizeof words[i]};
		parts[2 * i + 1] = (struct iovec){.iov_base = (uint8_t *)frame->bytes + from,
			.iov_len = frame->length - from};
	}
	uint64_t end = 0;
	if (!append_parts(m, LOG_NET_RX, parts, 2 * count, &end))
		return false;
	m->live->short_since = 0;
	for (; count > 0; count--) {
		const struct port_frame *frame = frame_queue_peek(frames);
		const uint8_t *header = frame->bytes;
		virtio_net_receive(&m->board.net, &m->env, header, header + FRAME_HEADER,
			frame->length - FRAME_HEADER);
		frame_queue_take(frames, end);
	}
	return true;
}

static void take_frames(struct machine *m)
{
	const struct port_frame *frame;
	free_frames(m->live);
	bool may_merge = virtio_net_takes_merged(&m->board.net);
	if (may_merge != atomic_load_explicit(&m->live->may_merge, memory_order_relaxed))
		atomic_store_explicit(&m->live->may_merge, may_merge, memory_order_relaxed);
	for (unsigned n = 0; n < FRAMES_MOST && (frame = frame_queue_peek(&m->live->frames));) {
		/* Without a working driver nobody would ever take it. */
		if (!virtio_mmio_is_live(&m->board.net.mmio) || !is_frame(frame)) {
			frame_queue_take(&m->live->frames, 0);
			n++;
			continue;
		}
		unsigned count = look_for_burst(m);
		if (count < 2) {
			if (!may_deliver(m, frame->length))
				break;
			count = 1;
		}
		if (!receive(m, count))
			break;
		n += count;
	}
}

static void take_keys(struct machine *m)
{
	uint8_t bytes[256];
	size_t room = board_keys_room(&m->board, &m->env, sizeof bytes);
	size_t count = byte_queue_take(&m->live->keys, bytes, room);
	uint64_t end;
	if (count > 0 && append(m, LOG_CONSOLE_RX, bytes, (uint32_t)count, &end))
		board_keys(&m->board, &m->env, bytes, count);
}

/* When the guest's next tick is due, of whichever timer. */
static uint64_t tick_deadline(const struct machine *m)
{
	uint64_t pit = pit_deadline(&m->board.pit), cmos = cmos_deadline(&m->board.cmos);
	return pit < cmos ? pit : cmos;
}

/* How long a halted guest may sleep: until its next tick, or until the log may have sent what it sends
 * from here. */
static uint64_t sleep_ns(struct machine *m, uint64_t now)
{
	uint64_t deadline = tick_deadline(m);
	uint64_t longest = frame_queue_keeps(&m->live->frames) ? KEPT_NS : IDLE_NS;
	if (deadline <= now)
		return 0;
	return deadline - now < longest ? deadline - now : longest;
}

/*
 * The guest has run until `left`, and everything of this position is taken: sleeps for the share of that
 * time which a slower backup needs. What has gathered leaves before.
 */
static void slow_down(struct machine *m, uint64_t left, uint64_t now)
{
	struct live *live = m->live;
	look_at_lag(live, now);
	uint64_t pause = lag_pause(&live->lag, left - live->entered_ns), began = now;
	if (pause > 0)
		live_flush(m);
	/* Whoever wakes us is answered, and the guest sleeps on. */
	while (live->log && now - began < pause) {
		uint32_t watched = machine_watch(m);
		if (machine_must_pause(m) || !machine_wait(m, watched, pause - (now - began)))
			break;
		now = now_ns();
	}
	if (pause > 0)
		lag_slept(&live->lag, now - began);
	live->entered_ns = now;
}

static void live_inputs(struct machine *m)
{
	struct live *live = m->live;
	uint64_t left = now_ns();
	for (;;) {
		uint32_t watched = machine_watch(m);
		uint64_t now = guest_now(live);
		take_ticks(m, now);
		take_frames(m);
		take_keys(m);
		if (machine_ended(m))
			return;
		if (!m->halted || pic_pending(&m->board.pic))
			break;
		/* Halted: the backup may come as far as this exit, and no further. */
		live_flush(m);
		if (machine_must_pause(m))
			return;
		look_at_lag(live, now_ns());
		machine_wait(m, watched, sleep_ns(m, guest_now(live)));
	}
	if (!live->log)
		return;
	uint64_t taken = now_ns();
	if (live->flush_wanted || log_writer_flush_due(live->log, taken))
		live_flush(m);
	if (live->newest_ns - live->forgot_ns >= FORGET_NS) {
		live->forgot_ns = live->newest_ns;
		resync_forget(m);
	}
	slow_down(m, left, taken);
}

static uint64_t live_clock(struct machine *m)
{
	uint64_t now = guest_now(m->live), end;
	return append(m, LOG_CLOCK, &now, sizeof now, &end) ? now : 0;
}

static void live_random(struct machine *m, void *bytes, size_t length)
{
	uint64_t end;
	memset(bytes, 0, length);
	/* So few come whole; only before the kernel has any can a signal end the wait. */
	while (getrandom(bytes, length, 0) != (ssize_t)length) {
		if (errno == EINTR && !machine_ended(m))
			continue;
		machine_end(m, MACHINE_FAILED, "the guest asks for %zu random bytes: getrandom: %s",
			length, strerror(errno));
		return;
	}
	if (!append(m, LOG_RANDOM, bytes, (uint32_t)length, &end))
		memset(bytes, 0, length);
}

static void live_output(
	struct machine *m, enum output_device device, const struct output_group *group)
{
	struct live *live = m->live;
	struct log_output output = {
		.device = device, .count = group->count, .digest = group->digest};
	uint64_t end;
	/* A machine that ends here leaves its output unsealed: nobody will ever see it. */
	if (!append(m, LOG_OUTPUT, &output, sizeof output, &end))
		return;
	CHECK(O1, (end == 0) == (live->session == SESSION_ALONE),
		"an output of session %u ends at LSN %llu", live->session, (unsigned long long)end);
	if (device == OUTPUT_NET)
		live->flush_wanted = true;
	hold_seal(m->hold[device], live->session, end);
	/* With a log it cannot leave before the log has been handed over. */
	if (live->log)
		live->output_sealed = true;
	else
		live_wake_dataplane(live);
}

/* What has gathered must leave, so that it is acknowledged. */
static void live_held_up(struct machine *m, enum output_device device)
{
	(void)device;
	live_flush(m);
}

/* Whether an interrupt on this line would reach the CPU. */
static bool would_raise(const struct machine *m, unsigned line)
{
	struct pic trial = m->board.pic;
	pic_set_line(&trial, line, false);
	pic_set_line(&trial, line, true);
	return pic_pending(&trial);
}

static bool frame_waits(struct machine *m)
{
	const struct port_frame *frame = frame_queue_peek(&m->live->frames);
	return frame && virtio_mmio_is_live(&m->board.net.mmio) && would_raise(m, IRQ_NET) &&
	       virtio_net_can_receive(&m->board.net, &m->env, frame->length);
}

static bool tick_waits(struct machine *m, uint64_t now)
{
	return (pit_deadline(&m->board.pit) <= now && would_raise(m, IRQ_PIT)) ||
	       (cmos_deadline(&m->board.cmos) <= now && would_raise(m, IRQ_CMOS));
}

static bool keys_wait(struct machine *m)
{
	return byte_queue_waits(&m->live->keys) && board_keys_room(&m->board, &m->env, 1) > 0 &&
	       (would_raise(m, IRQ_UART) || would_raise(m, IRQ_CONSOLE));
}

/*
 * Whether there is an interrupt that the guest would take now, and for how long the guest has computed since
 * that was first seen. Only that counts: a guest that stands still, because its host is busy or its backup is
 * slow, would take the interrupt at its next exit.
 */
static bool waits(struct machine *m, uint64_t *waited)
{
	struct live *live = m->live;
	uint64_t ran = vcpu_ran_ns();
	*waited = 0;
	if (!tick_waits(m, guest_now(live)) && !pic_pending(&m->board.pic) && !frame_waits(m) &&
		!keys_wait(m)) {
		live->waits_ns = 0;
		return false;
	}
	/* One that was taken meanwhile may have been what waited. */
	if (live->waits_ns == 0 || live->waits_interrupts != m->interrupts) {
		live->waits_ns = ran;
		live->waits_interrupts = m->interrupts;
	}
	*waited = ran - live->waits_ns;
	return true;
}

/* Between two exits: makes this a position if an interrupt has waited for it long enough. */
static bool take_turn(struct machine *m)
{
	struct live *live = m->live;
	struct kvm_run *run = m->vcpu.run;
	position at = m->exits;
	uint64_t waited;
	if (!waits(m, &waited) || live->broken)
		return false;
	if (live->log && (live->wait_ns == 0 || waited < live->wait_ns))
		return false;
	machine_finish(m);
	/* An exit, after all. Whoever follows comes to it with the instruction unfinished, so no input is applied here. */
	if (machine_ended(m) || m->exits != at)
		return false;
	if (!run->if_flag || !run->ready_for_interrupt_injection) {
		run->request_interrupt_window = 1;
		return false;
	}
	return live->log ? resync_send(m) : true;
}

static bool live_interrupted(struct machine *m)
{
	struct live *live = m->live;
	uint64_t left = now_ns();
	bool beat = atomic_load_explicit(&live->beat_wanted, memory_order_relaxed);
	if (live->log) {
		if (beat || live->flush_wanted || log_writer_flush_due(live->log, left))
			live_flush(m);
		slow_down(m, left, left);
	}
	return take_turn(m);
}

/* The guest may compute for long: somebody has to look whether an interrupt waits. */
static void live_leave(struct machine *m)
{
	struct live *live = m->live;
	uint64_t now = now_ns(), want = now + live->wait_ns / 2;
	if (live->wait_ns == 0)
		return;
	if (!live->log && !m->vcpu.run->request_interrupt_window) {
		/* Alone, a tick is taken when it is due. */
		uint64_t deadline = tick_deadline(m), guest = guest_now(live);
		if (deadline > guest && deadline - guest < want - now)
			want = now + (deadline - guest);
		else if (tick_waits(m, guest))
			want = now;
	}
	if (live->alarm_ns > now && live->alarm_ns <= want)
		return;
	live->alarm_ns = want;
	vcpu_alarm(&m->vcpu, want);
}

void live_beat(struct machine *m)
{
	atomic_store_explicit(&m->live->beat_wanted, true, memory_order_relaxed);
	machine_wake(m);
}

static void live_ended(struct machine *m, enum log_end reason, uint32_t value)
{
	struct log_ending ending = {.reason = reason, .value = value};
	uint64_t end;
	if (!append(m, LOG_END, &ending, sizeof ending, &end))
		return;
	/* Nothing follows END: there is no next look. */
	while (m->live->log && !m->live->broken) {
		uint32_t watched = machine_watch(m);
		hand_over(m);
		if (!m->live->flush_wanted)
			break;
		if (!machine_wait(m, watched, WAIT_NS))
			return;
	}
	m->end_reason = reason;
	m->end_value = value;
	machine_end(m, MACHINE_ENDED, NULL);
}

void live_stop(struct machine *m)
{
	struct log_ending ending = {.reason = LOG_END_STOPPED};
	struct live *live = m->live;
	if (machine_ended(m))
		return;
	/* Without room there is no waiting here: whoever follows the log sees us gone all the same. */
	if (live->log && !live->broken &&
		log_writer_append(live->log, LOG_END, m->digest.at, digest_word(&m->digest),
			&ending, sizeof ending, NULL) == 0)
		hand_over(m);
	m->end_reason = LOG_END_STOPPED;
	machine_end(m, MACHINE_STOPPED, NULL);
}

const struct source live_source = {
	.clock = live_clock,
	.random = live_random,
	.output = live_output,
	.inputs = live_inputs,
	.held_up = live_held_up,
	.leave = live_leave,
	.interrupted = live_interrupted,
	.ended = live_ended,
};

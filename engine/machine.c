#include "engine/machine.h"

#include "base/check.h"
#include "base/thread.h"
#include "engine/rdtsc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct machine_call {
	enum machine_when when;
	void (*function)(struct machine *m, void *argument);
	void *argument;
};

static struct machine *machine_of(struct device_env *env)
{
	return (struct machine *)env;
}

static uint64_t env_clock(struct device_env *env)
{
	struct machine *m = machine_of(env);
	return m->source->clock(m);
}

static void env_random(struct device_env *env, void *bytes, size_t length)
{
	struct machine *m = machine_of(env);
	m->source->random(m, bytes, length);
}

static void env_irq(struct device_env *env, unsigned line, bool level)
{
	pic_set_line(&machine_of(env)->board.pic, line, level);
}

static void close_group(struct machine *m, enum output_device device)
{
	struct output_group group = m->group[device];
	if (group.count == 0)
		return;
	m->group[device] = (struct output_group){0};
	m->source->output(m, device, &group);
}

static void env_output(
	struct device_env *env, enum output_device device, const void *bytes, size_t length)
{
	struct machine *m = machine_of(env);
	struct output_group *group = &m->group[device];
	CHECK(D3, length <= OUTPUT_MAX, "an output of %zu bytes", length);
	/* Room for the whole group before its first output, so that nothing is ever half put. */
	while (group->count == 0 &&
		!hold_has_room(m->hold[device], OUTPUT_GROUP_COUNT, OUTPUT_GROUP_ROOM)) {
		uint32_t watched = machine_watch(m);
		m->source->held_up(m, device);
		if (!machine_wait(m, watched, 200000))
			return;
	}
	if (device == OUTPUT_NET)
		announce_learn(
			&m->announce, (const uint8_t *)bytes + FRAME_HEADER, length - FRAME_HEADER);
	hold_put(m->hold[device], bytes, length);
	group->digest = XXH3_64bits_withSeed(bytes, length, group->digest);
	group->count++;
	group->bytes += (uint32_t)length;
	if (group->count == OUTPUT_GROUP_COUNT || group->bytes >= OUTPUT_GROUP_BYTES)
		close_group(m, device);
}

static void serve_port(struct machine *m, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size;
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint32_t value = 0;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			board_port_write(&m->board, &m->env, run->io.port, size, value);
		} else {
			value = board_port_read(&m->board, &m->env, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
}

static void serve_mmio(struct machine *m, struct kvm_run *run)
{
	unsigned size = run->mmio.len <= 8 ? run->mmio.len : 8;
	if (run->mmio.is_write)
		board_mmio_write(&m->board, &m->env, run->mmio.phys_addr, size, run->mmio.data);
	else
		board_mmio_read(&m->board, &m->env, run->mmio.phys_addr, size, run->mmio.data);
}

/* Counts and serves one sync exit. */
static void serve(struct machine *m, int reason)
{
	struct kvm_run *run = m->vcpu.run;
	if (!position_counts(reason)) {
		machine_end(m, MACHINE_FAILED,
			"the guest cannot go on: KVM exit %d (%u) at rip %#llx", reason,
			reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0,
			(unsigned long long)run->s.regs.regs.rip);
		return;
	}
	m->exits++;
	atomic_store_explicit(&m->exits_shown, m->exits, memory_order_relaxed);
	m->unfinished = true;
	if (rdtsc_keep_trapped(&m->vcpu, &m->memory) < 0) {
		machine_end(m, MACHINE_FAILED, "%s", fail_message());
		return;
	}
	switch (reason) {
	case KVM_EXIT_IO:
		if (rdtsc_is_exit(run))
			rdtsc_serve(&m->vcpu, &m->memory, tsc_at(m->exits));
		else
			serve_port(m, run);
		break;
	case KVM_EXIT_MMIO:
		serve_mmio(m, run);
		break;
	case KVM_EXIT_HLT:
		m->unfinished = false;
		m->halted = true;
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = 1;
		break;
	default:
		break;
	}
	for (unsigned device = 0; device < OUTPUT_DEVICES; device++)
		close_group(m, device);
	if (reason == KVM_EXIT_SHUTDOWN)
		m->source->ended(m, LOG_END_SHUTDOWN, 0);
	else if (m->board.power_off)
		m->source->ended(m, LOG_END_POWER, m->board.power_value);
	else if (m->board.restart)
		m->source->ended(m, LOG_END_RESTART, 0);
	else if (m->halted && !run->if_flag)
		m->source->ended(m, LOG_END_HALT, 0);
}

/* Completes the last exit's instruction. It may exit again, more than once: page-crossing and string
 * accesses do. Inputs wait meanwhile; both sides come here at the same exits. */
void machine_finish(struct machine *m)
{
	while (m->unfinished && !machine_ended(m)) {
		int reason = vcpu_finish(&m->vcpu);
		if (reason == -EINTR)
			m->unfinished = false;
		else if (reason < 0)
			machine_end(m, MACHINE_FAILED, "%s", fail_message());
		else
			serve(m, reason);
	}
}

/* Injects the PIC's interrupt if the CPU can take it at this exit; otherwise it waits for the next
 * one. What decides is the same on both sides: the guest's registers and the devices. False: to
 * finish the instruction took further exits, so this is another position, with inputs of its own. */
static bool interrupt(struct machine *m)
{
	const struct kvm_run *run = m->vcpu.run;
	position at = m->exits;
	if (!pic_pending(&m->board.pic) || !run->if_flag)
		return true;
	machine_finish(m);
	if (m->exits != at)
		return false;
	if (machine_ended(m) || !pic_pending(&m->board.pic) || !run->if_flag)
		return true;
	if (!run->ready_for_interrupt_injection) {
		/* Something else comes first, such as a trap behind a HLT. */
		m->halted = false;
		return true;
	}
	uint8_t vector = board_acknowledge(&m->board, &m->env);
	if (vcpu_inject(&m->vcpu, vector) < 0) {
		machine_end(m, MACHINE_FAILED, "%s", fail_message());
		return true;
	}
	m->halted = false;
	m->interrupts++;
	atomic_store_explicit(&m->interrupts_shown, m->interrupts, memory_order_relaxed);
	return true;
}

static bool answer_call(struct machine *m, enum machine_when now)
{
	struct machine_call *call = atomic_load_explicit(&m->call, memory_order_acquire);
	if (!call || (call->when == MACHINE_PAUSED && now != MACHINE_PAUSED))
		return false;
	if (call->when == MACHINE_PAUSED)
		machine_finish(m);
	atomic_store_explicit(&m->call, NULL, memory_order_relaxed);
	call->function(m, call->argument);
	bell_ring(&m->call_done);
	return true;
}

void machine_call(struct machine *m, enum machine_when when,
	void (*function)(struct machine *m, void *argument), void *argument)
{
	struct machine_call call = {.when = when, .function = function, .argument = argument};
	pthread_mutex_lock(&m->call_lock);
	if (!atomic_load(&m->started)) {
		function(m, argument);
	} else {
		uint32_t seen = atomic_load(&m->call_done.rung);
		atomic_store_explicit(&m->call, &call, memory_order_release);
		while (atomic_load_explicit(&m->call_done.rung, memory_order_acquire) == seen) {
			if (atomic_load(&m->finished)) {
				/* The loop has ended and looks at calls no more, unless it just took this one. */
				if (atomic_exchange(&m->call, NULL) == &call) {
					function(m, argument);
					break;
				}
			} else {
				machine_wake(m);
			}
			bell_sleep(&m->call_done, seen, 10000000);
		}
	}
	pthread_mutex_unlock(&m->call_lock);
}

void machine_wake(struct machine *m)
{
	if (atomic_load(&m->started))
		vcpu_kick(&m->vcpu, m->thread);
	bell_ring(&m->bell);
}

uint32_t machine_watch(const struct machine *m)
{
	return atomic_load_explicit(&m->bell.rung, memory_order_acquire);
}

bool machine_wait(struct machine *m, uint32_t watched, uint64_t longest_ns)
{
	/* Who has called may have changed what is waited for: no sleep before the next look. */
	if (!answer_call(m, MACHINE_ANYWHERE) && !machine_ended(m))
		bell_sleep(&m->bell, watched, longest_ns);
	return !machine_ended(m);
}

bool machine_must_pause(const struct machine *m)
{
	const struct machine_call *call = atomic_load_explicit(&m->call, memory_order_acquire);
	return call && call->when == MACHINE_PAUSED;
}

static void *run(void *argument)
{
	struct machine *m = argument;
	if (vcpu_bind(&m->vcpu) < 0)
		machine_end(m, MACHINE_FAILED, "%s", fail_message());
	while (!machine_ended(m)) {
		bool here = m->halted || m->arrived;
		m->arrived = false;
		if (!here) {
			if (m->source->leave)
				m->source->leave(m);
			int reason = vcpu_run(&m->vcpu);
			if (reason >= 0 && reason != KVM_EXIT_IRQ_WINDOW_OPEN) {
				serve(m, reason);
				here = true;
			} else if (reason >= 0 || reason == -EINTR) {
				/* Between two exits is no position, unless it is made one. But if the rest
				 * of an instruction has made an exit, whoever follows looks for an interrupt
				 * there. */
				position at = m->exits;
				here = m->source->interrupted(m);
				if (!here && m->exits != at && !machine_ended(m))
					(void)interrupt(m);
			} else {
				machine_end(m, MACHINE_FAILED, "%s", fail_message());
			}
		}
		while (here && !machine_ended(m)) {
			m->source->inputs(m);
			here = !machine_ended(m) && !interrupt(m);
		}
		answer_call(m, MACHINE_PAUSED);
	}
	vcpu_unbind(&m->vcpu);
	if (m->on_finish)
		m->on_finish(m->on_finish_context);
	atomic_store(&m->finished, true);
	return NULL;
}

void machine_end(struct machine *m, enum machine_verdict verdict, const char *format, ...)
{
	if (machine_ended(m))
		return;
	if (format) {
		va_list args;
		va_start(args, format);
		vsnprintf(m->message, sizeof m->message, format, args);
		va_end(args);
	}
	atomic_store_explicit(&m->verdict, verdict, memory_order_release); /* V1 */
}

uint32_t machine_digest(struct machine *m)
{
	if (m->digest.at != m->exits)
		digest_step(&m->digest, m->exits, &m->vcpu.run->s.regs, &m->memory);
	return digest_word(&m->digest);
}

void machine_arrive(struct machine *m)
{
	m->exits++;
	atomic_store_explicit(&m->exits_shown, m->exits, memory_order_relaxed);
	machine_digest(m);
}

int machine_start(struct machine *m, void (*on_finish)(void *context), void *context)
{
	m->on_finish = on_finish;
	m->on_finish_context = context;
	int error = thread_start(&m->thread, "vcpu", run, m);
	if (error)
		return error;
	atomic_store(&m->started, true);
	return 0;
}

void machine_join(struct machine *m)
{
	if (!atomic_load(&m->started))
		return;
	pthread_join(m->thread, NULL);
	atomic_store(&m->started, false);
}

int machine_create(struct machine *m, uint64_t memory_size, const uint8_t mac[6])
{
	memset(m, 0, sizeof *m);
	m->env = (struct device_env){.memory = &m->memory,
		.clock = env_clock,
		.random = env_random,
		.output = env_output,
		.irq = env_irq};
	memcpy(m->announce.mac, mac, 6);
	pthread_mutex_init(&m->call_lock, NULL);
	int error = memory_create(&m->memory, memory_size);
	if (error)
		return error;
	board_reset(&m->board, mac);
	error = vcpu_create(&m->vcpu, &m->memory);
	if (error)
		memory_destroy(&m->memory);
	return error;
}

void machine_destroy(struct machine *m)
{
	staging_drop(&m->staging);
	vcpu_destroy(&m->vcpu);
	memory_destroy(&m->memory);
	pthread_mutex_destroy(&m->call_lock);
}

#define STATE_VERSION 4u

struct state {
	uint32_t version;
	uint32_t halted;
	position exits;
	struct digest digest;
	struct vcpu_state vcpu;
	struct board board;
	struct announce announce;
};

size_t machine_state_size(void)
{
	return sizeof(struct state);
}

int machine_save(struct machine *m, void *blob)
{
	CHECK(D1, !m->unfinished, "saved in the middle of an instruction at exit %llu",
		(unsigned long long)m->exits);
	struct state *state = blob;
	memset(state, 0, sizeof *state);
	state->version = STATE_VERSION;
	state->halted = m->halted;
	state->exits = m->exits;
	state->digest = m->digest;
	state->board = m->board;
	state->announce = m->announce;
	return vcpu_save(&m->vcpu, &state->vcpu);
}

static int check(const struct machine *m, const struct state *state, size_t size)
{
	if (size != sizeof *state || state->version != STATE_VERSION)
		return fail(EPROTO,
			"the machine's state has %zu bytes of another version; use the same Doppel",
			size);
	if (state->digest.swept >= m->memory.size || state->digest.swept % DIGEST_SWEEP != 0)
		return fail(EPROTO,
			"the machine's state is damaged: its sweep stands outside its memory");
	return 0;
}

int machine_check(const struct machine *m, const void *blob, size_t size)
{
	const struct state *state = blob;
	int error = check(m, state, size);
	if (!error && (state->exits != m->exits + 1 || state->halted))
		error = fail(EPROTO, "the machine's state is that of exit %llu",
			(unsigned long long)state->exits);
	return error;
}

int machine_load(struct machine *m, const void *blob, size_t size)
{
	const struct state *state = blob;
	int error = check(m, state, size);
	if (error)
		return error;
	m->halted = state->halted != 0;
	m->unfinished = false;
	m->exits = state->exits;
	atomic_store_explicit(&m->exits_shown, m->exits, memory_order_relaxed);
	m->digest = state->digest;
	m->board = state->board;
	m->announce = state->announce;
	return vcpu_load(&m->vcpu, &state->vcpu);
}

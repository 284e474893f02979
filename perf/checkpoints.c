/*
 * The peer of Remus (Cully et al., 2008): nothing is replayed. Every 25 ms the primary ships the pages that have changed,
 * with the state of processor and devices; the backup lays them over its own memory. What the guest has sent
 * since the last checkpoint waits until the next one is acknowledged as a whole, while the guest goes on.
 */
#include "perf/peer.h"

#include <stdlib.h>
#include <string.h>

#define EPOCH_NS 25000000u

int __real_log_writer_append(struct log_writer *writer, enum log_kind kind, uint64_t at,
	uint32_t digest, const void *payload, uint32_t length, uint64_t *end);
int __wrap_log_writer_append(struct log_writer *writer, enum log_kind kind, uint64_t at,
	uint32_t digest, const void *payload, uint32_t length, uint64_t *end);
int __wrap_log_writer_append_parts(struct log_writer *writer, enum log_kind kind, uint64_t at,
	uint32_t digest, const struct iovec *parts, unsigned count, uint64_t *end);
uint64_t __real_session_committed(void *context, enum output_device device);
uint64_t __wrap_session_committed(void *context, enum output_device device);
void __real_virtqueue_copy_in(
	const struct virtqueue_chains *chains, uint64_t offset, const void *from, uint64_t length);
void __wrap_virtqueue_copy_in(
	const struct virtqueue_chains *chains, uint64_t offset, const void *from, uint64_t length);
void __real_virtqueue_ask_notify(const struct virtqueue *queue, struct guest_memory *memory);
void __wrap_virtqueue_ask_notify(const struct virtqueue *queue, struct guest_memory *memory);
bool __real_machine_wait(struct machine *m, uint32_t watched, uint64_t longest_ns);
bool __wrap_machine_wait(struct machine *m, uint32_t watched, uint64_t longest_ns);
void __real_replay_begin(struct machine *m, struct replay *replay);
void __wrap_replay_begin(struct machine *m, struct replay *replay);
uint32_t __wrap_machine_digest(struct machine *m);
void __wrap_resync_forget(struct machine *m);
bool __wrap_resync_send(struct machine *m);

/* ---- the primary: the vCPU thread's ---- */

static struct machine *machine; /* once it is logged */
static uint64_t *written;       /* pages that devices have changed: KVM does not see those */
static uint64_t due_ns;
static uint64_t outputs; /* since the newest checkpoint */
static bool is_shipping;
/* Where the newest checkpoint ends in the log. W1: released with the end; read by the dataplane. */
static _Atomic uint64_t newest_end;

static bool is_logged(enum log_kind kind)
{
	return kind == LOG_PAGE || kind == LOG_COMMIT || kind == LOG_END;
}

/* An output is covered by the end of the next checkpoint, wherever that will be: somewhere behind here. */
static int leave_out(const struct log_writer *writer, enum log_kind kind, uint64_t *end)
{
	if (end)
		*end = kind == LOG_OUTPUT ? log_writer_head(writer) + ++outputs
					  : log_writer_written(writer);
	return 0;
}

int __wrap_log_writer_append(struct log_writer *writer, enum log_kind kind, uint64_t at,
	uint32_t digest, const void *payload, uint32_t length, uint64_t *end)
{
	return is_logged(kind)
		       ? __real_log_writer_append(writer, kind, at, digest, payload, length, end)
		       : leave_out(writer, kind, end);
}

/* How inputs and outputs are appended; and the guest's own end, which needs no word here. */
int __wrap_log_writer_append_parts(struct log_writer *writer, enum log_kind kind, uint64_t at,
	uint32_t digest, const struct iovec *parts, unsigned count, uint64_t *end)
{
	(void)at, (void)digest, (void)parts, (void)count;
	return leave_out(writer, kind, end);
}

/* The dataplane thread's: a checkpoint counts as a whole. */
uint64_t __wrap_session_committed(void *context, enum output_device device)
{
	static uint64_t whole;
	uint64_t end = atomic_load_explicit(&newest_end, memory_order_acquire);
	if (__real_session_committed(context, device) >= end)
		whole = end;
	return whole;
}

/* Nothing is compared. */
uint32_t __wrap_machine_digest(struct machine *m)
{
	(void)m;
	return 0;
}

void __wrap_resync_forget(struct machine *m)
{
	(void)m;
}

static void mark(const uint8_t *at, uint64_t length)
{
	if (!machine || length == 0)
		return;
	uint64_t first = (uint64_t)(at - machine->memory.base) / LOG_PAGE_SIZE;
	uint64_t last = (uint64_t)(at + length - 1 - machine->memory.base) / LOG_PAGE_SIZE;
	for (uint64_t page = first; page <= last; page++)
		written[page / 64] |= 1ull << page % 64;
}

void __wrap_virtqueue_copy_in(
	const struct virtqueue_chains *chains, uint64_t offset, const void *from, uint64_t length)
{
	uint64_t from_here = offset, left = length;
	for (uint32_t i = 0; i < chains->segments && left > 0; i++) {
		uint64_t size = chains->segment[i].length;
		if (from_here >= size) {
			from_here -= size;
			continue;
		}
		uint64_t part = size - from_here < left ? size - from_here : left;
		mark(chains->segment[i].at + from_here, part);
		left -= part;
		from_here = 0;
	}
	__real_virtqueue_copy_in(chains, offset, from, length);
}

/* Called whenever a device has returned buffers. */
void __wrap_virtqueue_ask_notify(const struct virtqueue *queue, struct guest_memory *memory)
{
	mark(memory->base + queue->device, 6 + 8ull * queue->size);
	__real_virtqueue_ask_notify(queue, memory);
}

static bool ship_pages(struct machine *m)
{
	struct log_page page;
	for (size_t word = 0; word < vcpu_words(m->memory.size); word++) {
		uint64_t bits = m->vcpu.changed[word] | written[word];
		for (written[word] = 0; bits != 0; bits &= bits - 1) {
			page.number = word * 64 + (uint64_t)__builtin_ctzll(bits);
			memcpy(page.bytes, m->memory.base + page.number * LOG_PAGE_SIZE,
				LOG_PAGE_SIZE);
			if (!live_append_resync(m, LOG_PAGE, &page, sizeof page))
				return false;
		}
	}
	return true;
}

static void checkpoint(struct machine *m)
{
	static uint8_t state[1u << 20];
	machine_finish(m);
	if (machine_ended(m) || machine_state_size() > sizeof state)
		return;
	is_shipping = true;
	if (vcpu_changes(&m->vcpu) < 0 || !ship_pages(m) || machine_save(m, state) < 0 ||
		!live_append_resync(m, LOG_COMMIT, state, (uint32_t)machine_state_size()))
		machine_end(m, MACHINE_FAILED, "no checkpoint could be made: %s", fail_message());
	outputs = 0;
	if (m->live->log)
		atomic_store_explicit(
			&newest_end, log_writer_head(m->live->log), memory_order_release);
	m->live->output_sealed = true; /* so that the dataplane looks */
	live_flush(m);
	is_shipping = false;
	due_ns = now_ns() + EPOCH_NS;
}

/* Begins with the log. One checkpoint at a time is on its way. */
static bool is_due(struct machine *m)
{
	if (!m->live->log || is_shipping)
		return false;
	if (!machine) {
		written = calloc(vcpu_words(m->memory.size), sizeof *written);
		if (!written)
			abort();
		machine = m;
		due_ns = now_ns();
	}
	return now_ns() >= due_ns && (outputs == 0 || peer_has_acked(m) || newest_end == 0);
}

/* In the middle of an exit only whoever halts waits: there a checkpoint may be made. */
bool __wrap_machine_wait(struct machine *m, uint32_t watched, uint64_t longest_ns)
{
	if (!m->halted || !m->live->log || m->source == &replay_source)
		return __real_machine_wait(m, watched, longest_ns);
	if (is_due(m)) {
		checkpoint(m);
		return !machine_ended(m);
	}
	uint64_t now = now_ns(), left = due_ns > now ? due_ns - now : 100000;
	return __real_machine_wait(m, watched, left < longest_ns ? left : longest_ns);
}

bool __wrap_resync_send(struct machine *m)
{
	checkpoint(m);
	return !machine_ended(m);
}

void peer_inputs(struct machine *m)
{
	__real_live_source.inputs(m);
	if (!machine_ended(m) && is_due(m))
		checkpoint(m);
}

/* ---- the backup ---- */

static bool apply(struct machine *m, const struct log_entry *entry)
{
	static uint8_t state[1u << 20];
	if (entry->kind == LOG_PAGE)
		return staging_add(m, entry) == 0;
	if (entry->kind != LOG_COMMIT || entry->length > sizeof state)
		return false;
	const struct log_page *pages = (const struct log_page *)(const void *)m->staging.pages;
	for (uint64_t i = 0; i < m->staging.count; i++)
		memcpy(m->memory.base + pages[i].number * LOG_PAGE_SIZE, pages[i].bytes,
			LOG_PAGE_SIZE);
	m->staging.count = 0;
	memcpy(state, entry->payload, entry->length); /* a machine would be loaded from here */
	return true;
}

/* Never lets its guest run. */
static void apply_checkpoints(struct machine *m)
{
	struct replay *replay = m->replay;
	while (!machine_ended(m)) {
		struct log_entry entry;
		uint32_t watched = machine_watch(m);
		if (replay->reader.next == atomic_load(&replay->limit)) {
			if (atomic_load(&replay->ended))
				machine_end(m, MACHINE_CUT, "the primary is gone");
			else
				machine_wait(m, watched, 10000000);
			continue;
		}
		if (log_reader_peek(&replay->reader, &entry) != LOG_VALID || !apply(m, &entry)) {
			machine_end(
				m, MACHINE_FAILED, "a checkpoint is damaged: %s", fail_message());
			return;
		}
		log_reader_take(&replay->reader, &entry);
		replay->last = LOG_OUTPUT; /* as after an output the other side is told */
		atomic_store(&replay->applied, entry.end);
		if (entry.kind == LOG_COMMIT)
			replay->progress(replay->context);
	}
}

void __wrap_replay_begin(struct machine *m, struct replay *replay)
{
	static struct source checkpoints;
	__real_replay_begin(m, replay);
	checkpoints = replay_source;
	checkpoints.inputs = apply_checkpoints;
	m->source = &checkpoints;
}

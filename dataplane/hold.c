#include "dataplane/hold.h"

#include "base/check.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * One byte ring, mapped twice in a row so that a record is contiguous wherever it starts. Positions
 * count bytes since the start and never wrap:
 *
 *   head (consumer) <= sealed (shared) <= written (producer) <= head + size
 *
 * Pairs of release and acquire:
 *
 *   H1 the consumer's head          H2 read by the producer: the room in front of it is free
 *   H3 the producer's sealed        H4 read by the consumer: the records in front of it are whole
 *   H5 counts of what has left      H6 read by anybody, with the counts of what was sealed
 *   H7 what was released            H8 read by anybody
 *   H9 what has left elsewhere      H10 read by the consumer
 */
struct record {
	uint64_t lsn;
	uint32_t session;
	uint32_t length;
	uint32_t flags;
	uint32_t unused;
	uint8_t bytes[];
};
_Static_assert(sizeof(struct record) == 24 && sizeof(struct record) % _Alignof(struct record) == 0,
	"records follow one another without a gap");

#define BURST_END 1u /* the last output of its seal */

#define RUN 32u
#define SESSIONS_MET 8u
#define NO_SESSION UINT32_MAX

struct released {
	_Atomic uint32_t session;
	_Atomic uint64_t lsn;
};

struct hold {
	uint8_t *ring;
	uint64_t size; /* a power of two */

	/* The producer's own. */
	_Alignas(64) uint64_t written;
	uint64_t put_outputs, put_bytes;
	uint32_t last_session;
	uint64_t last_lsn;

	_Alignas(64) _Atomic uint64_t sealed;
	_Atomic uint64_t sealed_outputs, sealed_bytes;
	_Atomic uint64_t elsewhere; /* a position: what begins before it has left there */

	_Alignas(64) _Atomic uint64_t head;
	_Atomic uint64_t left_outputs, left_bytes;
	/* The two sessions that released last; an older one's figures are of no use to anybody. */
	struct released released[2];
	unsigned newest_released; /* the consumer's own */
};

static size_t record_size(size_t length)
{
	return (sizeof(struct record) + length + 7) & ~(size_t)7;
}

static struct record *record_at(const struct hold *hold, uint64_t position)
{
	return (struct record *)(hold->ring + (position & (hold->size - 1)));
}

/* The first mapping reserves the place of both, so that nothing else comes to lie behind the ring.
 */
static int map_twice(size_t size, uint8_t **ring)
{
	int fd = memfd_create("doppel-hold", MFD_CLOEXEC);
	if (fd < 0)
		return fail(errno, "memory for held outputs: memfd_create: %s", strerror(errno));
	if (ftruncate(fd, (off_t)size) != 0)
		goto failed;
	uint8_t *base = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		goto failed;
	if (mmap(base + size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		MAP_FAILED) {
		munmap(base, 2 * size);
		goto failed;
	}
	close(fd);
	*ring = base;
	return 0;

failed:;
	int error = errno;
	close(fd);
	return fail(error, "memory for held outputs: %zu bytes: %s", size, strerror(error));
}

int hold_create(struct hold **out, size_t bytes)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	if (bytes > (size_t)1 << 40)
		return fail(EINVAL, "a hold of %zu bytes is more than any machine has", bytes);
	while (size < bytes)
		size *= 2;

	struct hold *hold = aligned_alloc(_Alignof(struct hold), sizeof *hold);
	if (!hold)
		return fail(ENOMEM, "memory for a hold: %s", strerror(ENOMEM));
	memset(hold, 0, sizeof *hold);
	hold->size = size;
	hold->last_session = NO_SESSION;
	atomic_init(&hold->released[0].session, NO_SESSION);
	atomic_init(&hold->released[1].session, NO_SESSION);
	int error = map_twice(size, &hold->ring);
	if (error) {
		free(hold);
		return error;
	}
	*out = hold;
	return 0;
}

void hold_destroy(struct hold *hold)
{
	if (!hold)
		return;
	munmap(hold->ring, 2 * hold->size);
	free(hold);
}

/* The most that outputs of `bytes` bytes together can need, however they are cut. */
static size_t needed(size_t outputs, size_t bytes)
{
	size_t overhead, needed;
	if (__builtin_mul_overflow(outputs, sizeof(struct record) + 7, &overhead) ||
		__builtin_add_overflow(overhead, bytes, &needed))
		return SIZE_MAX;
	return needed;
}

bool hold_has_room(const struct hold *hold, size_t outputs, size_t bytes)
{
	/* H2, pairs with H1 */
	uint64_t head = atomic_load_explicit(&hold->head, memory_order_acquire);
	return needed(outputs, bytes) <= hold->size - (hold->written - head);
}

void hold_yield(struct hold *hold, size_t outputs, size_t bytes)
{
	size_t need = needed(outputs, bytes);
	CHECK(O3, need <= hold->size, "room for %zu bytes in a hold of %llu", need,
		(unsigned long long)hold->size);
	if (hold->written + need > hold->size)
		atomic_store_explicit(&hold->elsewhere, hold->written + need - hold->size,
			memory_order_release); /* H9 */
}

void hold_put(struct hold *hold, const void *bytes, size_t length)
{
	/* H2, pairs with H1 */
	uint64_t head = atomic_load_explicit(&hold->head, memory_order_acquire);
	CHECK(D3,
		length <= hold->size && record_size(length) <= hold->size - (hold->written - head),
		"an output of %zu bytes has no room in the hold", length);
	struct record *record = record_at(hold, hold->written);
	record->length = (uint32_t)length;
	record->flags = 0;
	record->unused = 0;
	if (length)
		memcpy(record->bytes, bytes, length);
	hold->written += record_size(length);
	hold->put_outputs++;
	hold->put_bytes += length;
}

void hold_seal(struct hold *hold, uint32_t session, uint64_t lsn)
{
	uint64_t sealed = atomic_load_explicit(&hold->sealed, memory_order_relaxed); /* our own */
	if (sealed == hold->written)
		return;
	/* hold_released rests on it: an LSN names one burst, and later ones are greater. */
	CHECK(O1, session == SESSION_ALONE || session != hold->last_session || lsn > hold->last_lsn,
		"outputs of session %u sealed with LSN %lu after LSN %lu", session,
		(unsigned long)lsn, (unsigned long)hold->last_lsn);
	hold->last_session = session;
	hold->last_lsn = lsn;

	for (uint64_t at = sealed; at != hold->written;) {
		struct record *record = record_at(hold, at);
		at += record_size(record->length);
		record->session = session;
		record->lsn = lsn;
		if (at == hold->written)
			record->flags |= BURST_END;
	}
	/* Counted before they can leave, so that no more are ever seen to have left than came. */
	atomic_store_explicit(&hold->sealed_outputs, hold->put_outputs, memory_order_relaxed);
	atomic_store_explicit(&hold->sealed_bytes, hold->put_bytes, memory_order_relaxed);
	atomic_store_explicit(&hold->sealed, hold->written, memory_order_release); /* H3 */
}

static uint64_t head_of(const struct hold *hold)
{
	return atomic_load_explicit(&hold->head, memory_order_relaxed); /* the consumer's own */
}

static uint64_t sealed_end(const struct hold *hold)
{
	return atomic_load_explicit(&hold->sealed, memory_order_acquire); /* H4, pairs with H3 */
}

/* H5: release, so that who sees these sees the H3 before them; pairs with H6. */
static void count_left(struct hold *hold, uint64_t outputs, uint64_t bytes)
{
	atomic_fetch_add_explicit(&hold->left_outputs, outputs, memory_order_release);
	atomic_fetch_add_explicit(&hold->left_bytes, bytes, memory_order_release);
}

/* Gives back the room of what lies in front of `position`. */
static void advance(struct hold *hold, uint64_t position)
{
	atomic_store_explicit(&hold->head, position, memory_order_release); /* H1 */
}

struct acks {
	uint64_t (*acked)(void *context, uint32_t session);
	void *context;
	unsigned count;
	struct {
		uint32_t session;
		uint64_t lsn;
	} met[SESSIONS_MET];
};

/* Each session's counter is read once a call, so that what is gathered and what is checked before
 * it leaves are judged by the same value. A session too many counts as not acked until the next
 * call. */
static uint64_t acked_lsn(struct acks *acks, uint32_t session)
{
	for (unsigned i = 0; i < acks->count; i++) {
		if (acks->met[i].session == session)
			return acks->met[i].lsn;
	}
	if (acks->count == SESSIONS_MET)
		return 0;
	unsigned i = acks->count++;
	acks->met[i].session = session;
	acks->met[i].lsn = acks->acked(acks->context, session);
	return acks->met[i].lsn;
}

static bool covered(const struct hold *hold, uint64_t position, struct acks *acks)
{
	const struct record *record = record_at(hold, position);
	return record->session == SESSION_ALONE || record->lsn <= acked_lsn(acks, record->session) ||
	       /* H10, pairs with H9 */
	       position < atomic_load_explicit(&hold->elsewhere, memory_order_acquire);
}

static void note_released(struct hold *hold, uint32_t session, uint64_t lsn)
{
	if (session == SESSION_ALONE)
		return;
	for (unsigned i = 0; i < 2; i++) {
		if (atomic_load_explicit(&hold->released[i].session, memory_order_relaxed) ==
			session) {
			atomic_store_explicit(&hold->released[i].lsn, lsn, memory_order_release);
			hold->newest_released = i;
			return;
		}
	}
	/* H7: the slot has no session while its LSN changes, so that nobody takes one for the
	 * other's. */
	hold->newest_released ^= 1;
	struct released *slot = &hold->released[hold->newest_released];
	atomic_store_explicit(&slot->session, NO_SESSION, memory_order_relaxed);
	atomic_store_explicit(&slot->lsn, lsn, memory_order_release);
	atomic_store_explicit(&slot->session, session, memory_order_release);
}

struct run {
	uint64_t end; /* behind the last one */
	unsigned count;
	uint64_t at[RUN];
};

/* The outputs from `position` on that may leave now, up to the first that may not. */
static void gather(const struct hold *hold, uint64_t position, uint64_t sealed, struct acks *acks,
	struct run *run)
{
	run->count = 0;
	run->end = position;
	while (run->end != sealed && run->count < RUN) {
		if (!covered(hold, run->end, acks))
			break;
		run->at[run->count++] = run->end;
		run->end += record_size(record_at(hold, run->end)->length);
	}
}

/* The one place through which outputs leave. */
static unsigned hand_over(const struct hold *hold, const struct run *run, struct acks *acks,
	unsigned (*send)(void *context, const struct hold_output *outputs, unsigned count),
	void *context)
{
	struct hold_output outputs[RUN];
	for (unsigned i = 0; i < run->count; i++) {
		const struct record *record = record_at(hold, run->at[i]);
		CHECK(O2, covered(hold, run->at[i], acks),
			"an output of session %u at LSN %lu, acked up to %lu", record->session,
			(unsigned long)record->lsn,
			(unsigned long)acked_lsn(acks, record->session));
		outputs[i] = (struct hold_output){.bytes = record->bytes, .length = record->length};
	}
	unsigned taken = send(context, outputs, run->count);
	CHECK(O2, taken <= run->count, "%u outputs left of %u", taken, run->count);
	return taken;
}

size_t hold_release(struct hold *hold, uint64_t (*acked)(void *context, uint32_t session),
	unsigned (*send)(void *context, const struct hold_output *outputs, unsigned count),
	void *context)
{
	struct acks acks = {.acked = acked, .context = context};
	uint64_t sealed = sealed_end(hold);
	size_t left = 0;
	struct run run;
	unsigned taken;
	do {
		gather(hold, head_of(hold), sealed, &acks, &run);
		if (run.count == 0)
			break;
		taken = hand_over(hold, &run, &acks, send, context);
		uint64_t bytes = 0;
		for (unsigned i = 0; i < taken; i++) {
			const struct record *record = record_at(hold, run.at[i]);
			bytes += record->length;
			if (record->flags & BURST_END)
				note_released(hold, record->session, record->lsn);
		}
		count_left(hold, taken, bytes);
		advance(hold, taken < run.count ? run.at[taken] : run.end);
		left += taken;
	} while (taken == RUN);
	return left;
}

void hold_decide(struct hold *hold, uint32_t session)
{
	uint64_t sealed = sealed_end(hold);
	for (uint64_t at = head_of(hold); at != sealed;) {
		struct record *record = record_at(hold, at);
		if (record->session == session)
			record->session = SESSION_ALONE;
		at += record_size(record->length);
	}
}

static uint64_t waiting(const _Atomic uint64_t *sealed, const _Atomic uint64_t *left)
{
	/* H6, pairs with H5: what has left was sealed before, and is in the second figure too. */
	uint64_t gone = atomic_load_explicit(left, memory_order_acquire);
	return atomic_load_explicit(sealed, memory_order_relaxed) - gone;
}

uint64_t hold_waiting(const struct hold *hold)
{
	return waiting(&hold->sealed_outputs, &hold->left_outputs);
}

uint64_t hold_waiting_bytes(const struct hold *hold)
{
	return waiting(&hold->sealed_bytes, &hold->left_bytes);
}

uint64_t hold_released(const struct hold *hold, uint32_t session)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct released *slot = &hold->released[i];
		if (atomic_load_explicit(&slot->session, memory_order_acquire) != session)
			continue;
		/* H8, pairs with H7: an LSN of the slot's next session comes with a changed
		 * session. */
		uint64_t lsn = atomic_load_explicit(&slot->lsn, memory_order_acquire);
		if (atomic_load_explicit(&slot->session, memory_order_relaxed) == session)
			return lsn;
	}
	return 0;
}

void hold_clear(struct hold *hold)
{
	/* What was put and not sealed is nobody's either. */
	hold->written = atomic_load_explicit(&hold->sealed, memory_order_acquire);
	hold->put_outputs = atomic_load_explicit(&hold->sealed_outputs, memory_order_relaxed);
	hold->put_bytes = atomic_load_explicit(&hold->sealed_bytes, memory_order_relaxed);
	hold->last_session = NO_SESSION;
	atomic_store_explicit(
		&hold->left_outputs, hold->put_outputs, memory_order_release); /* H5 */
	atomic_store_explicit(&hold->left_bytes, hold->put_bytes, memory_order_release);
	for (unsigned i = 0; i < 2; i++)
		atomic_store_explicit(
			&hold->released[i].session, NO_SESSION, memory_order_release); /* H7 */
	atomic_store_explicit(&hold->head, hold->written, memory_order_release);       /* H1 */
}

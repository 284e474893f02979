#include "engine/resync.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "engine/live.h"
#include "engine/machine.h"
#include "engine/rdtsc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

/* The hash of a group: of each page's payload, seeded by those before it. */
static uint64_t add_hash(uint64_t hash, const void *payload, uint32_t length)
{
	return XXH3_64bits_withSeed(payload, length, hash);
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, LOG_PAGE_SIZE - 1) == 0;
}

/* ---- primary ---- */

static bool failed(struct machine *m)
{
	machine_end(m, MACHINE_FAILED, "%s", fail_message());
	return false;
}

static bool send_pages(struct machine *m, struct log_commit *commit)
{
	struct log_page page;
	const uint64_t *changed = m->vcpu.changed;
	for (size_t word = 0; word < vcpu_words(m->memory.size); word++) {
		for (uint64_t bits = changed[word]; bits != 0; bits &= bits - 1) {
			page.number = word * 64 + (uint64_t)__builtin_ctzll(bits);
			const uint8_t *at = m->memory.base + page.number * LOG_PAGE_SIZE;
			uint32_t length = sizeof page.number;
			if (!is_zero(at)) {
				memcpy(page.bytes, at, LOG_PAGE_SIZE);
				length = sizeof page;
			}
			if (!live_append_resync(m, LOG_PAGE, &page, length))
				return false;
			commit->pages++;
			commit->hash = add_hash(commit->hash, &page, length);
			CRASH_POINT("resync.page");
		}
	}
	return true;
}

/* The state as it is at the position that begins here. */
static bool send_commit(struct machine *m, const struct log_commit *commit)
{
	uint32_t length = (uint32_t)(sizeof *commit + machine_state_size());
	uint8_t *payload = malloc(length);
	if (!payload) {
		machine_end(m, MACHINE_FAILED, "no memory for the machine's state");
		return false;
	}
	machine_arrive(m);
	memcpy(payload, commit, sizeof *commit);
	bool sent = machine_save(m, payload + sizeof *commit) == 0 || failed(m);
	CRASH_POINT("resync.before");
	sent = sent && live_append_resync(m, LOG_COMMIT, payload, length);
	if (sent)
		CRASH_POINT("resync.after");
	free(payload);
	return sent;
}

bool resync_send(struct machine *m)
{
	struct resync_counters *counters = &m->live->resyncs;
	struct log_commit commit = {0};
	uint64_t began = now_ns();
	CHECK(D1, !m->unfinished && !m->halted, "a resync in the middle of exit %llu",
		(unsigned long long)m->exits);
	/* First, since a look at the guest's page tables may mark them as accessed. */
	if (rdtsc_keep_trapped(&m->vcpu, &m->memory) < 0 || vcpu_changes(&m->vcpu) < 0)
		return failed(m);
	if (!send_pages(m, &commit) || !send_commit(m, &commit))
		return false;
	m->live->flush_wanted = true;
	uint64_t took = now_ns() - began;
	atomic_fetch_add_explicit(&counters->count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->pages, commit.pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->total_ns, took, memory_order_relaxed);
	atomic_store_explicit(&counters->last_ns, took, memory_order_relaxed);
	if (took > atomic_load_explicit(&counters->longest_ns, memory_order_relaxed))
		atomic_store_explicit(&counters->longest_ns, took, memory_order_relaxed);
	return true;
}

void resync_forget(struct machine *m)
{
	if (vcpu_changes(&m->vcpu) < 0)
		failed(m);
}

/* ---- follower ---- */

static size_t staging_size(const struct machine *m)
{
	return m->memory.size / LOG_PAGE_SIZE * sizeof(struct log_page);
}

static struct log_page *staged(const struct staging *staging, uint64_t n)
{
	return (struct log_page *)(void *)staging->pages + n;
}

int staging_add(struct machine *m, const struct log_entry *entry)
{
	struct staging *staging = &m->staging;
	uint64_t pages = m->memory.size / LOG_PAGE_SIZE;
	if (staging->count == pages)
		return fail(EPROTO, "a resync has more pages than the guest");
	if (!staging->pages) {
		/* Address space: memory comes as it is needed, and goes with the group. */
		void *space = mmap(NULL, staging_size(m), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (space == MAP_FAILED)
			return fail(ENOMEM, "no memory for the pages of a resync");
		staging->pages = space;
		staging->size = staging_size(m);
	}
	/* The rest of a page that is zero is not there, and the space is new. It is looked at when it has
	 * been copied: the peer may be writing (L2). */
	struct log_page *page = staged(staging, staging->count);
	memcpy(page, entry->payload, entry->length);
	if (page->number >= pages ||
		(entry->length != sizeof *page && entry->length != sizeof page->number))
		return fail(EPROTO, "no page %llu of %u bytes can be the guest's",
			(unsigned long long)page->number, entry->length);
	staging->count++;
	staging->hash = add_hash(staging->hash, page, entry->length);
	return 0;
}

static int load(struct machine *m, const void *state, size_t size)
{
	int error = machine_check(m, state, size);
	if (error)
		return error;
	struct staging *staging = &m->staging;
	CRASH_POINT("commit.before");
	for (uint64_t i = 0; i < staging->count; i++) {
		const struct log_page *page = staged(staging, i);
		memcpy(m->memory.base + page->number * LOG_PAGE_SIZE, page->bytes, LOG_PAGE_SIZE);
	}
	staging_drop(staging);
	/* The digest goes on from what this side has. */
	struct digest digest = m->digest;
	error = vcpu_forget(&m->vcpu);
	if (!error)
		error = machine_load(m, state, size);
	m->digest = digest;
	CRASH_POINT("commit.after");
	return error;
}

int staging_commit(struct machine *m, const struct log_entry *entry)
{
	const struct staging *staging = &m->staging;
	struct log_commit *commit = malloc(entry->length);
	if (!commit)
		return fail(ENOMEM, "no memory for the machine's state");
	memcpy(commit, entry->payload, entry->length);
	int error;
	if (commit->pages == staging->count && commit->hash == staging->hash)
		error = load(m, commit->state, entry->length - sizeof *commit);
	else
		error = fail(EPROTO,
			"a resync of %llu pages is committed, and %llu others have come",
			(unsigned long long)commit->pages, (unsigned long long)staging->count);
	free(commit);
	return error;
}

void staging_drop(struct staging *staging)
{
	if (staging->pages)
		munmap(staging->pages, staging->size);
	*staging = (struct staging){0};
}

/*
 * The durable log of a backup: a recording (recording.h) of a set size whose end is persistent. It
 * holds a first state, the session's secret and every entry since, outlives the host, and is read by
 * `doppel replay` and `dump`.
 *
 * What is durable is there after a crash at any instant, because everything is persistent before
 * whatever refers to it is written:
 *
 *     header, state, pages ─▶ settle ─▶ an end (empty) ─▶ settle ─▶ the file gets its name
 *     entries ─▶ settle ─▶ the other end ─▶ settle ─▶ durable up to there
 *
 * Of the two ends the older one is overwritten, so a torn one costs nothing; entries behind the end may
 * be there or not and are never read. A log that keeps the newest moves its beginning, and settles
 * that, before it overwrites what was there.
 *
 * Once durable_create has returned, guest memory may change. One thread at a time.
 */
#pragma once

#include "transport/log_file.h"
#include "transport/recording.h"

/* Room for entries, at least. */
#define DURABLE_AREA_MIN (2u << 20)

enum durable_keep {
	DURABLE_KEEP_ALL,    /* a full log takes no more: -ENOSPC */
	DURABLE_KEEP_NEWEST, /* a full log drops its oldest sixteenth */
};

struct durable;

/* The size that suffices for any guest with so much memory. */
uint64_t durable_size_min(size_t state_size, uint64_t memory_size);

/* Copies the first state into `file`, which it owns from here on, also when it fails. */
int durable_create(struct durable **out, struct log_file *file, enum durable_keep keep,
	const struct recording_origin *origin) MUST_CHECK;

/*
 * Appends the whole entries in `length` bytes, the first one at durable_next. They are copied once and
 * checked in the copy (L2), so the bytes may lie where a peer can write. Nothing is persistent yet.
 *
 * -ENOSPC: the log is full, and what was appended so far stays, can be persisted and is all there will
 * be. -EBADMSG: what comes next is no valid entry. Others: see durable_persist.
 */
int durable_append(struct durable *durable, const uint8_t *bytes, uint64_t length) MUST_CHECK;

/* Makes everything appended persistent: when it returns 0, durable_next has become durable. Any error
 * is for good: nothing more can become durable, what was so already stays so. */
int durable_persist(struct durable *durable) MUST_CHECK;

uint64_t durable_next(const struct durable *durable);  /* LSN behind the last entry appended */
uint64_t durable_begin(const struct durable *durable); /* LSN of the oldest entry kept */

/* Persists nothing. A log that was never persisted leaves no file. NULL is nothing. */
void durable_close(struct durable *durable);

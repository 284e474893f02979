/*
 * Walks a log, in a ring or in a recording, and yields only valid entries, in order, without a gap
 * (L1). Any number of readers may walk one ring; each belongs to one thread and trusts nothing that
 * another has found: it copies and checks each entry itself (L2).
 */
#pragma once

#include "transport/log_format.h"

struct log_reader {
	const uint8_t *base; /* a ring mapped twice in a row, or a recording's first entry */
	uint64_t size;   /* of the ring (a power of two), or of the recording's area for entries */
	uint64_t origin; /* 0 for a ring; the first LSN for a recording */
	uint64_t end;    /* there is nothing from here on; UINT64_MAX for a ring */
	bool is_ring;
	uint64_t secret;
	uint64_t next;     /* LSN of the entry that comes next */
	uint64_t position; /* of the last entry taken */
};

void log_reader_ring(struct log_reader *reader, const uint8_t *ring, uint64_t size, uint64_t secret,
	uint64_t start);
/* A recording: it may be a durable log that has dropped its oldest entries, which then sets `next` and
 * `end`, and has the area mapped twice in a row as well. */
void log_reader_file(struct log_reader *reader, const uint8_t *entries, uint64_t size,
	uint64_t secret, uint64_t start);

/*
 * Looks at the next entry without taking it. LOG_VALID fills `out`, whose payload stays where it is
 * until the producer is told that it may overwrite it. For the other verdicts see log_format.h: while
 * the peer lives they mean "not yet"; after the fence, or in a file, they are the end of the log.
 * An entry whose position is below that of the last is LOG_PARTIAL: it is never valid.
 */
enum log_verdict log_reader_peek(const struct log_reader *reader, struct log_entry *out);

/* Takes the entry that log_reader_peek has shown. */
void log_reader_take(struct log_reader *reader, const struct log_entry *entry);

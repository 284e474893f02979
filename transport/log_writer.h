/*
 * The primary's end of the log: entries gather in a staging ring and leave together in a flush.
 *
 * Used by one thread, the vCPU's. Appending makes no system call, allocates nothing, and never waits:
 * when the entry does not fit, because the consumer has not finished with what lies there (L3) or a
 * write still reads the staging ring, it says -EAGAIN, and the caller waits, which stops the guest
 * and not the log. The staging ring is as large as the ring it mirrors.
 *
 * A payload that lies in memory lent to the writer is not copied: the staging ring has a hole where it
 * belongs, and the flush gathers it from where it lies.
 *
 *   staging ring   ... header |        hole        | padding, trailer, header | hole ...
 *   lent memory               | payload of a frame |                          | ...
 *
 * A flush happens when the caller asks for it (an output, a halt), when FLUSH_BYTES or FLUSH_LENT
 * payloads have gathered, or when log_writer_flush_due() says that the oldest entry has waited for
 * FLUSH_NS; for longer, up to FLUSH_NS_MAX, where flushes are so dear (a slow machine, soft-RoCE) that they
 * would take more than a FLUSH_SHARE-th of the time. What belongs into a flush besides (a MARK where no entry has
 * told the position, D6) is the caller's to append first.
 */
#pragma once

#include "transport/log_format.h"
#include "transport/transport.h"

#define FLUSH_BYTES (32u * 1024u)
#define FLUSH_NS 200000u
#define FLUSH_NS_MAX 5000000u
#define FLUSH_SHARE 8u
#define FLUSH_LENT 32u
/* Of one flush. Further payloads are copied, as if they were not lent. */
#define FLUSH_LENT_MAX 128u

/* Where flushed bytes go: a provider's connection or a recording. */
struct log_sink {
	/* Places `count` pieces at `lsn`; see write_log of struct provider. */
	int (*write)(void *context, uint64_t lsn, const struct iovec *pieces, int count);
	/* The staging ring, and what was lent, may be changed below this LSN. */
	uint64_t (*written)(void *context);
	/* The consumer has finished below this LSN. `head`: what has been flushed. UINT64_MAX: no limit. */
	uint64_t (*consumed)(void *context, uint64_t head);
};

struct log_writer;

/* `ring_size`: a power of two, 64 KiB at least. The first entry will be at `start`. */
int log_writer_create(struct log_writer **out, const struct log_sink *sink, void *context,
	size_t ring_size, uint64_t secret, uint64_t start) MUST_CHECK;
void log_writer_destroy(struct log_writer *writer);

/* The memory in which all that is flushed lies, but for what is lent: for register_source of struct
 * provider. */
void log_writer_staging(const struct log_writer *writer, void **base, size_t *size);

/* From now on payloads in this memory leave from there. Each must stay as it is until
 * log_writer_written() has passed its entry; the sink must be able to read it (register_source). */
void log_writer_lend(struct log_writer *writer, const void *base, size_t size);

/* The LSN below which nothing that was appended is read any more. */
uint64_t log_writer_written(const struct log_writer *writer);

/* Appends an entry; `end`, if given, becomes the LSN behind it. -EAGAIN as above, without a message;
 * the caller flushes before it waits, since what is gathered takes room too. -EMSGSIZE when the ring
 * is smaller than the entry. */
int log_writer_append(struct log_writer *writer, enum log_kind kind, uint64_t position,
	uint32_t digest, const void *payload, uint32_t length, uint64_t *end) MUST_CHECK;

/* The same for a payload in parts, each of which may be lent. */
int log_writer_append_parts(struct log_writer *writer, enum log_kind kind, uint64_t position,
	uint32_t digest, const struct iovec *parts, unsigned count, uint64_t *end) MUST_CHECK;

/* Hands everything appended to the sink. A negative errno is the sink's: the connection is gone. */
int log_writer_flush(struct log_writer *writer) MUST_CHECK;

/* Whether there are unflushed entries that are FLUSH_BYTES long, have FLUSH_LENT payloads that were lent,
 * or have waited as long as said above. */
bool log_writer_flush_due(const struct log_writer *writer, uint64_t now);

uint64_t log_writer_head(const struct log_writer *writer);    /* behind the last entry appended */
uint64_t log_writer_flushed(const struct log_writer *writer); /* behind the last entry flushed */
uint64_t log_writer_entries(const struct log_writer *writer); /* appended so far */
/* The consumer has finished below this LSN. */
uint64_t log_writer_consumed(const struct log_writer *writer);

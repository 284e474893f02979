#include "transport/log_writer.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "base/idle.h"
#include "transport/memfd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct log_writer {
	const struct log_sink *sink;
	void *context;
	uint8_t *staging; /* mapped twice in a row, so that no piece of a flush is split */
	uint64_t size;
	uint64_t secret;
	uint64_t head;
	uint64_t flushed;
	uint64_t origin; /* the LSN that lies at the staging ring's first byte, or a lap below it */
	uint64_t limit;  /* the head may go up to here without asking the sink again */
	uint64_t position; /* of the last entry */
	uint64_t entries;
	uint64_t first_ns; /* when the oldest unflushed entry was appended */
	uint64_t cost_ns;  /* of a flush, a moving average */

	const uint8_t *lent; /* memory from which payloads leave without a copy */
	size_t lent_size;
	/* Of the next flush: a piece of the staging ring before each payload that was lent, and that
	 * payload. Behind them, from `gathered` on, comes the staging ring again. */
	struct iovec pieces[2 * FLUSH_LENT_MAX + 1];
	unsigned lent_count;
	uint64_t gathered;
};

int log_writer_create(struct log_writer **out, const struct log_sink *sink, void *context,
	size_t ring_size, uint64_t secret, uint64_t start)
{
	int error = provider_check_ring(ring_size);
	if (error)
		return error;
	if (start % 8 != 0)
		return fail(EINVAL, "a log that starts at LSN %llu, not a multiple of 8",
			(unsigned long long)start);
	struct log_writer *writer = malloc(sizeof *writer);
	if (!writer)
		return fail(ENOMEM, "no memory for a log writer");
	*writer = (struct log_writer){
		.sink = sink,
		.context = context,
		.size = ring_size,
		.secret = secret,
		.head = start,
		.flushed = start,
		.gathered = start,
		.origin = start,
		.limit = start + ring_size,
	};
	void *staging;
	error = memfd_ring(&staging, "log staging ring", ring_size);
	if (error) {
		free(writer);
		return error;
	}
	writer->staging = staging;
	*out = writer;
	return 0;
}

void log_writer_destroy(struct log_writer *writer)
{
	if (!writer)
		return;
	memfd_unmap(writer->staging, writer->size, true);
	free(writer);
}

void log_writer_staging(const struct log_writer *writer, void **base, size_t *size)
{
	*base = writer->staging;
	*size = 2 * writer->size;
}

void log_writer_lend(struct log_writer *writer, const void *base, size_t size)
{
	writer->lent = base;
	writer->lent_size = size;
}

uint64_t log_writer_written(const struct log_writer *writer)
{
	return writer->sink->written(writer->context);
}

static uint8_t *staged(const struct log_writer *writer, uint64_t lsn)
{
	return writer->staging + ((lsn - writer->origin) & (writer->size - 1));
}

static struct iovec staged_piece(const struct log_writer *writer, uint64_t from, uint64_t to)
{
	return (struct iovec){.iov_base = staged(writer, from), .iov_len = to - from};
}

static bool is_lent(const struct log_writer *writer, const struct iovec *part)
{
	const uint8_t *bytes = part->iov_base;
	return writer->lent_size >= part->iov_len && bytes >= writer->lent &&
	       (size_t)(bytes - writer->lent) <= writer->lent_size - part->iov_len &&
	       writer->lent_count < FLUSH_LENT_MAX;
}

/* What was lent keeps its place in the staging ring as a hole; the rest is copied. */
static void place(struct log_writer *writer, uint64_t lsn, const struct iovec *part)
{
	if (!is_lent(writer, part)) {
		memcpy(staged(writer, lsn), part->iov_base, part->iov_len);
		return;
	}
	struct iovec *pieces = &writer->pieces[2 * writer->lent_count++];
	pieces[0] = staged_piece(writer, writer->gathered, lsn);
	pieces[1] = *part;
	writer->gathered = lsn + part->iov_len;
}

/* Asks how far the head may go: not over what the consumer still needs (L3), nor over staged bytes
 * that a write still reads. */
static void refresh_limit(struct log_writer *writer)
{
	uint64_t consumed = writer->sink->consumed(writer->context, writer->flushed);
	uint64_t written = writer->sink->written(writer->context);
	CHECK(L3, consumed == UINT64_MAX || consumed <= writer->flushed,
		"the consumer has finished with LSN %llu, and only %llu was flushed",
		(unsigned long long)consumed, (unsigned long long)writer->flushed);
	CHECK(L3, written <= writer->flushed, "LSN %llu is written, and only %llu was flushed",
		(unsigned long long)written, (unsigned long long)writer->flushed);
	uint64_t free_below = consumed < written ? consumed : written;
	/* A sink that has yet to see its first byte may answer with less than where the log starts.
	 */
	if (free_below + writer->size > writer->limit)
		writer->limit = free_below + writer->size;
}

int log_writer_append(struct log_writer *writer, enum log_kind kind, uint64_t position,
	uint32_t digest, const void *payload, uint32_t length, uint64_t *end)
{
	const struct iovec part = {.iov_base = (void *)payload, .iov_len = length};
	return log_writer_append_parts(writer, kind, position, digest, &part, 1, end);
}

int log_writer_append_parts(struct log_writer *writer, enum log_kind kind, uint64_t position,
	uint32_t digest, const struct iovec *parts, unsigned count, uint64_t *end)
{
	uint32_t length = 0;
	for (unsigned i = 0; i < count; i++)
		length += (uint32_t)parts[i].iov_len;
	uint64_t size = log_entry_size(length);
	if (length > LOG_PAYLOAD_MAX || size > writer->size)
		return fail(EMSGSIZE, "an entry of %u bytes does not fit into a log ring of %llu",
			length, (unsigned long long)writer->size);
	if (writer->head + size > writer->limit) {
		refresh_limit(writer);
		/* No message: the caller asks again and again while it waits. */
		if (writer->head + size > writer->limit)
			return -EAGAIN;
	}
	CHECK(D2, position >= writer->position, "an entry at position %llu behind one at %llu",
		(unsigned long long)position, (unsigned long long)writer->position);
	CRASH_POINT("append.before");
	if (writer->head == writer->flushed) {
		writer->first_ns = now_ns();
		/* When no write reads the staging ring, it begins anew: the bytes that are written most
		 * are then those that the processor's caches still have. */
		if (writer->sink->written(writer->context) == writer->flushed)
			writer->origin = writer->head;
	}
	log_encode_around(staged(writer, writer->head), writer->secret, writer->head, kind,
		position, digest, parts, count);
	uint64_t at = writer->head + LOG_HEADER_SIZE;
	for (unsigned i = 0; i < count; i++) {
		place(writer, at, &parts[i]);
		at += parts[i].iov_len;
	}
	writer->head += size;
	writer->position = position;
	writer->entries++;
	CHECK(L3, writer->head - writer->flushed <= writer->size,
		"%llu bytes gathered in a ring of %llu",
		(unsigned long long)(writer->head - writer->flushed),
		(unsigned long long)writer->size);
	CRASH_POINT("append.after");
	if (end)
		*end = writer->head;
	return 0;
}

int log_writer_flush(struct log_writer *writer)
{
	if (writer->head == writer->flushed)
		return 0;
	CRASH_POINT("flush.before");
	unsigned count = 2 * writer->lent_count;
	/* Never empty: behind each payload there is a trailer. */
	writer->pieces[count++] = staged_piece(writer, writer->gathered, writer->head);
	uint64_t began = now_ns();
	int error =
		writer->sink->write(writer->context, writer->flushed, writer->pieces, (int)count);
	if (error)
		return error;
	writer->cost_ns = (7 * writer->cost_ns + (now_ns() - began)) / 8;
	writer->flushed = writer->gathered = writer->head;
	writer->lent_count = 0;
	CRASH_POINT("flush.after");
	return 0;
}

bool log_writer_flush_due(const struct log_writer *writer, uint64_t now)
{
	uint64_t gathered = writer->head - writer->flushed, wait = FLUSH_SHARE * writer->cost_ns;
	if (wait < FLUSH_NS)
		wait = FLUSH_NS;
	if (wait > FLUSH_NS_MAX)
		wait = FLUSH_NS_MAX;
	/* `now` may be a little older than the entry: another clock reading of the same thread's
	 * pass. */
	return gathered >= FLUSH_BYTES || writer->lent_count >= FLUSH_LENT ||
	       (gathered > 0 && now > writer->first_ns && now - writer->first_ns >= wait);
}

uint64_t log_writer_entries(const struct log_writer *writer)
{
	return writer->entries;
}

uint64_t log_writer_head(const struct log_writer *writer)
{
	return writer->head;
}

uint64_t log_writer_flushed(const struct log_writer *writer)
{
	return writer->flushed;
}

uint64_t log_writer_consumed(const struct log_writer *writer)
{
	return writer->sink->consumed(writer->context, writer->flushed);
}

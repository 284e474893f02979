#include "transport/durable.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "transport/recording_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Entries are copied and checked in pieces of this size. */
#define CHUNK (128u << 10)
_Static_assert(CHUNK >= LOG_PAYLOAD_MAX + LOG_HEADER_SIZE + LOG_TRAILER_SIZE, "an entry fits");

/* The area's parts; the oldest one is dropped when room is needed. An entry begins in each. */
#define PARTS 16u
_Static_assert(DURABLE_AREA_MIN / PARTS >= CHUNK, "room for a chunk is made by dropping two parts");

struct durable {
	struct log_file *file;
	enum durable_keep keep;
	bool is_published;
	int error; /* of durable_persist: for good */
	uint64_t secret;
	uint64_t start;
	uint64_t written;      /* offset in the file, while the first state is written */
	uint64_t ends;         /* offset of the two ends */
	uint64_t entries;      /* offset of the area */
	uint64_t area;         /* bytes */
	uint64_t begin;        /* LSN of the oldest entry kept */
	uint64_t next;         /* LSN behind the last entry copied */
	uint64_t persisted;    /* LSN behind the last entry settled */
	uint64_t position;     /* of the last entry */
	uint64_t sequence;     /* of the end written last */
	uint64_t told_begin;   /* what that end says */
	uint64_t first[PARTS]; /* LSN of the first entry that begins in each part, in its newest lap
				*/
	uint8_t chunk[];
};

uint64_t durable_size_min(size_t state_size, uint64_t memory_size)
{
	const struct recording_origin origin = {.state_size = state_size};
	uint64_t front = recording_front_size(&origin, memory_size / RECORDING_PAGE);
	return recording_page_up(front) + RECORDING_ENDS * RECORDING_PAGE + DURABLE_AREA_MIN;
}

static int put(void *context, struct iovec *pieces, int count)
{
	struct durable *durable = context;
	for (int i = 0; i < count; i++) {
		if (pieces[i].iov_len == 0)
			continue;
		int error = durable->file->kind->copy(
			durable->file, durable->written, pieces[i].iov_base, pieces[i].iov_len);
		if (error)
			return error;
		durable->written += pieces[i].iov_len;
	}
	return 0;
}

int durable_create(struct durable **out, struct log_file *file, enum durable_keep keep,
	const struct recording_origin *origin)
{
	struct durable *durable = calloc(1, sizeof *durable + CHUNK);
	int error;
	if (!durable) {
		error = fail(ENOMEM, "no memory for the log %s", file->path);
		goto close_file;
	}
	uint64_t pages = recording_count_pages(origin);
	uint64_t ends = recording_page_up(recording_front_size(origin, pages));
	uint64_t entries = ends + RECORDING_ENDS * RECORDING_PAGE;
	if (file->size % RECORDING_PAGE != 0 || file->size < entries + DURABLE_AREA_MIN) {
		error = fail(ENOSPC,
			"the log %s of %llu KiB has no room for the guest's state: give at least "
			"%llu KiB, "
			"a multiple of 4, with --log-size",
			file->path, (unsigned long long)file->size >> 10,
			(unsigned long long)(entries + DURABLE_AREA_MIN) >> 10);
		goto free_durable;
	}
	*durable = (struct durable){
		.file = file,
		.keep = keep,
		.secret = origin->secret,
		.start = origin->start,
		.ends = ends,
		.entries = entries,
		.area = file->size - entries,
		.begin = origin->start,
		.next = origin->start,
		.persisted = origin->start,
	};
	error = recording_write_front(origin, pages, durable->area, put, durable);
	if (error)
		goto free_durable;
	CRASH_POINT("log.copied");
	*out = durable;
	return 0;

free_durable:
	free(durable);
close_file:
	file->kind->close(file);
	return error;
}

/* ---- persisting ---- */

/* Calls `one` for the one or two pieces of the area in which LSNs from `from` to `to` lie. */
static int in_pieces(struct durable *durable, uint64_t from, uint64_t to,
	int (*one)(struct durable *durable, uint64_t at, uint64_t lsn, uint64_t length))
{
	while (from < to) {
		uint64_t offset = (from - durable->start) % durable->area;
		uint64_t length = to - from;
		if (length > durable->area - offset)
			length = durable->area - offset;
		int error = one(durable, durable->entries + offset, from, length);
		if (error)
			return error;
		from += length;
	}
	return 0;
}

static int settle_piece(struct durable *durable, uint64_t at, uint64_t lsn, uint64_t length)
{
	(void)lsn;
	return durable->file->kind->settle(durable->file, at, length);
}

static int write_end(struct durable *durable)
{
	struct recording_end end = {.sequence = durable->sequence + 1,
		.begin = durable->begin,
		.end = durable->persisted};
	uint64_t at = durable->ends + end.sequence % RECORDING_ENDS * RECORDING_PAGE;
	end.check = recording_end_check(durable->secret, &end);
	int error = durable->file->kind->copy(durable->file, at, &end, sizeof end);
	if (!error)
		error = durable->file->kind->settle(durable->file, at, sizeof end);
	if (error)
		return error;
	durable->sequence = end.sequence;
	durable->told_begin = end.begin;
	return 0;
}

static int persist(struct durable *durable)
{
	struct log_file *file = durable->file;
	int error = 0;
	if (!durable->is_published)
		error = file->kind->settle(file, 0, durable->written);
	if (!error)
		error = in_pieces(durable, durable->persisted, durable->next, settle_piece);
	if (error)
		return error;
	CRASH_POINT("log.settled");
	durable->persisted = durable->next;
	error = write_end(durable);
	if (!error && !durable->is_published)
		error = file->kind->publish(file);
	if (error)
		return error;
	durable->is_published = true;
	CRASH_POINT("log.ended");
	return 0;
}

int durable_persist(struct durable *durable)
{
	if (durable->error)
		return fail(-durable->error, "the log %s has failed before", durable->file->path);
	if (durable->is_published && durable->persisted == durable->next &&
		durable->told_begin == durable->begin)
		return 0;
	durable->error = persist(durable);
	return durable->error;
}

/* ---- appending ---- */

/* Drops what lies where the bytes up to LSN `end` will. What was overwritten may no longer be said
 * to be there, so a new beginning is settled first. */
static int drop_oldest(struct durable *durable, uint64_t end)
{
	if (end - durable->begin <= durable->area)
		return 0;
	uint64_t part = durable->area / PARTS;
	uint64_t parts = (end - durable->area - durable->start + part - 1) / part;
	uint64_t begin = durable->first[parts % PARTS];
	CHECK(L3, begin >= durable->start + parts * part && begin <= durable->next,
		"the log %s would drop what lies before LSN %llu, to write up to %llu",
		durable->file->path, (unsigned long long)begin, (unsigned long long)end);
	durable->begin = begin;
	return durable_persist(durable);
}

/* Remembers the first entry of each part. */
static void note_entry(struct durable *durable, const struct log_entry *entry)
{
	uint64_t part = durable->area / PARTS;
	uint64_t index = (entry->lsn - durable->start) / part;
	if (durable->first[index % PARTS] < durable->start + index * part)
		durable->first[index % PARTS] = entry->lsn;
}

static int copy_piece(struct durable *durable, uint64_t at, uint64_t lsn, uint64_t length)
{
	return durable->file->kind->copy(
		durable->file, at, durable->chunk + (lsn - durable->next), length);
}

/* Appends what is whole of the chunk's first `length` bytes. */
static int append_chunk(struct durable *durable, uint64_t length)
{
	if (durable->keep == DURABLE_KEEP_NEWEST) {
		int error = drop_oldest(durable, durable->next + length);
		if (error)
			return error;
	}
	struct log_reader reader;
	struct log_entry entry;
	bool full = false;
	log_reader_file(&reader, durable->chunk, length, durable->secret, durable->next);
	reader.position = durable->position;
	while (log_reader_peek(&reader, &entry) == LOG_VALID) {
		full = entry.end - durable->begin > durable->area;
		if (full)
			break;
		note_entry(durable, &entry);
		log_reader_take(&reader, &entry);
	}
	uint64_t before = durable->next;
	int error = in_pieces(durable, durable->next, reader.next, copy_piece);
	if (error)
		return error;
	durable->next = reader.next;
	durable->position = reader.position;
	if (full)
		return fail(ENOSPC, "the log %s is full after %llu KiB of entries",
			durable->file->path,
			(unsigned long long)(durable->next - durable->start) >> 10);
	if (durable->next == before)
		return fail(EBADMSG, "the log changed at LSN %llu after it was received",
			(unsigned long long)before);
	return 0;
}

int durable_append(struct durable *durable, const uint8_t *bytes, uint64_t length)
{
	uint64_t end = durable->next + length;
	while (durable->next < end) {
		uint64_t piece = end - durable->next;
		if (piece > CHUNK)
			piece = CHUNK;
		uint64_t before = durable->next;
		memcpy(durable->chunk, bytes, piece);
		int error = append_chunk(durable, piece);
		if (error)
			return error;
		bytes += durable->next - before;
	}
	CRASH_POINT("log.appended");
	return 0;
}

uint64_t durable_next(const struct durable *durable)
{
	return durable->next;
}

uint64_t durable_begin(const struct durable *durable)
{
	return durable->begin;
}

void durable_close(struct durable *durable)
{
	if (!durable)
		return;
	durable->file->kind->close(durable->file);
	free(durable);
}

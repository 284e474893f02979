#include "transport/log_reader.h"

#include "base/check.h"

void log_reader_ring(struct log_reader *reader, const uint8_t *ring, uint64_t size, uint64_t secret,
	uint64_t start)
{
	CHECK(L2, size >= 8 && (size & (size - 1)) == 0 && start % 8 == 0,
		"a ring of %llu bytes from LSN %llu", (unsigned long long)size,
		(unsigned long long)start);
	*reader = (struct log_reader){.base = ring,
		.size = size,
		.is_ring = true,
		.end = UINT64_MAX,
		.secret = secret,
		.next = start};
}

void log_reader_file(struct log_reader *reader, const uint8_t *entries, uint64_t size,
	uint64_t secret, uint64_t start)
{
	*reader = (struct log_reader){.base = entries,
		.size = size,
		.origin = start,
		.end = start + size,
		.secret = secret,
		.next = start};
}

enum log_verdict log_reader_peek(const struct log_reader *reader, struct log_entry *out)
{
	if (reader->next >= reader->end)
		return LOG_ABSENT;
	/* Whatever its offset, an entry of up to the size is contiguous. */
	uint64_t offset = reader->is_ring ? reader->next & (reader->size - 1)
					  : (reader->next - reader->origin) % reader->size;
	uint64_t available = reader->is_ring ? reader->size : reader->end - reader->next;
	struct log_entry entry;
	enum log_verdict verdict =
		log_decode(reader->base + offset, available, reader->secret, reader->next, &entry);
	if (verdict != LOG_VALID)
		return verdict;
	if (entry.position < reader->position)
		return LOG_PARTIAL;
	*out = entry;
	return LOG_VALID;
}

void log_reader_take(struct log_reader *reader, const struct log_entry *entry)
{
	CHECK(L1, entry->lsn == reader->next && entry->end > entry->lsn,
		"the entry at LSN %llu is taken where the one at %llu comes next",
		(unsigned long long)entry->lsn, (unsigned long long)reader->next);
	reader->next = entry->end;
	reader->position = entry->position;
}

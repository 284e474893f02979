#include "tests/guests/book.h"

/*
 * Entries stand in a ring in the order in which they came; entry n, counted from 1, is in slot
 * n % BOOK_REMEMBERED until entry n + BOOK_REMEMBERED takes its place. Entries whose ids fall into
 * the same bucket form a chain from younger to older, by number. So nothing need ever be taken out
 * of a chain: it ends at the first number that is too old to be in the ring still.
 */
struct entry {
	uint64_t id;
	int64_t total;
	uint64_t older;
};
static struct entry entries[BOOK_REMEMBERED];
static uint64_t youngest[BOOK_REMEMBERED]; /* by bucket */

struct book_totals book;

static uint64_t *bucket_of(uint64_t id)
{
	/* Fibonacci hashing: the golden ratio spreads ids that follow one another. */
	return &youngest[(id * 0x9e3779b97f4a7c15u) >> 47];
}
_Static_assert(BOOK_REMEMBERED == 1u << (64 - 47), "the hash gives a bucket");

static const struct entry *find(uint64_t number, uint64_t id)
{
	uint64_t oldest = book.count < BOOK_REMEMBERED ? 1 : book.count - BOOK_REMEMBERED + 1;
	while (number >= oldest) {
		const struct entry *entry = &entries[number % BOOK_REMEMBERED];
		if (entry->id == id)
			return entry;
		number = entry->older;
	}
	return 0;
}

bool book_add(uint64_t id, int64_t amount, int64_t *total)
{
	uint64_t *bucket = bucket_of(id);
	const struct entry *known = find(*bucket, id);
	if (known) {
		*total = known->total;
		return true;
	}
	if (__builtin_add_overflow(book.total, amount, total))
		return false;
	book.total = *total;
	book.count++;
	entries[book.count % BOOK_REMEMBERED] =
		(struct entry){.id = id, .total = *total, .older = *bucket};
	*bucket = book.count;
	return true;
}

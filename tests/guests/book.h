/*
 * The ledger's book: a total, and the last BOOK_REMEMBERED ids with the total that each one led to.
 * An id counts once; one that is remembered gets the total it got first.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BOOK_REMEMBERED 131072u

struct book_totals {
	int64_t total;
	uint64_t count; /* of ids counted, ever */
};
extern struct book_totals book;

/* Counts `amount` unless `id` has been; `total` is what to answer. False, and nothing counted, when
 * the total would not fit into 64 bits. */
bool book_add(uint64_t id, int64_t amount, int64_t *total);

/*
 * The bytes of a recording that are not entries, as recording.h specifies them: for the files of
 * transport/ that write and read them.
 */
#pragma once

#include "transport/recording.h"

#include <stddef.h>
#include <sys/uio.h>

#define RECORDING_PAGE 4096u

struct recording_header {
	char magic[8];
	uint32_t version;
	uint32_t state_size;
	uint64_t secret;
	uint64_t start;
	uint64_t memory_size;
	uint64_t page_count;
	uint64_t area;
	uint64_t generation;
	char vm[72];
	uint32_t crc;
	uint32_t reserved;
};
_Static_assert(sizeof(struct recording_header) == 144, "the file's bytes");
_Static_assert(offsetof(struct recording_header, crc) == 136, "the file's bytes");
_Static_assert(RECORDING_VM_MAX < 72, "a name ends with a zero");

/* The header up to here, the state and the pages are what its checksum covers: standard CRC32C,
 * begun and ended with inversions. */
#define RECORDING_CHECKED offsetof(struct recording_header, crc)
#define RECORDING_CRC_BEGIN UINT32_MAX

struct recording_page {
	uint64_t number;
	uint8_t bytes[RECORDING_PAGE];
};
_Static_assert(sizeof(struct recording_page) == 4104, "the file's bytes");

/* Where a durable log's entries begin and end. There are two, each at the beginning of a page. */
struct recording_end {
	uint64_t sequence;
	uint64_t begin;
	uint64_t end;
	uint64_t check;
};
_Static_assert(sizeof(struct recording_end) == 32, "the file's bytes");
#define RECORDING_ENDS 2u

extern const char recording_magic[8];

/* Zeros behind the state. */
static inline size_t recording_padding(size_t state_size)
{
	return -state_size & 7;
}

static inline uint64_t recording_page_up(uint64_t offset)
{
	return (offset + RECORDING_PAGE - 1) & ~(uint64_t)(RECORDING_PAGE - 1);
}

/* The check word that belongs into `end`. */
uint64_t recording_end_check(uint64_t secret, const struct recording_end *end);

/* How many pages of memory are not all zero. */
uint64_t recording_count_pages(const struct recording_origin *origin);

/* Bytes in front of a plain recording's entries, or of a durable log's padding. */
uint64_t recording_front_size(const struct recording_origin *origin, uint64_t page_count);

/*
 * Writes header, state and pages by `put`, in order; what the vector points to is used up when it
 * returns, and the vector may be changed. `area` as in the header. The error is that of `put`.
 */
int recording_write_front(const struct recording_origin *origin, uint64_t page_count, uint64_t area,
	int (*put)(void *context, struct iovec *pieces, int count), void *context) MUST_CHECK;

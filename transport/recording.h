/*
 * A recording: a machine's first state and its log, in a file. `doppel run --record` writes it,
 * `doppel replay` and `dump` read it.
 *
 *   offset  bytes
 *        0      8   magic "DOPPELRC"
 *        8      4   version (RECORDING_VERSION)
 *       12      4   length of the state blob
 *       16      8   secret of the session
 *       24      8   LSN of the first entry
 *       32      8   guest memory in bytes, a multiple of 4,096
 *       40      8   number of pages that follow: those that are not all zero
 *       48      4   CRC32C of bytes 0..47, then the state blob, then each page's number and bytes
 *       52      4   reserved, zero
 *       56      n   state blob, padded with zeros to a multiple of 8
 *        …          pages: u64 page number, 4,096 bytes; numbers ascend
 *        …          entries (log_format.h) to the end of the file; the last of a whole one is END
 *
 * All numbers are little-endian. What the state blob means is the engine's business.
 */
#pragma once

#include "transport/log_reader.h"
#include "transport/log_writer.h"

#define RECORDING_VERSION 1u

/* Writing. One thread. The file is created anew; an existing one is refused with -EEXIST unless it
 * is not a regular file. */
struct recording;
int recording_create(struct recording **out, const char *path, uint64_t secret, uint64_t start,
	const void *state, size_t state_size, const uint8_t *memory,
	uint64_t memory_size) MUST_CHECK;
extern const struct log_sink recording_sink; /* context: the struct recording */
/* Bytes are handed to the kernel at each flush and made durable here. */
int recording_close(struct recording *recording) MUST_CHECK;

/* Reading. Everything in the file is hostile until checked; -EBADMSG: not a recording, cut short, or
 * damaged, and the message says which and where. */
struct recording_view {
	const uint8_t *map;
	size_t map_size;
	const void *state;
	size_t state_size;
	uint64_t memory_size;
	uint64_t page_count;
	const uint8_t *pages;
	struct log_reader entries;
};
int recording_open(struct recording_view *view, const char *path) MUST_CHECK;
/* Copies the pages into `memory`, memory_size bytes of zeros. */
void recording_load_memory(const struct recording_view *view, uint8_t *memory);
void recording_view_close(struct recording_view *view);

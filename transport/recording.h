/*
 * A recording: a machine's first state and its log, in a file. `doppel run --record` writes a plain
 * one, and `doppel standby --log` a durable log, which has a set size (durable.h). `doppel replay` and
 * `dump` read both.
 *
 *   offset  bytes
 *        0      8   magic "DOPPELRC"
 *        8      4   version (RECORDING_VERSION)
 *       12      4   length of the state blob
 *       16      8   secret of the session
 *       24      8   LSN of the first entry
 *       32      8   guest memory in bytes, a multiple of 4,096
 *       40      8   number of pages that follow: those that are not all zero
 *       48      8   area set aside for entries, a multiple of 4,096; 0: a plain recording
 *       56      8   generation of the VM when it began; 0: none
 *       64     72   the VM's name, at most RECORDING_VM_MAX characters, then zeros
 *      136      4   CRC32C of bytes 0..135, then the state blob, then each page's number and bytes
 *      140      4   reserved, zero
 *      144      n   state blob, padded with zeros to a multiple of 8
 *        …          pages: u64 page number, 4,096 bytes; numbers ascend
 *
 * and behind them in a plain recording
 *
 *        …          entries (log_format.h) to the end of the file; the last of a whole one is END
 *
 * and in a durable log, from the next multiple of 4,096 on
 *
 *        0     32   u64 sequence, u64 begin, u64 end, u64 check
 *    4,096     32   the same again
 *    8,192   area   entries: the byte at LSN x lies at (x - first LSN) mod area; the file ends here
 *
 * The entries from LSN begin to LSN end are there, whole. Of the two places that say so the one with the
 * right check word counts, and of two such the one with the higher sequence: they are written in turn,
 * so that one is right at any instant. A begin above the first LSN means that older entries were
 * dropped: such a log can be read, but the first state leads to it no more.
 *
 * All numbers are little-endian. What the state blob means is the engine's business.
 */
#pragma once

#include "transport/log_reader.h"
#include "transport/log_writer.h"

#define RECORDING_VERSION 5u
_Static_assert(LOG_FORMAT_VERSION == 6, "entries of another format make another RECORDING_VERSION");
#define RECORDING_VM_MAX 64u

/* What a recording begins with. Nothing of it is used after the call that takes it. */
struct recording_origin {
	const char *vm; /* NULL: no name */
	uint64_t generation;
	uint64_t secret;
	uint64_t start; /* LSN of the first entry */
	const void *state;
	size_t state_size;
	const uint8_t *memory;
	uint64_t memory_size;
};

/* Writing a plain one. One thread. The file is created anew; an existing one is refused with -EEXIST
 * unless it is not a regular file. */
struct recording;
int recording_create(
	struct recording **out, const char *path, const struct recording_origin *origin) MUST_CHECK;
extern const struct log_sink recording_sink; /* context: the struct recording */
/* Bytes are handed to the kernel at each flush and made durable here. */
int recording_close(struct recording *recording) MUST_CHECK;

/* Reading. Everything in the file is hostile until checked; -EBADMSG: not a recording, cut short, or
 * damaged, and the message says which and where. The file is mapped: if its storage fails or somebody
 * truncates it while it is read, SIGBUS ends the process. */
struct recording_view {
	const uint8_t *map;
	size_t map_size;
	const void *state;
	size_t state_size;
	uint64_t memory_size;
	uint64_t page_count;
	const uint8_t *pages;
	uint64_t generation;
	char vm[RECORDING_VM_MAX + 1];
	bool is_durable; /* its end is known, and is not necessarily an END entry */
	bool is_dropped; /* entries.next is not the first LSN: there is nothing to replay from */
	struct log_reader entries;
	uint8_t *lap; /* the area mapped twice in a row, when its entries wrap around */
};
int recording_open(struct recording_view *view, const char *path) MUST_CHECK;
/* Copies the pages into `memory`, memory_size bytes of zeros. */
void recording_load_memory(const struct recording_view *view, uint8_t *memory);
void recording_view_close(struct recording_view *view);

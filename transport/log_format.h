/*
 * The log's format, version 5. This file is its specification.
 *
 * The log is an endless sequence of bytes; an LSN is an offset in it. It consists of entries, each
 * directly behind the last. All numbers are little-endian; an entry starts at a multiple of 8.
 *
 *   offset  bytes
 *        0      8   stamp: the entry's LSN, as log_stamp(secret, lsn, STAMP_HEADER)
 *        8      8   position: sync exits of the guest before it (engine/position.h)
 *       16      4   length of the payload in bytes, at most LOG_PAYLOAD_MAX
 *       20      2   kind (enum log_kind)
 *       22      2   reserved, zero
 *       24      4   digest: low half of the primary's rolling digest (D5)
 *       28      4   CRC32C of bytes 0..27, then of the payload and its padding, seeded by the secret
 *       32      n   payload
 *     32+n    0-7   padding, zero, to a multiple of 8
 *        …      8   stamp: the LSN again, as log_stamp(secret, lsn, STAMP_TRAILER)
 *
 * An entry is VALID at LSN x (L2) if, in this order: its header stamp is that of x; its length and
 * kind are in bounds and the reserved bytes zero; its trailer stamp is that of x; its CRC is right;
 * and its payload has a length its kind allows. Both stamps and the CRC's seed depend on a 64-bit
 * secret of the session, so neither a byte of an older lap, nor of another session, nor one a client
 * sends inside a frame can be taken for an entry. The validity needs no order of placement: an entry
 * whose parts arrive in any order is not valid until all are there, except by a collision of the CRC.
 *
 * Positions never decrease; several entries may share one.
 *
 * Payloads:
 *   TICK        u32 timer (enum log_timer), u32 count, u64 guest time in ns
 *   CLOCK       u64 guest time in ns
 *   NET_RX      frames that are received one behind the other. Each has u32 bytes of its Ethernet frame, at least
 *               14, plus LOG_FRAME_HEADED where virtio's 12 bytes about it follow (virtio 1.1, 5.1.6), of which
 *               the last two are zero, as all are where they do not follow; then the frame
 *   DISK_DONE   reserved for disks; no length is allowed yet
 *   CONSOLE_RX  1 to 4,096 bytes
 *   OUTPUT      u32 device (enum log_device), u32 count of outputs, u64 digest of their bytes
 *   MARK        u64 reached: the primary has come to this position, and left all below it (D6)
 *   PAGE        u64 number of a page of guest memory, then its 4,096 bytes, or none if all are zero: part
 *               of a resync, without effect before its COMMIT
 *   COMMIT      u64 number of PAGE entries since the last COMMIT, u64 hash of their payloads (XXH3, each
 *               seeded by the one before), then the machine's state as in a recording: at this entry's
 *               position, which is one above the exit before it, the machine is what the state and the
 *               pages say
 *   RELEASED    u32 device, u32 zero, u64 LSN: that device's outputs whose OUTPUT entry ends at or below it have
 *               left (O3)
 *   END         u32 reason (enum log_end), u32 value
 *   RANDOM      1 to 256 random bytes that the guest asked for
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define LOG_FORMAT_VERSION 6u
#define LOG_HEADER_SIZE 32u
#define LOG_TRAILER_SIZE 8u
#define LOG_PAYLOAD_MAX (65536u + 64u)
#define LOG_FRAME_HEADED (1u << 31)
#define LOG_FRAME_HEADER 12u
#define LOG_FRAME_MAX (LOG_PAYLOAD_MAX - LOG_FRAME_HEADER - 4u) /* bytes of an Ethernet frame */

enum log_kind {
	LOG_TICK = 1,
	LOG_CLOCK,
	LOG_NET_RX,
	LOG_DISK_DONE,
	LOG_CONSOLE_RX,
	LOG_OUTPUT,
	LOG_MARK,
	LOG_PAGE,
	LOG_COMMIT,
	LOG_RELEASED,
	LOG_END,
	LOG_RANDOM,
	LOG_KINDS,
};

enum log_device { LOG_DEVICE_NET, LOG_DEVICE_CONSOLE };

/* Whose time has come: the PIT's channel 0, with a count of expirations, or the CMOS clock's interrupt. */
enum log_timer { LOG_TIMER_PIT, LOG_TIMER_CMOS };

enum log_end {
	LOG_END_POWER,    /* the guest switched its machine off; value: its exit code */
	LOG_END_SHUTDOWN, /* triple fault */
	LOG_END_HALT,     /* halted with interrupts off: nothing can wake it */
	LOG_END_STOPPED,  /* a person asked for it */
	LOG_END_RESTART,  /* the guest asked for a restart */
};

struct log_tick {
	uint32_t timer, count;
	uint64_t time_ns;
};
struct log_output {
	uint32_t device, count;
	uint64_t digest;
};
struct log_released {
	uint32_t device, zero;
	uint64_t lsn;
};
struct log_ending {
	uint32_t reason, value;
};
#define LOG_PAGE_SIZE 4096u
struct log_page {
	uint64_t number;
	uint8_t bytes[LOG_PAGE_SIZE];
};
struct log_commit {
	uint64_t pages, hash;
	uint8_t state[];
};

struct log_header {
	uint64_t stamp;
	uint64_t position;
	uint32_t length;
	uint16_t kind;
	uint16_t reserved;
	uint32_t digest;
	uint32_t crc;
};
_Static_assert(sizeof(struct log_header) == LOG_HEADER_SIZE, "the format's bytes");
_Static_assert(sizeof(struct log_tick) == 16 && sizeof(struct log_output) == 16 &&
		       sizeof(struct log_released) == 16,
	"the format's bytes");
_Static_assert(
	sizeof(struct log_page) == 4104 && sizeof(struct log_commit) == 16, "the format's bytes");

/* A valid entry, as a reader hands it on. `payload` points into the ring or the recording. */
struct log_entry {
	uint64_t lsn;
	uint64_t end; /* LSN of the byte behind it */
	uint64_t position;
	uint32_t length;
	uint32_t digest;
	enum log_kind kind;
	const uint8_t *payload;
};

enum log_stamp { STAMP_HEADER, STAMP_TRAILER };

/* A bijection of `lsn` under the secret; the two stamps of an entry have nothing in common. */
uint64_t log_stamp(uint64_t secret, uint64_t lsn, enum log_stamp which);

/* Bytes an entry with this payload takes, a multiple of 8. */
static inline uint64_t log_entry_size(uint32_t length)
{
	return LOG_HEADER_SIZE + (((uint64_t)length + 7) & ~(uint64_t)7) + LOG_TRAILER_SIZE;
}

/* Writes an entry to `out`, log_entry_size(length) bytes. */
void log_encode(uint8_t *out, uint64_t secret, uint64_t lsn, enum log_kind kind, uint64_t position,
	uint32_t digest, const void *payload, uint32_t length);

/* The same around the payload's place in `out`, which is left as it is: the payload lies elsewhere, in `count`
 * parts, and whoever sends the entry takes it from there. */
void log_encode_around(uint8_t *out, uint64_t secret, uint64_t lsn, enum log_kind kind,
	uint64_t position, uint32_t digest, const struct iovec *parts, unsigned count);

enum log_verdict {
	LOG_VALID,
	LOG_ABSENT, /* the header stamp is not there: nothing has been placed, or an older lap lies here */
	LOG_PARTIAL, /* the header is there, the rest is not (yet) right */
};

/*
 * Judges the bytes at `in`, of which `available` may be read, as the entry at `lsn`. The header is
 * copied once; no byte of it is read again. Never reads past `available`.
 */
enum log_verdict log_decode(const uint8_t *in, uint64_t available, uint64_t secret, uint64_t lsn,
	struct log_entry *out);

/* A frame of NET_RX: both point into the payload, but for a header that is not there. */
struct log_frame {
	const uint8_t *header, *bytes; /* LOG_FRAME_HEADER, `length` */
	uint32_t length;
};

/* What NET_RX says in front of a frame, and of its header, which are `length` bytes together. */
uint32_t log_frame_word(const void *header, uint32_t length);

/* The frame of a NET_RX at `*at` (0 at first), which moves behind it. False at the payload's end, or where no frame
 * can be: then `*at` is not the entry's length. */
bool log_frame_next(const struct log_entry *entry, uint32_t *at, struct log_frame *frame);

/* "TICK", "CLOCK", …; "?" for what is not a kind. */
const char *log_kind_name(enum log_kind kind);

/* Whether an entry of this kind may have a payload of this length. */
bool log_length_allowed(unsigned kind, uint32_t length);

#include "transport/log_format.h"

#include "base/check.h"
#include "transport/checksum.h"

#include <stdatomic.h>
#include <string.h>

/* What a session's secret is used for (mix64_keyed); the ack block has its own range. */
enum { PURPOSE_STAMP = 1, PURPOSE_CRC = 3 };

/* The checksum covers the header up to itself. */
#define CHECKED_HEADER offsetof(struct log_header, crc)
_Static_assert(offsetof(struct log_header, crc) == 28, "the format's bytes");
_Static_assert(LOG_PAYLOAD_MAX % 8 == 0, "the largest entry has no padding");

#define FRAME_LEAST 14u

static const uint8_t no_header[LOG_FRAME_HEADER];

static const struct kind {
	const char *name;
	uint32_t shortest, longest; /* payload bytes; none are allowed where longest < shortest */
} kinds[LOG_KINDS] = {
	[0] = {"?", 1, 0},
	[LOG_TICK] = {"TICK", sizeof(struct log_tick), sizeof(struct log_tick)},
	[LOG_CLOCK] = {"CLOCK", 8, 8},
	[LOG_NET_RX] = {"NET_RX", sizeof(uint32_t) + FRAME_LEAST, LOG_PAYLOAD_MAX},
	[LOG_DISK_DONE] = {"DISK_DONE", 1, 0},
	[LOG_CONSOLE_RX] = {"CONSOLE_RX", 1, 4096},
	[LOG_OUTPUT] = {"OUTPUT", sizeof(struct log_output), sizeof(struct log_output)},
	[LOG_MARK] = {"MARK", 8, 8},
	[LOG_PAGE] = {"PAGE", 8, sizeof(struct log_page)},
	[LOG_COMMIT] = {"COMMIT", sizeof(struct log_commit), LOG_PAYLOAD_MAX},
	[LOG_RELEASED] = {"RELEASED", sizeof(struct log_released), sizeof(struct log_released)},
	[LOG_END] = {"END", sizeof(struct log_ending), sizeof(struct log_ending)},
	[LOG_RANDOM] = {"RANDOM", 1, 256},
};

bool log_length_allowed(unsigned kind, uint32_t length)
{
	return kind < LOG_KINDS && length >= kinds[kind].shortest && length <= kinds[kind].longest;
}

static uint32_t padded(uint32_t length)
{
	return (length + 7) & ~7u;
}

uint64_t log_stamp(uint64_t secret, uint64_t lsn, enum log_stamp which)
{
	return mix64_keyed(secret, PURPOSE_STAMP + (uint64_t)which, lsn);
}

static uint32_t crc_seed(uint64_t secret)
{
	return (uint32_t)mix64_keyed(secret, PURPOSE_CRC, 0);
}

static void check_entry(uint64_t lsn, enum log_kind kind, uint32_t length)
{
	CHECK(L2, kind > 0 && log_length_allowed(kind, length),
		"an entry of kind %d with %u bytes would be refused by its reader", (int)kind,
		length);
	CHECK(L2, lsn % 8 == 0, "an entry at LSN %llu", (unsigned long long)lsn);
}

void log_encode(uint8_t *out, uint64_t secret, uint64_t lsn, enum log_kind kind, uint64_t position,
	uint32_t digest, const void *payload, uint32_t length)
{
	uint8_t *body = out + LOG_HEADER_SIZE;
	check_entry(lsn, kind, length);
	memcpy(body, payload, length);
	const struct iovec part = {.iov_base = body, .iov_len = length};
	log_encode_around(out, secret, lsn, kind, position, digest, &part, 1);
}

void log_encode_around(uint8_t *out, uint64_t secret, uint64_t lsn, enum log_kind kind,
	uint64_t position, uint32_t digest, const struct iovec *parts, unsigned count)
{
	uint32_t length = 0;
	for (unsigned i = 0; i < count; i++)
		length += (uint32_t)parts[i].iov_len;
	check_entry(lsn, kind, length);
	struct log_header header = {
		.stamp = log_stamp(secret, lsn, STAMP_HEADER),
		.position = position,
		.length = length,
		.kind = (uint16_t)kind,
		.digest = digest,
	};
	uint8_t *behind = out + LOG_HEADER_SIZE + length;
	uint32_t padding = padded(length) - length;
	memset(behind, 0, padding);
	header.crc = crc32c(crc_seed(secret), &header, CHECKED_HEADER);
	for (unsigned i = 0; i < count; i++)
		header.crc = crc32c(header.crc, parts[i].iov_base, parts[i].iov_len);
	header.crc = crc32c(header.crc, behind, padding);
	memcpy(out, &header, sizeof header);
	uint64_t trailer = log_stamp(secret, lsn, STAMP_TRAILER);
	memcpy(behind + padding, &trailer, sizeof trailer);
}

enum log_verdict log_decode(
	const uint8_t *in, uint64_t available, uint64_t secret, uint64_t lsn, struct log_entry *out)
{
	struct log_header header = {0};
	uint64_t trailer;
	memcpy(&header, in, available < sizeof header ? (size_t)available : sizeof header);
	/* The peer may be writing: without this fence the compiler could fetch a field again from
	 * `in` after it has been checked. Processors keep the order of their own loads well enough,
	 * because nothing here rests on it: what is not yet whole has a wrong checksum. */
	atomic_signal_fence(memory_order_seq_cst);
	if (available < sizeof header.stamp || header.stamp != log_stamp(secret, lsn, STAMP_HEADER))
		return LOG_ABSENT;
	if (available < sizeof header || header.length > LOG_PAYLOAD_MAX || header.kind == 0 ||
		header.kind >= LOG_KINDS || header.reserved != 0)
		return LOG_PARTIAL;
	if (log_entry_size(header.length) > available)
		return LOG_PARTIAL;
	const uint8_t *body = in + LOG_HEADER_SIZE;
	memcpy(&trailer, body + padded(header.length), sizeof trailer);
	if (trailer != log_stamp(secret, lsn, STAMP_TRAILER))
		return LOG_PARTIAL;
	uint32_t crc = crc32c(crc_seed(secret), &header, CHECKED_HEADER);
	if (crc32c(crc, body, padded(header.length)) != header.crc)
		return LOG_PARTIAL;
	if (!log_length_allowed(header.kind, header.length))
		return LOG_PARTIAL;
	*out = (struct log_entry){
		.lsn = lsn,
		.end = lsn + log_entry_size(header.length),
		.position = header.position,
		.length = header.length,
		.digest = header.digest,
		.kind = (enum log_kind)header.kind,
		.payload = body,
	};
	return LOG_VALID;
}

uint32_t log_frame_word(const void *header, uint32_t length)
{
	bool is_headed = memcmp(header, no_header, sizeof no_header) != 0;
	return (length - LOG_FRAME_HEADER) | (is_headed ? LOG_FRAME_HEADED : 0);
}

bool log_frame_next(const struct log_entry *entry, uint32_t *at, struct log_frame *frame)
{
	const uint8_t *next = entry->payload + *at;
	uint32_t word, left = entry->length - *at;
	if (left < sizeof word)
		return false;
	memcpy(&word, next, sizeof word);
	next += sizeof word;
	left -= (uint32_t)sizeof word;
	uint32_t header = word & LOG_FRAME_HEADED ? LOG_FRAME_HEADER : 0, length = word & ~LOG_FRAME_HEADED;
	if (length < FRAME_LEAST || left < header || length > left - header)
		return false;
	*frame = (struct log_frame){.header = header ? next : no_header, .bytes = next + header, .length = length};
	*at += (uint32_t)sizeof word + header + length;
	return true;
}

const char *log_kind_name(enum log_kind kind)
{
	return (unsigned)kind < LOG_KINDS ? kinds[kind].name : "?";
}

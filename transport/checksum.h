/*
 * The two functions that bytes are checked with, for the files of transport/ alone: CRC32C, and a
 * mixing bijection of 64-bit words that makes stamps and check words look unlike anything else.
 */
#pragma once

#include <isa-l/crc.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian");

/* CRC32C without its customary inversions: those who want them invert `crc` and the result. */
static inline uint32_t crc32c(uint32_t crc, const void *bytes, size_t length)
{
	unsigned char *at = (unsigned char *)bytes;
	while (length > 0) {
		int part = length > 1u << 30 ? 1 << 30 : (int)length;
		crc = crc32_iscsi(at, part, crc);
		at += part;
		length -= (size_t)part;
	}
	return crc;
}

/* Each bit of `word` changes about half the bits of the result (the SplitMix64 finalizer). */
static inline uint64_t mix64(uint64_t word)
{
	word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
	word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
	return word ^ (word >> 31);
}

/* A bijection of `word` for each key; `purpose` keeps the keys of one secret's uses apart. */
static inline uint64_t mix64_keyed(uint64_t secret, uint64_t purpose, uint64_t word)
{
	uint64_t before = mix64(secret + purpose * 0x9e3779b97f4a7c15u);
	uint64_t after = mix64(before + secret);
	return mix64(word ^ before) ^ after;
}

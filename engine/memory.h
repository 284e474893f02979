/*
 * Guest memory. A guest address is a type of its own, which the host cannot dereference by mistake;
 * the accessors here turn a checked range into a pointer. Memory starts at guest address 0.
 *
 * Only the vCPU thread uses the accessors, and writes only while it applies an input at a position or
 * serves an exit (D1).
 */
#pragma once

#include "base/fail.h"

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
	uint64_t at;
} gpa;

static inline gpa gpa_of(uint64_t address)
{
	return (gpa){address};
}

struct guest_memory {
	uint8_t *base;
	uint64_t size; /* bytes, a multiple of 4,096 */
	int fd;        /* the memfd behind it */
	uint8_t *seen; /* a bit for each page that memory_is_touched has found to be */
};

#define GUEST_MEMORY_MIN (1u << 20)
#define GUEST_MEMORY_MAX (3ull << 30) /* devices begin above */

int memory_create(struct guest_memory *memory, uint64_t size) MUST_CHECK;
void memory_destroy(struct guest_memory *memory);

/* The next bytes, whole pages from `at` or behind, that anybody ever touched: [*from, *end). False: there are
 * none. All others are zero, and to look at one would make it a page. */
bool memory_touched(
	const struct guest_memory *memory, uint64_t at, uint64_t *from, uint64_t *end) MUST_CHECK;

/* Whether the page at `at` is such a one. vCPU thread; a system call until it is. */
bool memory_is_touched(const struct guest_memory *memory, uint64_t at) MUST_CHECK;

/* NULL when any byte of the range lies outside the guest's memory. */
static inline const void *memory_read_ptr(
	const struct guest_memory *memory, gpa address, uint64_t length)
{
	if (address.at > memory->size || length > memory->size - address.at)
		return NULL;
	return memory->base + address.at;
}

static inline void *memory_write_ptr(struct guest_memory *memory, gpa address, uint64_t length)
{
	if (address.at > memory->size || length > memory->size - address.at)
		return NULL;
	return memory->base + address.at;
}

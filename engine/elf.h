/* Loads the segments of an ELF64 kernel, and takes RDTSC out of its code (engine/rdtsc.h). */
#pragma once

#include "engine/memory.h"

/* A kernel's file, mapped. */
struct kernel_file {
	const char *path;
	const uint8_t *bytes;
	uint64_t size;
};

/* By their physical addresses, all at `lowest` or above. `entry` is where it starts, `end` the first byte
 * behind them. -ENOEXEC: not an ELF64 for x86-64; -E2BIG: it does not fit into the memory. */
int elf_load(struct guest_memory *memory, const struct kernel_file *file, uint64_t lowest,
	uint64_t *entry, uint64_t *end) MUST_CHECK;

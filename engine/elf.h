/* Loads an ELF64 kernel into guest memory, and what its CPU needs to start in 64-bit mode. */
#pragma once

#include "engine/memory.h"

/*
 * The state in which a loaded kernel starts: long mode, interrupts off, the first 4 GiB mapped one to
 * one by 2 MiB pages (tables at 0x1000 to 0x6fff), a flat GDT at 0x7000 (code 0x10, data 0x18), RDI
 * the size of memory in bytes, RSI the command line, a string at 0x8000 of at most BOOT_COMMAND_MAX
 * bytes. RSP is not defined.
 */
#define BOOT_PAGE_TABLES 0x1000u
#define BOOT_GDT 0x7000u
#define BOOT_CODE_SELECTOR 0x10u
#define BOOT_DATA_SELECTOR 0x18u
#define BOOT_COMMAND 0x8000u
#define BOOT_COMMAND_MAX 2048u
#define BOOT_END 0x9000u /* a kernel's segments lie above */

/* Loads `path` by its program headers' physical addresses and writes the tables above. `entry` is
 * where it starts. -ENOEXEC: not an ELF64 for x86-64; -E2BIG: it does not fit into the memory. */
int elf_load(struct guest_memory *memory, const char *path, const char *command_line,
	uint64_t *entry) MUST_CHECK;

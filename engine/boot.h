/*
 * Puts a kernel into guest memory, and what it needs to start, by the 64-bit boot protocol of Linux
 * (Documentation/arch/x86/boot.rst): a distribution's bzImage as it is, or an ELF64 such as vmlinux.
 * RDTSC is taken out of its code (engine/rdtsc.h).
 *
 * It starts in long mode, interrupts off, the first 4 GiB mapped one to one by 2 MiB pages, with a flat
 * GDT, RSI pointing at struct boot_params. There it finds its command line, its initrd, a memory map and
 * a seed for its random numbers, which are taken from the host: part of the guest's first state.
 * Beyond the protocol RDI is the size of memory in bytes. RSP is not defined.
 */
#pragma once

#include "engine/memory.h"

#define BOOT_PAGE_TABLES 0x1000u /* to 0x6fff */
#define BOOT_GDT 0x7000u
#define BOOT_CODE_SELECTOR 0x10u
#define BOOT_DATA_SELECTOR 0x18u
#define BOOT_PARAMS 0x8000u
#define BOOT_SEED 0x9000u
#define BOOT_COMMAND 0xa000u
#define BOOT_COMMAND_MAX 2048u /* bytes of a command line, with its end */
#define BOOT_ACPI 0xe0000u     /* where firmware has its tables */
#define BOOT_END 0x10000u      /* an ELF kernel's segments lie above */

/* What Linux is told before what a person adds, who may say it again otherwise: its console, the devices
 * it cannot find by itself, and what it must not use or look for (D4). Not notsc: its CPU has none, and
 * a scheduler that is told of an unstable clock reads another one at each tick. */
#define BOOT_COMMAND_DEFAULT                                                                       \
	"console=ttyS0 pci=off noapic nolapic no_timer_check lpj=1000000 io_delay=none "           \
	"randomize_kstack_offset=off "                                                             \
	"transparent_hugepage=never"

/* `initrd` may be NULL; `append` follows the default command line. `entry` is where the kernel starts.
 * -ENOEXEC: not such a file, or damaged; -E2BIG: it does not fit into the memory, or the command line is
 * too long. */
int boot_load(struct guest_memory *memory, const char *kernel, const char *initrd,
	const char *append, uint64_t *entry) MUST_CHECK;

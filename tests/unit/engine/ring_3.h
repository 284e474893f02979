/* What a guest's kernel of a few instructions needs to have a program in ring 3. */
#pragma once

#include "engine/boot.h"

#include <stdint.h>
#include <string.h>

static inline void write64(uint8_t *memory, uint64_t address, uint64_t value)
{
	memcpy(memory + address, &value, sizeof value);
}

/*
 * The first 2 MiB for everybody, code 0x23 and data 0x2b of ring 3 beside those of ring 0, and a task, 0x30, that
 * has this stack for faults and interrupts and may use all ports. The kernel loads its GDT from `pointer`, and
 * the task.
 */
static inline void make_ring_3(uint8_t *memory, uint32_t pointer, uint32_t task, uint64_t stack)
{
	write64(memory, BOOT_PAGE_TABLES, (BOOT_PAGE_TABLES + 0x1000) | 7);
	write64(memory, BOOT_PAGE_TABLES + 0x1000, (BOOT_PAGE_TABLES + 0x2000) | 7);
	write64(memory, BOOT_PAGE_TABLES + 0x2000, 0x87);
	write64(memory, BOOT_GDT + BOOT_CODE_SELECTOR, 0x00af9b000000ffff);
	write64(memory, BOOT_GDT + BOOT_DATA_SELECTOR, 0x00cf93000000ffff);
	write64(memory, BOOT_GDT + 0x20, 0x00affb000000ffff);
	write64(memory, BOOT_GDT + 0x28, 0x00cff3000000ffff);
	write64(memory, BOOT_GDT + 0x30, 0xfffull | (uint64_t)task << 16 | 0x89ull << 40);
	write64(memory, BOOT_GDT + 0x38, 0);
	write64(memory, pointer, 0x3full | (uint64_t)BOOT_GDT << 16);
	write64(memory, task + 4, stack);
	write64(memory, task + 0x60, 0x68ull << 48); /* a software KVM loses IOPL, and asks this */
}

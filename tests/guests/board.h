/*
 * Doppel's board as a guest sees it, and the instructions that reach it. The values restate the
 * board map of engine/device.h: that a guest is built without the engine's headers shows that the
 * map is a contract.
 */
#pragma once

#include <stdint.h>

#define PORT_PIC 0x20 /* +1: data; the second chip at 0xa0 */
#define PORT_PIC2 0xa0
#define PORT_PIT 0x40
#define PORT_ELCR 0x4d0 /* a bit for each line: set is level-triggered */
#define PORT_UART 0x3f8
#define PORT_POWER 0x604
#define MMIO_NET 0xd0000000ul
#define MMIO_CLOCK 0xd0001000ul

#define LINE_PIT 0
#define LINE_UART 4
#define LINE_NET 5

#define PIT_HZ 1193182u

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t value;
	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* A device register is reached by exactly one access of exactly its size, so by exactly this move.
 */
static inline void mmio_write8(uint64_t address, uint8_t value)
{
	__asm__ volatile("movb %0, (%1)" : : "q"(value), "r"(address) : "memory");
}

static inline void mmio_write16(uint64_t address, uint16_t value)
{
	__asm__ volatile("movw %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline void mmio_write32(uint64_t address, uint32_t value)
{
	__asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline void mmio_write64(uint64_t address, uint64_t value)
{
	__asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

static inline uint8_t mmio_read8(uint64_t address)
{
	uint8_t value;
	__asm__ volatile("movb (%1), %0" : "=q"(value) : "r"(address) : "memory");
	return value;
}

static inline uint16_t mmio_read16(uint64_t address)
{
	uint16_t value;
	__asm__ volatile("movw (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline uint32_t mmio_read32(uint64_t address)
{
	uint32_t value;
	__asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

static inline uint64_t mmio_read64(uint64_t address)
{
	uint64_t value;
	__asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(address) : "memory");
	return value;
}

/* Nanoseconds of the guest's clock, which never goes back. */
static inline uint64_t clock_ns(void)
{
	return mmio_read64(MMIO_CLOCK);
}

static inline void interrupts_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

/* Sleeps until an interrupt. Called with interrupts off: STI takes effect after the HLT has begun,
 * so none falls between the caller's last look and the sleep. */
static inline void wait_for_interrupt(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

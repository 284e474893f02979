/*
 * What a device model sees of the world: its arguments and these four calls, nothing else (D3).
 *
 * A device is a plain struct without pointers into the host: its bytes are its state, and saving the
 * machine saves them as they are. So a device struct holds only fixed-width integers and arrays, has
 * no padding that is not zeroed at reset, and everything a *loaded* state could make it do is bounded
 * where it is used. All calls come from the vCPU thread.
 */
#pragma once

#include "engine/memory.h"

#include <stddef.h>
#include <stdint.h>

enum output_device { OUTPUT_NET, OUTPUT_CONSOLE };

struct device_env {
	struct guest_memory *memory;
	/* The guest's time in ns: an input, logged (CLOCK) each time it is asked for. Never goes back. */
	uint64_t (*clock)(struct device_env *env);
	/* Random bytes, 1 to RANDOM_MAX: an input, logged (RANDOM). */
	void (*random)(struct device_env *env, void *bytes, size_t length);
	/* Sends something to the outside: copied at once (O4), held until the log covers it. Never fails;
	 * it may make the vCPU wait. A frame is at most OUTPUT_MAX bytes. */
	void (*output)(struct device_env *env, enum output_device device, const void *bytes,
		size_t length);
	/* Sets the level of an interrupt line of the PIC, 0 to 15. */
	void (*irq)(struct device_env *env, unsigned line, bool level);
};

#define OUTPUT_MAX (65536u + 64u)
#define RANDOM_MAX 256u

/* The board: where everything is. Test guests include this part of the contract by value.
 *
 *   I/O ports   0x20-21, 0xa0-a1  PIC (two 8259A), 0x4d0-4d1 edge/level control
 *               0x40-43           PIT (8254), 0x61: channel 2's gate (bits 0-1) and output (bit 5)
 *               0x64              a byte 0xfe asks for a restart, as of a keyboard controller; reads 0xfd
 *               0x70-71           CMOS clock and memory (MC146818)
 *               0xe0              read as 4 bytes: a counter in EDX:EAX (engine/rdtsc.h)
 *               0x3f8-3ff         UART (16550A)
 *               0x604             power: a 16- or 32-bit write ends the machine with that value
 *               0x620-625         ACPI event block (4 bytes) and control block (2 bytes)
 *               0x628             ACPI timer, read as 4 bytes
 *               0xcf9             a byte with bit 2 asks for a restart (the FADT's reset register)
 *               any other         reads all ones, ignores writes
 *   MMIO        MMIO_NET          virtio-net over virtio-mmio, 512 bytes, as the two below
 *               MMIO_CONSOLE      virtio-console
 *               MMIO_RNG          virtio-rng
 *               MMIO_CLOCK        64-bit nanoseconds since the machine was made; reads of 8 or 4
 *                                 aligned bytes
 *               any other         reads all ones, ignores writes
 *   Lines       0 PIT, 4 UART, 5 virtio-net, 8 CMOS, 9 ACPI's SCI, which never rises, 10 virtio-console,
 *               11 virtio-rng; those of virtio are level-triggered
 *
 * A restart ends the machine in order: whoever runs it decides whether it is to begin again. A triple fault
 * does not, since it is also how a guest dies.
 */
#define PORT_KEYBOARD 0x64u
#define PORT_POWER 0x604u
#define PORT_ACPI_EVENT 0x620u
#define PORT_ACPI_CONTROL 0x624u
#define PORT_ACPI_TIMER 0x628u
#define PORT_RESET 0xcf9u
#define MMIO_NET 0xd0000000ull
#define MMIO_CONSOLE 0xd0000200ull
#define MMIO_RNG 0xd0000400ull
#define MMIO_VIRTIO_SIZE 0x200u
#define MMIO_CLOCK 0xd0001000ull
#define IRQ_PIT 0u
#define IRQ_UART 4u
#define IRQ_NET 5u
#define IRQ_CMOS 8u
#define IRQ_ACPI 9u
#define IRQ_CONSOLE 10u
#define IRQ_RNG 11u

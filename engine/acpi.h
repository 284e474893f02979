/*
 * ACPI, as little of it as lets a guest switch off and restart the way it does on a real board, and count
 * time by one port access.
 *
 * The tables: RSDP, XSDT, FADT, FACS and a DSDT that has \_S5 and the virtio devices. There is no MADT, since
 * there is no APIC: a guest stays with the PIC. There is no power button and no general-purpose event, the
 * machine is always in ACPI mode, and what the FADT says of the rest of the board: no VGA, no keyboard
 * controller, no MSI; a CMOS clock; devices at their customary ISA addresses.
 *
 * The ports (engine/device.h): event block, control block and timer of the FADT. No event ever happens, so line 9, the
 * FADT's SCI, never rises. Sleep type 5 with SLP_EN in the control register switches the machine off. The
 * timer has 32 bits and counts the guest's time at 3.579545 MHz; one read asks the clock once.
 */
#pragma once

#include "engine/device.h"

/* Bytes that the tables take; the FACS is theirs and the guest's. */
#define ACPI_TABLES_SIZE 0x400u

/* Writes the tables to `at`, a multiple of 64, where the guest must find no RAM but something reserved
 * (E820 type 2 or 4). The RSDP is at `at` itself: boot_params.acpi_rsdp_addr. -EINVAL: outside memory. */
int acpi_build(struct guest_memory *memory, gpa at) MUST_CHECK;

struct acpi {
	uint16_t enable, control; /* PM1 registers, as the guest wrote them */
	uint32_t switched_off;    /* sleep type 5 was entered */
};
_Static_assert(sizeof(struct acpi) == 8, "saved as it is");

void acpi_reset(struct acpi *acpi);
/* Bytes of the event and the control block; reg: 0 to 5. */
uint8_t acpi_read(const struct acpi *acpi, unsigned reg);
void acpi_write(struct acpi *acpi, unsigned reg, uint8_t value);
uint32_t acpi_timer(struct device_env *env);

/*
 * Two cascaded 8259A interrupt controllers, with the edge/level control registers at 0x4d0.
 *
 * What a PC's board adds is here too: the second chip hangs on line 2 of the first, lines 0, 1, 2,
 * 8 and 13 are always edge-triggered, ICW1's level bit is ignored in favour of the control
 * registers, and the lines of virtio devices are always level-triggered: Linux with ACPI clears the control
 * registers and sets them again for what the tables name.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pic_chip {
	uint8_t irr, isr, imr, lines; /* lines: levels as last set, for edges */
	uint8_t vector_base;          /* ICW2 */
	uint8_t elcr;                 /* 1: level-triggered */
	uint8_t init_step;            /* 0: initialised, else the ICW awaited */
	uint8_t icw4_needed, auto_eoi, special_fully_nested, single;
	uint8_t read_isr, special_mask, poll, rotate_on_auto_eoi, lowest_priority;
};
_Static_assert(sizeof(struct pic_chip) == 16, "saved as it is");

struct pic {
	struct pic_chip chip[2];
};

void pic_reset(struct pic *pic);
/* A falling line takes its request back, as on the real chip, also when it is edge-triggered. */
void pic_set_line(struct pic *pic, unsigned line, bool level);
/* Whether the CPU's INTR pin is up. */
bool pic_pending(const struct pic *pic);
/* The INTA cycle: takes the highest request, returns its vector (spurious: its chip's seventh). */
uint8_t pic_acknowledge(struct pic *pic);
uint8_t pic_read(struct pic *pic, uint16_t port); /* 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 */
void pic_write(struct pic *pic, uint16_t port, uint8_t value);

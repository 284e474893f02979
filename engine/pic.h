/* Two cascaded 8259A interrupt controllers, with the edge/level control registers at 0x4d0. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct pic_chip {
	uint8_t irr, isr, imr, lines; /* lines: levels as last set, for edges */
	uint8_t vector_base;          /* ICW2 */
	uint8_t elcr;                 /* 1: level-triggered */
	uint8_t init_step;            /* 0: initialised, else the ICW awaited */
	uint8_t icw4_needed, auto_eoi, read_isr, special_mask, poll, rotate_on_auto_eoi, lowest_priority;
	uint8_t special_fully_nested, single;
};
struct pic {
	struct pic_chip chip[2];
};

void pic_reset(struct pic *pic);
void pic_set_line(struct pic *pic, unsigned line, bool level);
/* Whether the CPU's INTR pin is up. */
bool pic_pending(const struct pic *pic);
/* The INTA cycle: takes the highest request and returns its vector (spurious: 7 or 15 of its chip). */
uint8_t pic_acknowledge(struct pic *pic);
uint8_t pic_read(struct pic *pic, uint16_t port); /* 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 */
void pic_write(struct pic *pic, uint16_t port, uint8_t value);

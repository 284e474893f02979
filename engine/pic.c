#include "engine/pic.h"

#include "engine/device.h"

#include <string.h>

#define CASCADE 2u
#define SPURIOUS 7u
#define NO_REQUEST 8u

enum init_step { INITIALISED, AWAIT_ICW1, AWAIT_ICW2, AWAIT_ICW3, AWAIT_ICW4 };

enum { ICW1 = 0x10, ICW1_SINGLE = 0x02, ICW1_ICW4 = 0x01 };
enum { ICW4_SPECIAL_FULLY_NESTED = 0x10, ICW4_AUTO_EOI = 0x02 };
enum {
	OCW3 = 0x08,
	OCW3_CHANGE_SPECIAL_MASK = 0x40,
	OCW3_SPECIAL_MASK = 0x20,
	OCW3_POLL = 0x04,
	OCW3_CHANGE_READ = 0x02,
	OCW3_READ_ISR = 0x01,
};
/* OCW2's upper three bits. */
enum {
	ROTATE_ON_AUTO_EOI_OFF = 0,
	EOI = 1,
	EOI_SPECIFIC = 3,
	ROTATE_ON_AUTO_EOI_ON = 4,
	EOI_ROTATE = 5,
	SET_PRIORITY = 6,
	EOI_SPECIFIC_ROTATE = 7,
};

static const uint8_t may_be_level[2] = {0xf8, 0xde};
/* Those of devices that hold their line until they are answered. */
static const uint8_t always_level[2] = {
	1u << IRQ_NET, 1u << (IRQ_CONSOLE - 8) | 1u << (IRQ_RNG - 8)};

static uint8_t bit_of(unsigned line)
{
	return (uint8_t)(1u << (line & 7u));
}

/* The line of highest priority among `lines`, as a rank: 0 is the highest, NO_REQUEST is none. */
static unsigned highest_rank(const struct pic_chip *chip, uint8_t lines)
{
	for (unsigned rank = 0; rank < 8; rank++)
		if (lines & bit_of(chip->lowest_priority + 1u + rank))
			return rank;
	return NO_REQUEST;
}

static unsigned line_of_rank(const struct pic_chip *chip, unsigned rank)
{
	return (chip->lowest_priority + 1u + rank) & 7u;
}

/* The line that chip `which` asks an interrupt for, or NO_REQUEST. */
static unsigned requested(const struct pic *pic, unsigned which)
{
	const struct pic_chip *chip = &pic->chip[which];
	if (chip->init_step != INITIALISED)
		return NO_REQUEST;
	uint8_t in_service = chip->isr;
	if (chip->special_mask)
		in_service &= (uint8_t)~chip->imr;
	if (which == 0 && chip->special_fully_nested)
		in_service &= (uint8_t)~bit_of(CASCADE);
	unsigned rank = highest_rank(chip, (uint8_t)(chip->irr & ~chip->imr));
	return rank < highest_rank(chip, in_service) ? line_of_rank(chip, rank) : NO_REQUEST;
}

static void set_line(struct pic_chip *chip, unsigned line, bool level)
{
	uint8_t bit = bit_of(line);
	if (!level) {
		chip->irr &= (uint8_t)~bit;
		chip->lines &= (uint8_t)~bit;
		return;
	}
	if ((chip->elcr & bit) || !(chip->lines & bit))
		chip->irr |= bit;
	chip->lines |= bit;
}

static void update_cascade(struct pic *pic)
{
	set_line(&pic->chip[0], CASCADE, requested(pic, 1) != NO_REQUEST);
}

/* Moves the highest request of a chip into service; NO_REQUEST when there is none. */
static unsigned take_request(struct pic *pic, unsigned which)
{
	struct pic_chip *chip = &pic->chip[which];
	unsigned line = requested(pic, which);
	if (line == NO_REQUEST)
		return NO_REQUEST;
	uint8_t bit = bit_of(line);
	if (!(chip->elcr & bit))
		chip->irr &= (uint8_t)~bit;
	if (!chip->auto_eoi)
		chip->isr |= bit;
	else if (chip->rotate_on_auto_eoi)
		chip->lowest_priority = (uint8_t)line;
	if (which == 1) {
		/* The chip's INT pin falls with each acknowledge, so that a second request of it is
		 * an edge for the first chip. */
		set_line(&pic->chip[0], CASCADE, false);
		update_cascade(pic);
	}
	return line;
}

void pic_reset(struct pic *pic)
{
	memset(pic, 0, sizeof *pic);
	for (unsigned which = 0; which < 2; which++) {
		pic->chip[which].init_step = AWAIT_ICW1;
		pic->chip[which].lowest_priority = 7;
		pic->chip[which].elcr = always_level[which];
	}
}

void pic_set_line(struct pic *pic, unsigned line, bool level)
{
	if (line == CASCADE || line > 15)
		return;
	set_line(&pic->chip[line >> 3], line & 7u, level);
	update_cascade(pic);
}

bool pic_pending(const struct pic *pic)
{
	return requested(pic, 0) != NO_REQUEST;
}

uint8_t pic_acknowledge(struct pic *pic)
{
	unsigned line = take_request(pic, 0);
	if (line == NO_REQUEST)
		return (uint8_t)(pic->chip[0].vector_base + SPURIOUS);
	if (line != CASCADE || pic->chip[0].single)
		return (uint8_t)(pic->chip[0].vector_base + line);
	line = take_request(pic, 1);
	return (uint8_t)(pic->chip[1].vector_base + (line == NO_REQUEST ? SPURIOUS : line));
}

static void start_initialisation(struct pic_chip *chip, uint8_t icw1)
{
	uint8_t lines = chip->lines, elcr = chip->elcr;
	memset(chip, 0, sizeof *chip);
	chip->lines = lines;
	chip->elcr = elcr;
	chip->irr = lines & elcr; /* an edge seen before is forgotten, a level is still there */
	chip->lowest_priority = 7;
	chip->single = !!(icw1 & ICW1_SINGLE);
	chip->icw4_needed = !!(icw1 & ICW1_ICW4);
	chip->init_step = AWAIT_ICW2;
}

static void write_icw(struct pic_chip *chip, uint8_t value)
{
	switch (chip->init_step) {
	case AWAIT_ICW2:
		chip->vector_base = value & 0xf8;
		chip->init_step = chip->single ? AWAIT_ICW4 : AWAIT_ICW3;
		break;
	case AWAIT_ICW3: /* the wiring is fixed: what it says changes nothing */
		chip->init_step = AWAIT_ICW4;
		break;
	default:
		chip->special_fully_nested = !!(value & ICW4_SPECIAL_FULLY_NESTED);
		chip->auto_eoi = !!(value & ICW4_AUTO_EOI);
		chip->init_step = INITIALISED;
	}
	if (chip->init_step == AWAIT_ICW4 && !chip->icw4_needed)
		chip->init_step = INITIALISED;
}

static void end_of_interrupt(struct pic_chip *chip, unsigned line, bool rotate)
{
	chip->isr &= (uint8_t)~bit_of(line);
	if (rotate)
		chip->lowest_priority = line & 7u;
}

static void write_ocw2(struct pic_chip *chip, uint8_t value)
{
	unsigned command = value >> 5, line = value & 7u, rank;
	switch (command) {
	case ROTATE_ON_AUTO_EOI_OFF:
	case ROTATE_ON_AUTO_EOI_ON:
		chip->rotate_on_auto_eoi = command == ROTATE_ON_AUTO_EOI_ON;
		break;
	case EOI:
	case EOI_ROTATE:
		/* In special mask mode a masked line stays in service until it is named. */
		rank = highest_rank(
			chip, chip->special_mask ? (uint8_t)(chip->isr & ~chip->imr) : chip->isr);
		if (rank != NO_REQUEST)
			end_of_interrupt(chip, line_of_rank(chip, rank), command == EOI_ROTATE);
		break;
	case EOI_SPECIFIC:
	case EOI_SPECIFIC_ROTATE:
		end_of_interrupt(chip, line, command == EOI_SPECIFIC_ROTATE);
		break;
	case SET_PRIORITY:
		chip->lowest_priority = (uint8_t)line;
		break;
	default: /* no operation */
		break;
	}
}

static void write_ocw3(struct pic_chip *chip, uint8_t value)
{
	if (value & OCW3_CHANGE_SPECIAL_MASK)
		chip->special_mask = !!(value & OCW3_SPECIAL_MASK);
	if (value & OCW3_POLL)
		chip->poll = 1;
	else if (value & OCW3_CHANGE_READ)
		chip->read_isr = !!(value & OCW3_READ_ISR);
}

static void write_elcr(struct pic_chip *chip, uint8_t value)
{
	uint8_t changed = chip->elcr ^ value;
	chip->elcr = value;
	chip->irr = (uint8_t)((chip->irr & ~changed) | (chip->lines & value));
}

uint8_t pic_read(struct pic *pic, uint16_t port)
{
	if (port == 0x4d0 || port == 0x4d1)
		return pic->chip[port & 1].elcr;
	unsigned which = port >= 0xa0;
	struct pic_chip *chip = &pic->chip[which];
	if (chip->poll) {
		chip->poll = 0;
		unsigned line = take_request(pic, which);
		return line == NO_REQUEST ? 0 : (uint8_t)(0x80 | line);
	}
	if (port & 1)
		return chip->imr;
	return chip->read_isr ? chip->isr : chip->irr;
}

void pic_write(struct pic *pic, uint16_t port, uint8_t value)
{
	unsigned which = port >= 0xa0;
	struct pic_chip *chip = &pic->chip[which];
	if (port == 0x4d0 || port == 0x4d1)
		write_elcr(&pic->chip[port & 1],
			(value & may_be_level[port & 1]) | always_level[port & 1]);
	else if ((port & 1) && chip->init_step > AWAIT_ICW1)
		write_icw(chip, value);
	else if (port & 1)
		chip->imr = value;
	else if (value & ICW1)
		start_initialisation(chip, value);
	else if (value & OCW3)
		write_ocw3(chip, value);
	else
		write_ocw2(chip, value);
	update_cascade(pic);
}

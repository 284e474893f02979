#include "engine/board.h"

#include <string.h>

/* The status of a keyboard controller that is not there: its input buffer is free for the one command
 * that it takes, and its output buffer never runs empty, by which drivers know. */
#define NO_KEYBOARD 0xfd
#define KEYBOARD_RESET 0xfe
#define RESET_NOW 0x04

void board_reset(struct board *board, const uint8_t mac[6])
{
	memset(board, 0, sizeof *board);
	pic_reset(&board->pic);
	pit_reset(&board->pit);
	uart_reset(&board->uart);
	virtio_net_reset(&board->net, mac);
	cmos_reset(&board->cmos);
	acpi_reset(&board->acpi);
	virtio_console_reset(&board->console);
	virtio_rng_reset(&board->rng);
}

/* The byte-wide devices; false where there is none. */
static bool read_byte(struct board *board, struct device_env *env, uint16_t port, uint8_t *value)
{
	switch (port) {
	case 0x20:
	case 0x21:
	case 0xa0:
	case 0xa1:
	case 0x4d0:
	case 0x4d1:
		*value = pic_read(&board->pic, port);
		return true;
	case 0x40 ... 0x43:
	case 0x61:
		*value = pit_read(&board->pit, env, port);
		return true;
	case PORT_KEYBOARD:
		*value = NO_KEYBOARD;
		return true;
	case 0x70:
	case 0x71:
		*value = cmos_read(&board->cmos, env, port);
		return true;
	case 0x3f8 ... 0x3ff:
		*value = uart_read(&board->uart, env, port - 0x3f8u);
		return true;
	case PORT_ACPI_EVENT ... PORT_ACPI_CONTROL + 1:
		*value = acpi_read(&board->acpi, port - PORT_ACPI_EVENT);
		return true;
	default:
		return false;
	}
}

static void write_byte(struct board *board, struct device_env *env, uint16_t port, uint8_t value)
{
	switch (port) {
	case 0x20:
	case 0x21:
	case 0xa0:
	case 0xa1:
	case 0x4d0:
	case 0x4d1:
		pic_write(&board->pic, port, value);
		break;
	case 0x40 ... 0x43:
	case 0x61:
		pit_write(&board->pit, env, port, value);
		break;
	case 0x70:
	case 0x71:
		cmos_write(&board->cmos, env, port, value);
		break;
	case 0x3f8 ... 0x3ff:
		uart_write(&board->uart, env, port - 0x3f8u, value);
		break;
	case PORT_ACPI_EVENT ... PORT_ACPI_CONTROL + 1:
		acpi_write(&board->acpi, port - PORT_ACPI_EVENT, value);
		board->power_off |= board->acpi.switched_off;
		break;
	default:
		break;
	}
}

/* A wide access to byte-wide devices is so many accesses to the ports that follow each other. */
uint32_t board_port_read(struct board *board, struct device_env *env, uint16_t port, unsigned size)
{
	uint32_t value = 0;
	if (port == PORT_ACPI_TIMER && size == 4)
		return acpi_timer(env);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = 0xff;
		read_byte(board, env, (uint16_t)(port + i), &byte);
		value |= (uint32_t)byte << (8 * i);
	}
	return value;
}

void board_port_write(
	struct board *board, struct device_env *env, uint16_t port, unsigned size, uint32_t value)
{
	if (port == PORT_POWER && size >= 2) {
		board->power_off = 1;
		board->power_value = size == 2 ? value & 0xffffu : value;
		return;
	}
	/* By itself only: a PC has a wide register across PORT_RESET, which some look for. */
	if (size == 1 && ((port == PORT_RESET && (value & RESET_NOW)) ||
				 (port == PORT_KEYBOARD && value == KEYBOARD_RESET))) {
		board->restart = 1;
		return;
	}
	for (unsigned i = 0; i < size; i++)
		write_byte(board, env, (uint16_t)(port + i), (uint8_t)(value >> (8 * i)));
}

const struct board_virtio board_virtio[BOARD_VIRTIO] = {
	{.address = MMIO_NET, .size = MMIO_VIRTIO_SIZE, .line = IRQ_NET},
	{.address = MMIO_CONSOLE, .size = MMIO_VIRTIO_SIZE, .line = IRQ_CONSOLE},
	{.address = MMIO_RNG, .size = MMIO_VIRTIO_SIZE, .line = IRQ_RNG},
};

/* The virtio device that the whole access falls into, NULL when there is none. */
static struct virtio_mmio *virtio_at(struct board *board, uint64_t address, unsigned size,
	const struct virtio_kind **kind, uint32_t *offset)
{
	struct virtio_mmio *const devices[BOARD_VIRTIO] = {
		&board->net.mmio, &board->console.mmio, &board->rng.mmio};
	static const struct virtio_kind *const kinds[BOARD_VIRTIO] = {
		&virtio_net_kind, &virtio_console_kind, &virtio_rng_kind};
	for (unsigned i = 0; i < BOARD_VIRTIO; i++) {
		const struct board_virtio *place = &board_virtio[i];
		if (address < place->address || size > place->size ||
			address - place->address > place->size - size)
			continue;
		*kind = kinds[i];
		*offset = (uint32_t)(address - place->address);
		return devices[i];
	}
	return NULL;
}

void board_mmio_read(struct board *board, struct device_env *env, uint64_t address, unsigned size,
	uint8_t bytes[8])
{
	const struct virtio_kind *kind;
	uint32_t offset;
	uint64_t value = UINT64_MAX;
	const struct virtio_mmio *virtio = virtio_at(board, address, size, &kind, &offset);
	if (virtio)
		value = virtio_mmio_read(virtio, kind, offset, size);
	else if (address == MMIO_CLOCK && (size == 8 || size == 4))
		value = env->clock(env);
	else if (address == MMIO_CLOCK + 4 && size == 4)
		value = env->clock(env) >> 32;
	memcpy(bytes, &value, sizeof value);
}

void board_mmio_write(struct board *board, struct device_env *env, uint64_t address, unsigned size,
	const uint8_t bytes[8])
{
	const struct virtio_kind *kind;
	uint32_t offset;
	uint64_t value = 0;
	memcpy(&value, bytes, size <= 8 ? size : 8);
	struct virtio_mmio *virtio = virtio_at(board, address, size, &kind, &offset);
	if (virtio)
		virtio_mmio_write(virtio, kind, env, offset, size, value);
}

size_t board_keys_room(struct board *board, struct device_env *env, size_t most)
{
	if (virtio_console_in_use(&board->console))
		return virtio_console_room(&board->console, env, most);
	size_t room = uart_room(&board->uart);
	return room < most ? room : most;
}

void board_keys(struct board *board, struct device_env *env, const uint8_t *bytes, size_t count)
{
	if (virtio_console_in_use(&board->console))
		virtio_console_receive(&board->console, env, bytes, count);
	else
		uart_receive(&board->uart, env, bytes, count);
}

uint8_t board_acknowledge(struct board *board, struct device_env *env)
{
	bool timer = (board->pic.chip[0].irr & ~board->pic.chip[0].imr & 1u) != 0;
	uint8_t vector = pic_acknowledge(&board->pic);
	if (timer && vector == board->pic.chip[0].vector_base)
		pit_acknowledged(&board->pit, env);
	return vector;
}

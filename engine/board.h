/* The board: every device and which address or line it is at (the map is in engine/device.h). */
#pragma once

#include "engine/acpi.h"
#include "engine/cmos.h"
#include "engine/device.h"
#include "engine/pic.h"
#include "engine/pit.h"
#include "engine/uart.h"
#include "engine/virtio_console.h"
#include "engine/virtio_net.h"
#include "engine/virtio_rng.h"

struct board {
	struct pic pic;
	struct pit pit;
	struct uart uart;
	struct virtio_net net;
	struct cmos cmos;
	struct acpi acpi;
	struct virtio_console console;
	struct virtio_rng rng;
	uint32_t power_off,
		power_value; /* the guest has switched the machine off, with this value */
	uint32_t restart;    /* it has asked for a restart */
	uint32_t pad;
};

/* Where the virtio devices are: acpi.c tells the guest. */
#define BOARD_VIRTIO 3u
struct board_virtio {
	uint64_t address;
	uint32_t size, line;
};
extern const struct board_virtio board_virtio[BOARD_VIRTIO];

void board_reset(struct board *board, const uint8_t mac[6]);

/* Port accesses of 1, 2 or 4 bytes; MMIO accesses of 1 to 8 bytes, in the guest's byte order. */
uint32_t board_port_read(struct board *board, struct device_env *env, uint16_t port, unsigned size);
void board_port_write(
	struct board *board, struct device_env *env, uint16_t port, unsigned size, uint32_t value);
void board_mmio_read(struct board *board, struct device_env *env, uint64_t address, unsigned size,
	uint8_t bytes[8]);
void board_mmio_write(struct board *board, struct device_env *env, uint64_t address, unsigned size,
	const uint8_t bytes[8]);

/* What a person types: how many bytes, up to `most`, would be taken now, and taking them. The virtio
 * console has them if it is in use at this moment, else the UART; more than was taken is lost. */
size_t board_keys_room(struct board *board, struct device_env *env, size_t most);
void board_keys(struct board *board, struct device_env *env, const uint8_t *bytes, size_t count);

/* The CPU takes the pending interrupt: returns its vector. */
uint8_t board_acknowledge(struct board *board, struct device_env *env);

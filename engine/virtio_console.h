/*
 * virtio-console over virtio-mmio: one port without a size. Queue 0 receives, queue 1 sends; what the
 * guest sends is an output of the console, as the UART's is, and what it receives is CONSOLE_RX.
 */
#pragma once

#include "engine/virtio_mmio.h"

struct virtio_console {
	struct virtio_mmio mmio;
	/* Since the machine was made. Dropped: received without room, or sent in a chain of more than
	 * OUTPUT_MAX. */
	uint64_t rx_bytes, rx_dropped, tx_bytes, tx_dropped;
	uint8_t spoken; /* the driver has sent something since it set the device up */
	uint8_t pad[7];
};
_Static_assert(sizeof(struct virtio_console) == 160, "saved as it is");

extern const struct virtio_kind virtio_console_kind;

void virtio_console_reset(struct virtio_console *console);

/*
 * Whether what a person types is for this console: its driver works and has sent something. One that
 * never has is only there, since a stock guest loads the driver of every device it finds; its reader
 * sits at the UART then.
 */
bool virtio_console_in_use(struct virtio_console *console);
/* Bytes, up to `most`, that virtio_console_receive would take now. Changes nothing. */
size_t virtio_console_room(struct virtio_console *console, struct device_env *env, size_t most);
/* Bytes beyond the room are lost, the same everywhere. */
void virtio_console_receive(
	struct virtio_console *console, struct device_env *env, const uint8_t *bytes, size_t count);

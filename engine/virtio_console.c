#include "engine/virtio_console.h"

#include <string.h>

enum { QUEUE_RX, QUEUE_TX };

static uint64_t send_chain(
	struct virtio_mmio *mmio, struct device_env *env, const struct virtqueue_chains *chain)
{
	struct virtio_console *console = (struct virtio_console *)mmio;
	uint8_t bytes[OUTPUT_MAX];
	uint64_t length = chain->bytes < sizeof bytes ? chain->bytes : sizeof bytes;
	console->tx_dropped += chain->bytes - length;
	if (!length)
		return 0;
	virtqueue_copy_out(chain, 0, bytes, length);
	env->output(env, OUTPUT_CONSOLE, bytes, length);
	console->tx_bytes += length;
	console->spoken = 1;
	return 0;
}

static void forget(struct virtio_mmio *mmio)
{
	((struct virtio_console *)mmio)->spoken = 0;
}

const struct virtio_kind virtio_console_kind = {.id = 3,
	.line = IRQ_CONSOLE,
	.queues = 2,
	.served = QUEUE_TX,
	.serve = send_chain,
	.reset = forget};

bool virtio_console_in_use(struct virtio_console *console)
{
	return console->spoken && virtio_mmio_queue(&console->mmio, QUEUE_RX);
}

size_t virtio_console_room(struct virtio_console *console, struct device_env *env, size_t most)
{
	struct virtqueue_chains chains;
	const struct virtqueue *queue = virtio_mmio_queue(&console->mmio, QUEUE_RX);
	if (!queue)
		return 0;
	/* A broken ring takes all: receiving makes the device ask for a reset. */
	if (virtqueue_look(queue, env->memory, true, VIRTQUEUE_MAX, most, &chains))
		return most;
	return chains.bytes < most ? chains.bytes : most;
}

static int deliver(struct virtio_console *console, struct device_env *env, struct virtqueue *queue,
	const uint8_t *bytes, size_t count)
{
	struct virtqueue_chains chains;
	int error = virtqueue_look(queue, env->memory, true, VIRTQUEUE_MAX, count, &chains);
	if (error)
		return error;
	size_t taken = chains.bytes < count ? chains.bytes : count;
	uint16_t used = queue->used;
	virtqueue_copy_in(&chains, 0, bytes, taken);
	virtqueue_return(queue, env->memory, &chains, taken);
	console->rx_bytes += taken;
	console->rx_dropped += count - taken;
	virtio_mmio_finish(&console->mmio, &virtio_console_kind, env, queue, used);
	return 0;
}

void virtio_console_receive(
	struct virtio_console *console, struct device_env *env, const uint8_t *bytes, size_t count)
{
	struct virtqueue *queue = virtio_mmio_queue(&console->mmio, QUEUE_RX);
	if (!queue)
		console->rx_dropped += count;
	else if (deliver(console, env, queue, bytes, count))
		virtio_mmio_ask_for_reset(&console->mmio, &virtio_console_kind, env);
}

void virtio_console_reset(struct virtio_console *console)
{
	memset(console, 0, sizeof *console);
	virtio_mmio_reset(&console->mmio, NULL, 0);
}

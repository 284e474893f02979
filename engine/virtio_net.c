#include "engine/virtio_net.h"

#include <string.h>

/* Features and header: virtio 1.1, 5.1. */
#define FEATURE_MAC (1ull << 5)
#define FEATURE_MERGEABLE (1ull << 15)
#define FEATURE_STATUS (1ull << 16)

enum { QUEUE_RX, QUEUE_TX };

struct net_header {
	uint8_t flags, gso_type;
	uint16_t header_length, gso_size, checksum_start, checksum_offset;
	uint16_t buffers; /* how many chains a received frame fills */
};
_Static_assert(sizeof(struct net_header) == 12, "shared with the guest");

#define FRAME_MIN 14u /* an Ethernet header */
#define LINK_UP 1u

static void send_chain(
	struct virtio_net *net, struct device_env *env, const struct virtqueue_chains *chain)
{
	const uint64_t header = sizeof(struct net_header);
	if (chain->bytes < header + FRAME_MIN || chain->bytes > header + OUTPUT_MAX) {
		net->tx_dropped++;
		return;
	}
	uint64_t length = chain->bytes - header;
	uint8_t frame[OUTPUT_MAX];
	virtqueue_copy_out(chain, header, frame, length);
	env->output(env, OUTPUT_NET, frame, length);
	net->tx_frames++;
}

static int transmit_all(struct virtio_net *net, struct device_env *env, struct virtqueue *queue)
{
	struct virtqueue_chains chain;
	uint16_t used = queue->used;
	/* The guest stands still, so there are at most `size` chains and no more come meanwhile;
	 * one that makes the device's own writes look like new chains gets no more either. */
	for (uint32_t sent = 0; sent < VIRTQUEUE_MAX; sent++) {
		int error = virtqueue_look(queue, env->memory, false, 1, UINT64_MAX, &chain);
		if (error)
			return error;
		if (!chain.count)
			break;
		send_chain(net, env, &chain);
		virtqueue_return(queue, env->memory, &chain, 0);
	}
	virtio_mmio_finish(&net->mmio, &virtio_net_kind, env, queue, used);
	return 0;
}

static int notify(struct virtio_mmio *mmio, struct device_env *env, uint32_t index)
{
	/* New receive buffers need nothing here: whoever holds frames back asks at each exit. */
	return index == QUEUE_TX ? transmit_all((struct virtio_net *)mmio, env, &mmio->queue[index])
				 : 0;
}

const struct virtio_kind virtio_net_kind = {
	.id = 1,
	.line = IRQ_NET,
	.queues = 2,
	.features = FEATURE_MAC | FEATURE_MERGEABLE | FEATURE_STATUS,
	.notify = notify,
};

/* The buffers that a frame would fill: count 0 when it has to wait. */
static int look_for_room(struct virtio_net *net, struct device_env *env,
	const struct virtqueue *queue, size_t length, struct virtqueue_chains *chains)
{
	uint32_t most = net->mmio.features & FEATURE_MERGEABLE ? VIRTQUEUE_MAX : 1;
	return virtqueue_look(
		queue, env->memory, true, most, sizeof(struct net_header) + length, chains);
}

bool virtio_net_can_receive(struct virtio_net *net, struct device_env *env, size_t length)
{
	struct virtqueue_chains chains;
	const struct virtqueue *queue = virtio_mmio_queue(&net->mmio, QUEUE_RX);
	if (!queue)
		return false;
	/* A broken ring takes the frame too: receiving it makes the device ask for a reset. */
	return look_for_room(net, env, queue, length, &chains) || chains.count;
}

static int deliver(struct virtio_net *net, struct device_env *env, struct virtqueue *queue,
	const void *frame, size_t length)
{
	struct virtqueue_chains chains;
	int error = look_for_room(net, env, queue, length, &chains);
	if (error)
		return error;
	struct net_header header = {.buffers = (uint16_t)chains.count};
	if (chains.bytes < sizeof header + length) {
		net->rx_dropped++;
		return 0;
	}
	virtqueue_copy_in(&chains, 0, &header, sizeof header);
	virtqueue_copy_in(&chains, sizeof header, frame, length);
	uint16_t used = queue->used;
	virtqueue_return(queue, env->memory, &chains, sizeof header + length);
	net->rx_frames++;
	virtio_mmio_finish(&net->mmio, &virtio_net_kind, env, queue, used);
	return 0;
}

void virtio_net_receive(
	struct virtio_net *net, struct device_env *env, const void *frame, size_t length)
{
	struct virtqueue *queue = virtio_mmio_queue(&net->mmio, QUEUE_RX);
	if (!queue)
		net->rx_dropped++;
	else if (deliver(net, env, queue, frame, length))
		virtio_mmio_ask_for_reset(&net->mmio, &virtio_net_kind, env);
}

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6])
{
	uint8_t config[VIRTIO_CONFIG] = {[6] = LINK_UP};
	memset(net, 0, sizeof *net);
	memcpy(config, mac, 6);
	virtio_mmio_reset(&net->mmio, config, sizeof config);
}

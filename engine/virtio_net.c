#include "engine/virtio_net.h"

#include <string.h>

/* Features and header: virtio 1.1, 5.1. */
#define FEATURE_CSUM (1ull << 0)
#define FEATURE_GUEST_CSUM (1ull << 1)
#define FEATURE_MAC (1ull << 5)
#define FEATURE_GUEST_TSO4 (1ull << 7)
#define FEATURE_GUEST_TSO6 (1ull << 8)
#define FEATURE_HOST_TSO4 (1ull << 11)
#define FEATURE_HOST_TSO6 (1ull << 12)
#define FEATURE_HOST_ECN (1ull << 13)
#define FEATURE_MERGEABLE (1ull << 15)
#define FEATURE_STATUS (1ull << 16)
#define MERGED (FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6)

enum { QUEUE_RX, QUEUE_TX };

/* The header in the guest's buffers is a frame's own, but for its last field: how many chains a received
 * frame fills. */
_Static_assert(offsetof(struct frame_header, unused) == 10, "shared with the guest");

#define LINK_UP 1u

/* What the driver may ask for of what it asks for. */
static void bound_header(const struct virtio_net *net, struct frame_header *header)
{
	uint64_t features = net->mmio.features;
	uint8_t type = header->gso_type & (uint8_t)~FRAME_ECN;
	bool segments = (type == FRAME_TCP4 && (features & FEATURE_HOST_TSO4)) ||
			(type == FRAME_TCP6 && (features & FEATURE_HOST_TSO6));
	header->unused = 0;
	if (!(features & FEATURE_CSUM))
		*header = (struct frame_header){0};
	header->flags &= FRAME_NEEDS_CHECKSUM;
	if (!(features & FEATURE_HOST_ECN))
		header->gso_type = type;
	if (!segments)
		header->gso_type = FRAME_WHOLE;
	if (header->gso_type == FRAME_WHOLE)
		header->gso_size = header->header_length = 0;
}

static uint64_t send_chain(
	struct virtio_mmio *mmio, struct device_env *env, const struct virtqueue_chains *chain)
{
	struct virtio_net *net = (struct virtio_net *)mmio;
	uint8_t frame[OUTPUT_MAX];
	struct frame_header header;
	if (chain->bytes < FRAME_HEADER + ETHER_HEADER || chain->bytes > sizeof frame) {
		net->tx_dropped++;
		return 0;
	}
	virtqueue_copy_out(chain, 0, frame, chain->bytes);
	memcpy(&header, frame, sizeof header);
	bound_header(net, &header);
	memcpy(frame, &header, sizeof header);
	env->output(env, OUTPUT_NET, frame, chain->bytes);
	net->tx_frames++;
	return 0;
}

const struct virtio_kind virtio_net_kind = {
	.id = 1,
	.line = IRQ_NET,
	.queues = 2,
	.features = FEATURE_MAC | FEATURE_MERGEABLE | FEATURE_STATUS | FEATURE_CSUM |
		    FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6 | FEATURE_HOST_ECN | MERGED,
	.served = QUEUE_TX,
	.serve = send_chain,
};

bool virtio_net_takes_merged(const struct virtio_net *net)
{
	return virtio_mmio_is_live(&net->mmio) && (net->mmio.features & MERGED) == MERGED;
}

/* The buffers that a frame would fill: count 0 when it has to wait. */
static int look_for_room(struct virtio_net *net, struct device_env *env,
	const struct virtqueue *queue, size_t length, struct virtqueue_chains *chains)
{
	uint32_t most = net->mmio.features & FEATURE_MERGEABLE ? VIRTQUEUE_MAX : 1;
	return virtqueue_look(queue, env->memory, true, most, length, chains);
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

bool virtio_net_fits(struct virtio_net *net, struct device_env *env, size_t length)
{
	struct virtqueue_chains chains;
	const struct virtqueue *queue = virtio_mmio_queue(&net->mmio, QUEUE_RX);
	if (!queue)
		return false;
	return look_for_room(net, env, queue, length, &chains) || chains.bytes >= length ||
	       (chains.count && !(net->mmio.features & FEATURE_MERGEABLE));
}

/* How many of the frames these buffers hold, one behind the other. */
static unsigned fill(const struct virtqueue_chains *chains, bool mergeable, const uint32_t *lengths,
	unsigned count)
{
	unsigned fitting = 0;
	for (uint32_t next = 0; fitting < count; fitting++) {
		uint64_t room = 0;
		do {
			if (next == chains->count)
				return fitting;
			room += chains->chain[next++].bytes;
		} while (mergeable && room < lengths[fitting]);
		if (room < lengths[fitting])
			return fitting;
	}
	return fitting;
}

unsigned virtio_net_fitting(
	struct virtio_net *net, struct device_env *env, const uint32_t *lengths, unsigned count)
{
	struct virtqueue_chains chains;
	const struct virtqueue *queue = virtio_mmio_queue(&net->mmio, QUEUE_RX);
	bool mergeable = net->mmio.features & FEATURE_MERGEABLE;
	if (!queue)
		return 0;
	/* A buffer for each is what most need; only who finds it too little looks at all that are offered. */
	for (uint32_t most = count;; most = VIRTQUEUE_MAX) {
		if (virtqueue_look(queue, env->memory, true, most, UINT64_MAX, &chains))
			return 0;
		unsigned fitting = fill(&chains, mergeable, lengths, count);
		if (fitting == count || !mergeable || chains.count < most || most == VIRTQUEUE_MAX)
			return fitting;
	}
}

static int deliver(struct virtio_net *net, struct device_env *env, struct virtqueue *queue,
	struct frame_header header, const void *bytes, size_t length)
{
	struct virtqueue_chains chains;
	size_t whole = sizeof header + length;
	int error = look_for_room(net, env, queue, whole, &chains);
	if (error)
		return error;
	if (chains.bytes < whole ||
		((header.flags || header.gso_type) && !virtio_net_takes_merged(net))) {
		net->rx_dropped++;
		return 0;
	}
	header.unused = (uint16_t)chains.count; /* which the guest's own header has there */
	virtqueue_copy_in(&chains, 0, &header, sizeof header);
	virtqueue_copy_in(&chains, sizeof header, bytes, length);
	uint16_t used = queue->used;
	virtqueue_return(queue, env->memory, &chains, whole);
	net->rx_frames++;
	virtio_mmio_finish(&net->mmio, &virtio_net_kind, env, queue, used);
	return 0;
}

void virtio_net_receive(struct virtio_net *net, struct device_env *env, const void *header,
	const void *bytes, size_t length)
{
	struct virtqueue *queue = virtio_mmio_queue(&net->mmio, QUEUE_RX);
	struct frame_header own;
	memcpy(&own, header, sizeof own);
	if (!queue)
		net->rx_dropped++;
	else if (deliver(net, env, queue, own, bytes, length))
		virtio_mmio_ask_for_reset(&net->mmio, &virtio_net_kind, env);
}

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6])
{
	uint8_t config[VIRTIO_CONFIG] = {[6] = LINK_UP};
	memset(net, 0, sizeof *net);
	memcpy(config, mac, 6);
	virtio_mmio_reset(&net->mmio, config, sizeof config);
}

#include "engine/virtio_net.h"

#include <errno.h>
#include <string.h>

/* Registers: virtio 1.1, 4.2.2; features and header: 5.1. */
enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SELECT = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SELECT = 0x024,
	REG_QUEUE_SELECT = 0x030,
	REG_QUEUE_SIZE_MAX = 0x034,
	REG_QUEUE_SIZE = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC = 0x080, /* these three: low, then high */
	REG_QUEUE_DRIVER = 0x090,
	REG_QUEUE_DEVICE = 0x0a0,
	REG_SHARED_MEMORY = 0x0b0, /* four registers: all ones, there is none */
	REG_CONFIG = 0x100,
};
#define MAGIC 0x74726976u  /* "virt" */
#define VENDOR 0x4c504f44u /* "DOPL" */

enum {
	STATUS_ACKNOWLEDGE = 1,
	STATUS_DRIVER = 2,
	STATUS_DRIVER_OK = 4,
	STATUS_FEATURES_OK = 8,
	STATUS_NEEDS_RESET = 64,
	STATUS_FAILED = 128,
};
enum { INTERRUPT_QUEUE = 1, INTERRUPT_CONFIG = 2 };

#define FEATURE_MAC (1ull << 5)
#define FEATURE_MERGEABLE (1ull << 15)
#define FEATURE_STATUS (1ull << 16)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)
#define FEATURES_OFFERED                                                                           \
	(FEATURE_MAC | FEATURE_MERGEABLE | FEATURE_STATUS | FEATURE_EVENT_IDX | FEATURE_VERSION_1)

enum { QUEUE_RX, QUEUE_TX, QUEUES };

struct net_header {
	uint8_t flags, gso_type;
	uint16_t header_length, gso_size, checksum_start, checksum_offset;
	uint16_t buffers; /* how many chains a received frame fills */
};
_Static_assert(sizeof(struct net_header) == 12, "shared with the guest");

#define FRAME_MIN 14u /* an Ethernet header */
#define LINK_UP 1u

static bool is_live(const struct virtio_net *net)
{
	return (net->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

static struct virtqueue *live_queue(struct virtio_net *net, unsigned index)
{
	return is_live(net) && net->queue[index].ready ? &net->queue[index] : NULL;
}

static void update_line(struct virtio_net *net, struct device_env *env)
{
	env->irq(env, IRQ_NET, net->interrupt_status != 0);
}

static void interrupt(struct virtio_net *net, struct device_env *env, uint32_t reason)
{
	net->interrupt_status |= reason;
	update_line(net, env);
}

/* The guest broke the rules: nothing more is done for it until it resets the device. */
static void ask_for_reset(struct virtio_net *net, struct device_env *env)
{
	if (net->status & STATUS_NEEDS_RESET)
		return;
	net->status |= STATUS_NEEDS_RESET;
	if (net->status & STATUS_DRIVER_OK)
		interrupt(net, env, INTERRUPT_CONFIG);
}

/* After chains were returned, `used` being the index before: notifications and interrupt. */
static void finish(
	struct virtio_net *net, struct device_env *env, struct virtqueue *queue, uint16_t used)
{
	virtqueue_ask_notify(queue, env->memory);
	if (virtqueue_wants_interrupt(queue, env->memory, used))
		interrupt(net, env, INTERRUPT_QUEUE);
}

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
	finish(net, env, queue, used);
	return 0;
}

static void notify(struct virtio_net *net, struct device_env *env, uint64_t index)
{
	/* New receive buffers need nothing here: whoever holds frames back asks at each exit. */
	struct virtqueue *queue = index == QUEUE_TX ? live_queue(net, QUEUE_TX) : NULL;
	if (queue && transmit_all(net, env, queue))
		ask_for_reset(net, env);
}

/* The buffers that a frame would fill: count 0 when it has to wait. */
static int look_for_room(struct virtio_net *net, struct device_env *env,
	const struct virtqueue *queue, size_t length, struct virtqueue_chains *chains)
{
	uint32_t most = net->features & FEATURE_MERGEABLE ? VIRTQUEUE_MAX : 1;
	return virtqueue_look(
		queue, env->memory, true, most, sizeof(struct net_header) + length, chains);
}

bool virtio_net_can_receive(struct virtio_net *net, struct device_env *env, size_t length)
{
	struct virtqueue_chains chains;
	const struct virtqueue *queue = live_queue(net, QUEUE_RX);
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
	finish(net, env, queue, used);
	return 0;
}

void virtio_net_receive(
	struct virtio_net *net, struct device_env *env, const void *frame, size_t length)
{
	struct virtqueue *queue = live_queue(net, QUEUE_RX);
	if (!queue)
		net->rx_dropped++;
	else if (deliver(net, env, queue, frame, length))
		ask_for_reset(net, env);
}

void virtio_net_reset(struct virtio_net *net, const uint8_t mac[6])
{
	memset(net, 0, sizeof *net);
	memcpy(net->mac, mac, sizeof net->mac);
}

/* The driver's reset: what the device has counted stays. */
static void driver_reset(struct virtio_net *net, struct device_env *env)
{
	struct virtio_net before = *net;
	virtio_net_reset(net, before.mac);
	net->rx_frames = before.rx_frames;
	net->rx_dropped = before.rx_dropped;
	net->tx_frames = before.tx_frames;
	net->tx_dropped = before.tx_dropped;
	update_line(net, env);
}

static void write_status(struct virtio_net *net, struct device_env *env, uint32_t value)
{
	if (!value) {
		driver_reset(net, env);
		return;
	}
	/* Bits are only ever added; the two that depend on something are added when it holds. */
	net->status |= value & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
	if ((value & STATUS_FEATURES_OK) && (net->features & FEATURE_VERSION_1) &&
		!(net->features & ~FEATURES_OFFERED))
		net->status |= STATUS_FEATURES_OK;
	if ((value & STATUS_DRIVER_OK) && (net->status & STATUS_FEATURES_OK))
		net->status |= STATUS_DRIVER_OK;
}

static void set_half(uint64_t *whole, bool high, uint32_t value)
{
	*whole = high ? (*whole & UINT32_MAX) | (uint64_t)value << 32
		      : (*whole & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue(
	struct virtio_net *net, struct device_env *env, uint32_t offset, uint32_t value)
{
	if (net->queue_select >= QUEUES)
		return;
	struct virtqueue *queue = &net->queue[net->queue_select];
	bool high = offset & 4u;
	if (offset == REG_QUEUE_READY) {
		if (!(value & 1u)) {
			queue->ready = 0;
		} else if (!queue->ready) {
			queue->event_idx = !!(net->features & FEATURE_EVENT_IDX);
			if (virtqueue_start(queue, env->memory))
				ask_for_reset(net, env);
		}
		return;
	}
	if (queue->ready) { /* rings moved while in use */
		ask_for_reset(net, env);
		return;
	}
	switch (offset & ~4u) {
	case REG_QUEUE_SIZE:
		queue->size = value <= VIRTQUEUE_MAX ? (uint16_t)value : 0;
		break;
	case REG_QUEUE_DESC:
		set_half(&queue->desc, high, value);
		break;
	case REG_QUEUE_DRIVER:
		set_half(&queue->driver, high, value);
		break;
	default:
		set_half(&queue->device, high, value);
	}
}

static uint32_t read_register(const struct virtio_net *net, uint32_t offset)
{
	const struct virtqueue *queue =
		net->queue_select < QUEUES ? &net->queue[net->queue_select] : NULL;
	switch (offset) {
	case REG_MAGIC:
		return MAGIC;
	case REG_VERSION:
		return 2;
	case REG_DEVICE_ID:
		return 1;
	case REG_VENDOR_ID:
		return VENDOR;
	case REG_DEVICE_FEATURES:
		return net->features_select < 2
			       ? (uint32_t)(FEATURES_OFFERED >> 32 * net->features_select)
			       : 0;
	case REG_QUEUE_SIZE_MAX:
		return queue ? VIRTQUEUE_MAX : 0;
	case REG_QUEUE_READY:
		return queue ? queue->ready : 0;
	case REG_INTERRUPT_STATUS:
		return net->interrupt_status;
	case REG_STATUS:
		return net->status;
	case REG_SHARED_MEMORY:
	case REG_SHARED_MEMORY + 4:
	case REG_SHARED_MEMORY + 8:
	case REG_SHARED_MEMORY + 12:
		return UINT32_MAX;
	default: /* the configuration's generation too: it never changes */
		return 0;
	}
}

static void write_register(
	struct virtio_net *net, struct device_env *env, uint32_t offset, uint32_t value)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SELECT:
		net->features_select = value;
		break;
	case REG_DRIVER_FEATURES:
		if (net->driver_features_select < 2 && !(net->status & STATUS_FEATURES_OK))
			set_half(&net->features, net->driver_features_select, value);
		break;
	case REG_DRIVER_FEATURES_SELECT:
		net->driver_features_select = value;
		break;
	case REG_QUEUE_SELECT:
		net->queue_select = value;
		break;
	case REG_QUEUE_SIZE:
	case REG_QUEUE_READY:
	case REG_QUEUE_DESC:
	case REG_QUEUE_DESC + 4:
	case REG_QUEUE_DRIVER:
	case REG_QUEUE_DRIVER + 4:
	case REG_QUEUE_DEVICE:
	case REG_QUEUE_DEVICE + 4:
		write_queue(net, env, offset, value);
		break;
	case REG_QUEUE_NOTIFY:
		notify(net, env, value);
		break;
	case REG_INTERRUPT_ACK:
		net->interrupt_status &= ~value;
		update_line(net, env);
		break;
	case REG_STATUS:
		write_status(net, env, value);
		break;
	default:
		break;
	}
}

static uint64_t read_config(const struct virtio_net *net, uint32_t offset, unsigned size)
{
	uint8_t config[8] = {[6] = LINK_UP};
	uint64_t value = 0;
	memcpy(config, net->mac, sizeof net->mac);
	for (unsigned i = 0; i < size && i < 8 && offset + i < sizeof config; i++)
		value |= (uint64_t)config[offset + i] << 8 * i;
	return value;
}

uint64_t virtio_net_read(
	struct virtio_net *net, struct device_env *env, uint32_t offset, unsigned size)
{
	(void)env;
	if (offset >= MMIO_NET_SIZE)
		return 0;
	if (offset >= REG_CONFIG)
		return read_config(net, offset - REG_CONFIG, size);
	return size == 4 ? read_register(net, offset) : 0;
}

void virtio_net_write(struct virtio_net *net, struct device_env *env, uint32_t offset,
	unsigned size, uint64_t value)
{
	if (offset < REG_CONFIG && size == 4)
		write_register(net, env, offset, (uint32_t)value);
}

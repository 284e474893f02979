#include "engine/virtio_mmio.h"

#include <string.h>

/* Registers: virtio 1.1, 4.2.2. */
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

static uint64_t offered(const struct virtio_kind *kind)
{
	return kind->features | VIRTIO_EVENT_IDX | VIRTIO_VERSION_1;
}

bool virtio_mmio_is_live(const struct virtio_mmio *mmio)
{
	return (mmio->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

struct virtqueue *virtio_mmio_queue(struct virtio_mmio *mmio, uint32_t index)
{
	return virtio_mmio_is_live(mmio) && mmio->queue[index].ready ? &mmio->queue[index] : NULL;
}

static void update_line(
	const struct virtio_mmio *mmio, const struct virtio_kind *kind, struct device_env *env)
{
	env->irq(env, kind->line, mmio->interrupt_status != 0);
}

static void interrupt(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t reason)
{
	mmio->interrupt_status |= reason;
	update_line(mmio, kind, env);
}

void virtio_mmio_ask_for_reset(
	struct virtio_mmio *mmio, const struct virtio_kind *kind, struct device_env *env)
{
	if (mmio->status & STATUS_NEEDS_RESET)
		return;
	mmio->status |= STATUS_NEEDS_RESET;
	if (mmio->status & STATUS_DRIVER_OK)
		interrupt(mmio, kind, env, INTERRUPT_CONFIG);
}

void virtio_mmio_finish(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, struct virtqueue *queue, uint16_t used)
{
	virtqueue_ask_notify(queue, env->memory);
	if (virtqueue_wants_interrupt(queue, env->memory, used))
		interrupt(mmio, kind, env, INTERRUPT_QUEUE);
}

/* The guest has told that there are chains in this queue. */
static void notify(struct virtio_mmio *mmio, const struct virtio_kind *kind, struct device_env *env,
	uint32_t index)
{
	struct virtqueue *queue = index == kind->served ? virtio_mmio_queue(mmio, index) : NULL;
	struct virtqueue_chains chain;
	if (!queue)
		return;
	uint16_t used = queue->used;
	/* The guest stands still, so there are at most `size` chains and no more come meanwhile;
	 * one that makes the device's own writes look like new chains gets no more either. */
	for (uint32_t i = 0; i < VIRTQUEUE_MAX; i++) {
		if (virtqueue_look(queue, env->memory, kind->is_written, 1, UINT64_MAX, &chain)) {
			virtio_mmio_ask_for_reset(mmio, kind, env);
			return;
		}
		if (!chain.count)
			break;
		virtqueue_return(queue, env->memory, &chain, kind->serve(mmio, env, &chain));
	}
	virtio_mmio_finish(mmio, kind, env, queue, used);
}

void virtio_mmio_reset(struct virtio_mmio *mmio, const void *config, size_t length)
{
	memset(mmio, 0, sizeof *mmio);
	if (length)
		memcpy(mmio->config, config, length);
}

static void write_status(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t value)
{
	if (!value) {
		uint8_t config[VIRTIO_CONFIG];
		memcpy(config, mmio->config, sizeof config);
		virtio_mmio_reset(mmio, config, sizeof config);
		if (kind->reset)
			kind->reset(mmio);
		update_line(mmio, kind, env);
		return;
	}
	/* Bits are only ever added; the two that depend on something are added when it holds. */
	mmio->status |= value & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
	if ((value & STATUS_FEATURES_OK) && (mmio->features & VIRTIO_VERSION_1) &&
		!(mmio->features & ~offered(kind)))
		mmio->status |= STATUS_FEATURES_OK;
	if ((value & STATUS_DRIVER_OK) && (mmio->status & STATUS_FEATURES_OK))
		mmio->status |= STATUS_DRIVER_OK;
}

static void set_half(uint64_t *whole, bool high, uint32_t value)
{
	*whole = high ? (*whole & UINT32_MAX) | (uint64_t)value << 32
		      : (*whole & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t offset, uint32_t value)
{
	if (mmio->queue_select >= kind->queues)
		return;
	struct virtqueue *queue = &mmio->queue[mmio->queue_select];
	bool high = offset & 4u;
	if (offset == REG_QUEUE_READY) {
		if (!(value & 1u)) {
			queue->ready = 0;
		} else if (!queue->ready) {
			queue->event_idx = !!(mmio->features & VIRTIO_EVENT_IDX);
			if (virtqueue_start(queue, env->memory))
				virtio_mmio_ask_for_reset(mmio, kind, env);
		}
		return;
	}
	if (queue->ready) { /* rings moved while in use */
		virtio_mmio_ask_for_reset(mmio, kind, env);
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

static uint32_t read_register(
	const struct virtio_mmio *mmio, const struct virtio_kind *kind, uint32_t offset)
{
	const struct virtqueue *queue =
		mmio->queue_select < kind->queues ? &mmio->queue[mmio->queue_select] : NULL;
	switch (offset) {
	case REG_MAGIC:
		return MAGIC;
	case REG_VERSION:
		return 2;
	case REG_DEVICE_ID:
		return kind->id;
	case REG_VENDOR_ID:
		return VENDOR;
	case REG_DEVICE_FEATURES:
		return mmio->features_select < 2
			       ? (uint32_t)(offered(kind) >> 32 * mmio->features_select)
			       : 0;
	case REG_QUEUE_SIZE_MAX:
		return queue ? VIRTQUEUE_MAX : 0;
	case REG_QUEUE_READY:
		return queue ? queue->ready : 0;
	case REG_INTERRUPT_STATUS:
		return mmio->interrupt_status;
	case REG_STATUS:
		return mmio->status;
	case REG_SHARED_MEMORY:
	case REG_SHARED_MEMORY + 4:
	case REG_SHARED_MEMORY + 8:
	case REG_SHARED_MEMORY + 12:
		return UINT32_MAX;
	default: /* the configuration's generation too: it never changes */
		return 0;
	}
}

static void write_register(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t offset, uint32_t value)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SELECT:
		mmio->features_select = value;
		break;
	case REG_DRIVER_FEATURES:
		if (mmio->driver_features_select < 2 && !(mmio->status & STATUS_FEATURES_OK))
			set_half(&mmio->features, mmio->driver_features_select, value);
		break;
	case REG_DRIVER_FEATURES_SELECT:
		mmio->driver_features_select = value;
		break;
	case REG_QUEUE_SELECT:
		mmio->queue_select = value;
		break;
	case REG_QUEUE_SIZE:
	case REG_QUEUE_READY:
	case REG_QUEUE_DESC:
	case REG_QUEUE_DESC + 4:
	case REG_QUEUE_DRIVER:
	case REG_QUEUE_DRIVER + 4:
	case REG_QUEUE_DEVICE:
	case REG_QUEUE_DEVICE + 4:
		write_queue(mmio, kind, env, offset, value);
		break;
	case REG_QUEUE_NOTIFY:
		notify(mmio, kind, env, value);
		break;
	case REG_INTERRUPT_ACK:
		mmio->interrupt_status &= ~value;
		update_line(mmio, kind, env);
		break;
	case REG_STATUS:
		write_status(mmio, kind, env, value);
		break;
	default:
		break;
	}
}

static uint64_t read_config(const struct virtio_mmio *mmio, uint32_t offset, unsigned size)
{
	uint64_t value = 0;
	for (unsigned i = 0; i < size && i < 8 && offset + i < VIRTIO_CONFIG; i++)
		value |= (uint64_t)mmio->config[offset + i] << 8 * i;
	return value;
}

uint64_t virtio_mmio_read(const struct virtio_mmio *mmio, const struct virtio_kind *kind,
	uint32_t offset, unsigned size)
{
	if (offset >= MMIO_VIRTIO_SIZE)
		return 0;
	if (offset >= REG_CONFIG)
		return read_config(mmio, offset - REG_CONFIG, size);
	return size == 4 ? read_register(mmio, kind, offset) : 0;
}

void virtio_mmio_write(struct virtio_mmio *mmio, const struct virtio_kind *kind,
	struct device_env *env, uint32_t offset, unsigned size, uint64_t value)
{
	if (offset < REG_CONFIG && size == 4)
		write_register(mmio, kind, env, offset, (uint32_t)value);
}

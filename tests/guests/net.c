#include "tests/guests/net.h"

#include "tests/guests/runtime.h"

#include <stdatomic.h>

/* Registers of virtio-mmio (4.2.2). */
enum {
	MAGIC = 0x000,
	VERSION = 0x004,
	DEVICE_ID = 0x008,
	DEVICE_FEATURES = 0x010,
	DEVICE_FEATURES_SELECT = 0x014,
	DRIVER_FEATURES = 0x020,
	DRIVER_FEATURES_SELECT = 0x024,
	QUEUE_SELECT = 0x030,
	QUEUE_SIZE_MAX = 0x034,
	QUEUE_SIZE = 0x038,
	QUEUE_READY = 0x044,
	QUEUE_NOTIFY = 0x050,
	INTERRUPT_ACK = 0x064,
	STATUS = 0x070,
	QUEUE_DESCRIPTORS = 0x080,
	QUEUE_DRIVER = 0x090,
	QUEUE_DEVICE = 0x0a0,
	CONFIG = 0x100,
};

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

#define FEATURE_MAC (1ull << 5)
#define FEATURE_EVENT_IDX (1ull << 29)
#define FEATURE_VERSION_1 (1ull << 32)
#define FEATURES (FEATURE_MAC | FEATURE_EVENT_IDX | FEATURE_VERSION_1)

/* The split virtqueue (2.7). */
#define SLOTS 256u

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};
enum { DESCRIPTOR_NEXT = 1, DESCRIPTOR_WRITE = 2 };

struct driver_ring {
	uint16_t flags;
	_Atomic uint16_t index;
	uint16_t slot[SLOTS];
	_Atomic uint16_t used_event;
};

struct device_ring {
	uint16_t flags;
	_Atomic uint16_t index;
	struct {
		uint32_t id, length;
	} slot[SLOTS];
	_Atomic uint16_t avail_event;
};
_Static_assert(sizeof(struct descriptor) == 16, "layout of virtio 2.7.5");
_Static_assert(offsetof(struct driver_ring, used_event) == 4 + 2 * SLOTS, "layout of virtio 2.7.6");
_Static_assert(
	offsetof(struct device_ring, avail_event) == 4 + 8 * SLOTS, "layout of virtio 2.7.8");

struct queue {
	_Alignas(16) struct descriptor descriptor[SLOTS];
	_Alignas(2) struct driver_ring driver;
	_Alignas(4) struct device_ring device;
	struct packet *packet[SLOTS]; /* by the id of its first descriptor */
	uint32_t number;
	uint16_t added;    /* buffers given to the device, ever */
	uint16_t notified; /* of these, when the device was last told */
	uint16_t seen;     /* buffers taken back, ever */
};

static struct queue receive = {.number = 0};
static struct queue transmit = {.number = 1};

/* A packet to send may need two descriptors, so it gets a pair: an even one and the next. */
#define PAIRS (SLOTS / 2)
static uint16_t free_pair[PAIRS];
static unsigned free_pairs;

/* Both queues full and one packet in the caller's hands: then none is left over or missing. */
#define PACKETS (SLOTS + PAIRS + 1)
static _Alignas(4096) struct packet packets[PACKETS];
static struct packet *free_packet[PACKETS];
static unsigned free_packets;

uint8_t net_mac[6];

static uint32_t get(uint32_t offset)
{
	return mmio_read32(MMIO_NET + offset);
}

static void set(uint32_t offset, uint32_t value)
{
	mmio_write32(MMIO_NET + offset, value);
}

static void set_address(uint32_t offset, const void *address)
{
	set(offset, (uint32_t)(uint64_t)address);
	set(offset + 4, (uint32_t)((uint64_t)address >> 32));
}

static void add(struct queue *queue, uint16_t id)
{
	queue->driver.slot[queue->added++ % SLOTS] = id;
	/* Release: the device reads the slot and its descriptors once it sees the index. */
	atomic_store_explicit(&queue->driver.index, queue->added, memory_order_release);
}

static bool has_used(struct queue *queue)
{
	/* Acquire: the device has written the slot before the index. */
	return atomic_load_explicit(&queue->device.index, memory_order_acquire) != queue->seen;
}

static void notify(struct queue *queue)
{
	uint16_t added = queue->added, before = queue->notified;
	if (added == before)
		return;
	queue->notified = added;
	/* The index we wrote must be visible before we look at what the device waits for: it does
	 * the same two steps the other way round. */
	atomic_thread_fence(memory_order_seq_cst);
	uint16_t event = atomic_load_explicit(&queue->device.avail_event, memory_order_relaxed);
	if ((uint16_t)(added - event - 1) < (uint16_t)(added - before))
		set(QUEUE_NOTIFY, queue->number);
}

static void offer(uint16_t id)
{
	struct packet *packet = free_packet[--free_packets];
	receive.packet[id] = packet;
	receive.descriptor[id] = (struct descriptor){.address = (uint64_t)&packet->header,
		.length = sizeof packet->header + sizeof packet->frame,
		.flags = DESCRIPTOR_WRITE};
	add(&receive, id);
}

static bool start_queue(struct queue *queue)
{
	set(QUEUE_SELECT, queue->number);
	if (get(QUEUE_SIZE_MAX) < SLOTS)
		return false;
	set(QUEUE_SIZE, SLOTS);
	set_address(QUEUE_DESCRIPTORS, queue->descriptor);
	set_address(QUEUE_DRIVER, &queue->driver);
	set_address(QUEUE_DEVICE, &queue->device);
	set(QUEUE_READY, 1);
	return true;
}

static bool agree_on_features(uint32_t offloads)
{
	for (uint32_t half = 0; half < 2; half++) {
		uint32_t wanted = (uint32_t)((FEATURES | offloads) >> 32 * half);
		set(DEVICE_FEATURES_SELECT, half);
		if ((get(DEVICE_FEATURES) & wanted) != wanted)
			return false;
		set(DRIVER_FEATURES_SELECT, half);
		set(DRIVER_FEATURES, wanted);
	}
	set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	return get(STATUS) & FEATURES_OK;
}

const char *net_start(uint32_t offloads)
{
	if (get(MAGIC) != 0x74726976 || get(VERSION) != 2 || get(DEVICE_ID) != 1)
		return "no virtio-net device";
	set(STATUS, 0);
	set(STATUS, ACKNOWLEDGE);
	set(STATUS, ACKNOWLEDGE | DRIVER);
	if (!agree_on_features(offloads))
		return "the network device lacks VERSION_1, MAC, EVENT_IDX or an offload";
	if (!start_queue(&receive) || !start_queue(&transmit))
		return "the network device's queues are too short";
	for (uint32_t i = 0; i < sizeof net_mac; i++)
		net_mac[i] = mmio_read8(MMIO_NET + CONFIG + i);

	for (unsigned i = 0; i < PACKETS; i++)
		net_drop(&packets[i]);
	for (uint16_t i = 0; i < PAIRS; i++)
		free_pair[free_pairs++] = (uint16_t)(2 * i);
	/* An event index left where it is fires once in 65,536 buffers, so one just behind means:
	 * never mind. Only net_listen() moves it to where it fires next. */
	atomic_store_explicit(&transmit.driver.used_event, UINT16_MAX, memory_order_relaxed);
	set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	for (uint16_t id = 0; id < SLOTS; id++)
		offer(id);
	net_flush();
	return NULL;
}

struct packet *net_receive(void)
{
	if (!has_used(&receive))
		return NULL;
	unsigned slot = receive.seen++ % SLOTS;
	uint16_t id = receive.device.slot[slot].id % SLOTS;
	struct packet *packet = receive.packet[id];
	packet->length = receive.device.slot[slot].length - (uint32_t)sizeof packet->header;
	packet->header = (struct net_header){0};
	offer(id);
	return packet;
}

unsigned net_room(void)
{
	while (has_used(&transmit)) {
		uint16_t id = transmit.device.slot[transmit.seen++ % SLOTS].id % SLOTS;
		net_drop(transmit.packet[id]);
		free_pair[free_pairs++] = id;
	}
	return free_pairs;
}

struct packet *net_packet(void)
{
	struct packet *packet = free_packet[--free_packets];
	packet->header = (struct net_header){0};
	return packet;
}

void net_drop(struct packet *packet)
{
	free_packet[free_packets++] = packet;
}

void net_send(struct packet *packet, const void *more, uint32_t more_length)
{
	if (!net_room()) {
		net_drop(packet);
		return;
	}
	uint16_t id = free_pair[--free_pairs];
	struct descriptor *pair = &transmit.descriptor[id];
	pair[0] = (struct descriptor){.address = (uint64_t)&packet->header,
		.length = (uint32_t)sizeof packet->header + packet->length};
	if (more_length) {
		pair[0].flags = DESCRIPTOR_NEXT;
		pair[0].next = (uint16_t)(id + 1);
		pair[1] = (struct descriptor){.address = (uint64_t)more, .length = more_length};
	}
	transmit.packet[id] = packet;
	add(&transmit, id);
}

void net_flush(void)
{
	notify(&receive);
	notify(&transmit);
}

static bool listen(struct queue *queue)
{
	atomic_store_explicit(&queue->driver.used_event, queue->seen, memory_order_relaxed);
	/* As in notify(): our wish must be visible before we look whether it is fulfilled. */
	atomic_thread_fence(memory_order_seq_cst);
	return !has_used(queue);
}

bool net_listen(bool for_room)
{
	return listen(&receive) && (!for_room || listen(&transmit));
}

void net_acknowledge(void)
{
	/* Both causes without a look at which it was: that would be one more exit for nothing. */
	set(INTERRUPT_ACK, 3);
}

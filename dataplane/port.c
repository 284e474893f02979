#include "dataplane/port.h"

#include "dataplane/gro.h"
#include "dataplane/gso.h"

#include "base/check.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_mbuf.h>

#define BURST 32u
#define DESCRIPTORS 256u
#define RECEIVE_BUFFERS 4096u
#define SEND_BUFFERS 1024u
#define MERGE_BUFFERS 64u
#define MERGE_ROOM UINT16_MAX /* the most that a buffer can have */
#define BUFFER_LEAST 2048u
#define BUFFER_MEMORY (16u << 20) /* for a pool; a large MTU gets fewer buffers */
#define MEMORY_MIB "128"          /* reserved, not touched before it is used */
#define VLAN_TAG 4u
#define ANY_SOCKET ((unsigned)SOCKET_ID_ANY)
#define STUCK_NS 100000000u

/* How far the frames of one port_send are made into buffers. A large one is cut into many, and the device
 * may be full in the middle of it. */
struct cursor {
	unsigned frame, dropped;
	const void *cutting; /* the bytes of frame[frame] if a part of it is made */
	struct gso gso;
};

struct port {
	uint16_t id;
	uint32_t mtu;
	struct rte_mempool *receive_pool;
	/* Its own: what the guest has not read yet must not keep it from sending. */
	struct rte_mempool *send_pool;
	struct rte_mempool *merge_pool; /* for what is merged of received frames */
	struct cursor at;               /* where sending goes on */
	uint64_t stuck_since;           /* 0: the device took something last time */
	_Atomic uint64_t dropped;
};

static int driver_signal;
static void (*driver_handler)(int signal);
/* The thread's own, so that a signal taken by any other thread finds nothing to ring. */
static _Thread_local struct bell *const *volatile wake;

static void frame_arrived(int signal)
{
	int saved = errno;
	(void)signal;
	driver_handler(driver_signal);
	if (wake)
		bell_ring(*wake);
	errno = saved;
}

static void driver_signals(sigset_t *set)
{
	sigemptyset(set);
	/* When no real-time signal can be queued any more, the kernel sends SIGIO in its place. */
	sigaddset(set, SIGIO);
	for (int number = SIGRTMIN + 1; number < SIGRTMAX; number++)
		sigaddset(set, number);
}

void port_block_signals(void)
{
	sigset_t set;
	driver_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void handlers(void (*found[_NSIG])(int))
{
	for (int number = SIGRTMIN + 1; number < SIGRTMAX; number++) {
		struct sigaction action;
		found[number] = sigaction(number, NULL, &action) == 0 ? action.sa_handler : SIG_DFL;
	}
}

/* Puts our handler before the one that the driver has installed since `before` was filled in. */
static void adopt_signal(void (*before[_NSIG])(int))
{
	void (*after[_NSIG])(int);
	handlers(after);
	for (int number = SIGRTMIN + 1; number < SIGRTMAX; number++) {
		if (after[number] == before[number] || after[number] == SIG_IGN)
			continue;
		struct sigaction action = {.sa_handler = frame_arrived, .sa_flags = SA_RESTART};
		driver_signal = number;
		driver_handler = after[number];
		sigaction(number, &action, NULL);
		sigaction(SIGIO, &action, NULL);
		return;
	}
}

static void disown_signal(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	if (!driver_signal)
		return;
	sigaction(driver_signal, &ignore, NULL);
	sigaction(SIGIO, &ignore, NULL);
	driver_signal = 0;
}

bool port_wakes(struct port *port, struct bell *const *bell)
{
	(void)port;
	wake = bell;
	if (!driver_signal)
		return false;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, driver_signal);
	sigaddset(&set, SIGIO);
	pthread_sigmask(bell ? SIG_UNBLOCK : SIG_BLOCK, &set, NULL);
	return true;
}

/* DPDK explains itself in its log only. We keep the first complaint for our own message; on a
 * normal start nobody needs to read that this kernel has no multiq. */
static char complaint[200];

static ssize_t keep_complaint(void *cookie, const char *text, size_t size)
{
	(void)cookie;
	if (complaint[0] == '\0' && rte_log_cur_msg_loglevel() <= (int)RTE_LOG_WARNING) {
		const char *end = memchr(text, '\n', size);
		snprintf(complaint, sizeof complaint, "%.*s",
			(int)(end ? (size_t)(end - text) : size), text);
	}
	return (ssize_t)size;
}

/* The complaint without the name of DPDK's function in front. */
static const char *reason(void)
{
	const char *colon = strstr(complaint, "(): ");
	if (complaint[0] == '\0')
		return "DPDK gives no reason";
	return colon ? colon + 4 + strspn(colon + 4, " ") : complaint;
}

/* The EAL pins its caller to a processor, and its own thread must take no signal of ours. */
static int start_eal(void)
{
	FILE *log = fopencookie(NULL, "w", (cookie_io_functions_t){.write = keep_complaint});
	if (!log)
		return fail(errno, "DPDK's log: %s", strerror(errno));
	setvbuf(log, NULL, _IOLBF, 0);
	rte_openlog_stream(log);

	cpu_set_t affinity;
	if (sched_getaffinity(0, sizeof affinity, &affinity) != 0)
		return fail(errno, "sched_getaffinity: %s", strerror(errno));
	unsigned processor = 0;
	while (!CPU_ISSET(processor, &affinity) && processor < CPU_SETSIZE - 1)
		processor++;
	char lcores[32];
	snprintf(lcores, sizeof lcores, "--lcores=0@%u", processor);

	/* A runtime folder that cannot be made is one that cannot be left behind: without shared
	 * configuration DPDK has nothing to put there. */
	const char *runtime = getenv("RUNTIME_DIRECTORY");
	char *saved_runtime = runtime ? strdup(runtime) : NULL;
	setenv("RUNTIME_DIRECTORY", "/dev/null", 1);
	sigset_t all, saved_mask;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved_mask);

	char *arguments[] = {"doppel", "--no-huge", "-m", MEMORY_MIB, "--no-shconf", "--no-pci",
		"--no-telemetry", "--iova-mode=va", "--log-level=warning", lcores, NULL};
	complaint[0] = '\0';
	int started = rte_eal_init(sizeof arguments / sizeof arguments[0] - 1, arguments);
	int error = rte_errno;

	pthread_sigmask(SIG_SETMASK, &saved_mask, NULL);
	sched_setaffinity(0, sizeof affinity, &affinity);
	if (saved_runtime)
		setenv("RUNTIME_DIRECTORY", saved_runtime, 1);
	else
		unsetenv("RUNTIME_DIRECTORY");
	free(saved_runtime);

	if (started < 0)
		return fail(error ? error : EIO, "DPDK does not start: %s (%s)", reason(),
			rte_strerror(error));
	return 0;
}

/* The value of `key` in "driver,key=value,...", false when it is not there. */
static bool device_argument(const char *device, const char *key, char *value, size_t size)
{
	for (const char *at = strchr(device, ','); at; at = strchr(at, ',')) {
		at++;
		size_t n = strlen(key);
		if (strncmp(at, key, n) != 0 || at[n] != '=')
			continue;
		snprintf(value, size, "%.*s", (int)strcspn(at + n + 1, ","), at + n + 1);
		return true;
	}
	return false;
}

/* A tap that another process has open has a carrier; the driver would join it as one more queue,
 * and the two would share its frames out between them. */
static bool tap_in_use(const char *device)
{
	struct ifreq request = {0};
	struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
	if (strncmp(device, "net_tap", 7) != 0 ||
		!device_argument(device, "iface", request.ifr_name, sizeof request.ifr_name))
		return false;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	request.ifr_data = (void *)&link;
	bool used = ioctl(fd, SIOCETHTOOL, &request) == 0 && link.data;
	close(fd);
	return used;
}

/* Why the device could not be attached, as far as the log tells. */
static int refused(const char *device)
{
	if (strstr(complaint, "failed to parse device") || strstr(complaint, "Cannot find device"))
		return fail(ENODEV,
			"--net %s: DPDK knows no such driver (net_tap0,iface=NAME, "
			"net_af_packet0,iface=NAME, net_memif0,role=client, ...)",
			device);
	if (strstr(complaint, strerror(EPERM)) || strstr(complaint, strerror(EACCES)))
		return fail(EPERM,
			"--net %s: %s; this device needs root or CAP_NET_ADMIN and CAP_NET_RAW",
			device, reason());
	if (strstr(complaint, strerror(EBUSY)))
		return fail(EBUSY, "--net %s: %s; another process has it", device, reason());
	if (strstr(complaint, "TUNSETIFF"))
		return fail(ENODEV,
			"--net %s: %s; is there another kind of interface of that name, or a tap "
			"made without multi_queue?",
			device, reason());
	return fail(ENODEV, "--net %s: the driver refuses it: %s; check its arguments", device,
		reason());
}

static int attach(struct port *port, const char *device)
{
	if (tap_in_use(device))
		return fail(EBUSY,
			"--net %s: another process has this interface; choose another name",
			device);
	complaint[0] = '\0';
	if (rte_dev_probe(device) != 0)
		return refused(device);
	char name[RTE_ETH_NAME_MAX_LEN];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(device, ","), device);
	if (rte_eth_dev_get_port_by_name(name, &port->id) != 0)
		return fail(ENODEV, "--net %s: not a network device", device);
	return 0;
}

/* The kernel's limit for the interface behind the port may be lower than the driver's. */
static uint32_t kernel_mtu(unsigned index, uint32_t otherwise)
{
	struct ifreq request = {0};
	if (index == 0 || !if_indextoname(index, request.ifr_name))
		return otherwise;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return otherwise;
	bool known = ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu > 0;
	close(fd);
	return known && (uint32_t)request.ifr_mtu < otherwise ? (uint32_t)request.ifr_mtu
							      : otherwise;
}

static struct rte_mempool *make_pool(const char *name, unsigned buffers, uint32_t room)
{
	if (room < BUFFER_LEAST)
		room = BUFFER_LEAST;
	room += RTE_PKTMBUF_HEADROOM;
	if (room > UINT16_MAX)
		room = UINT16_MAX;
	if (buffers > BUFFER_MEMORY / room)
		buffers = BUFFER_MEMORY / room;
	/* No per-core caches, since none of our threads is DPDK's. With relaxed tail updates a
	 * thread that is preempted while it frees a buffer keeps nobody else waiting. */
	return rte_pktmbuf_pool_create_by_ops(
		name, buffers, 0, 0, (uint16_t)room, SOCKET_ID_ANY, "ring_mt_rts");
}

static int configure(struct port *port)
{
	struct rte_eth_dev_info info;
	uint16_t mtu;
	int error;
	if ((error = rte_eth_dev_info_get(port->id, &info)) != 0)
		return error;
	if ((error = rte_eth_dev_get_mtu(port->id, &mtu)) != 0)
		return error;
	struct rte_eth_conf conf = {.rxmode.mtu = mtu};
	if ((error = rte_eth_dev_configure(port->id, 1, 1, &conf)) != 0)
		return error;

	uint32_t room = mtu + ETHER_HEADER + VLAN_TAG;
	port->receive_pool = make_pool("receive", RECEIVE_BUFFERS, room);
	port->send_pool = make_pool("send", SEND_BUFFERS, room);
	port->merge_pool = make_pool("merge", MERGE_BUFFERS, MERGE_ROOM);
	if (!port->receive_pool || !port->send_pool || !port->merge_pool)
		return -rte_errno;

	uint16_t receive = DESCRIPTORS, send = DESCRIPTORS;
	if ((error = rte_eth_dev_adjust_nb_rx_tx_desc(port->id, &receive, &send)) != 0)
		return error;
	if ((error = rte_eth_rx_queue_setup(
		     port->id, 0, receive, ANY_SOCKET, NULL, port->receive_pool)) != 0)
		return error;
	if ((error = rte_eth_tx_queue_setup(port->id, 0, send, ANY_SOCKET, NULL)) != 0)
		return error;
	if ((error = rte_eth_dev_start(port->id)) != 0)
		return error;
	/* The guest's MAC is not the device's. A driver without the notion shows us everything
	 * anyway. */
	error = rte_eth_promiscuous_enable(port->id);
	if (error && error != -ENOTSUP) {
		rte_eth_dev_stop(port->id);
		return error;
	}
	port->mtu = kernel_mtu(info.if_index, mtu);
	return 0;
}

int port_open(struct port **out, const char *device)
{
	static bool started;
	if (started)
		return fail(EALREADY, "--net %s: this process has started DPDK for a port before",
			device);
	struct port *port = calloc(1, sizeof *port);
	if (!port)
		return fail(ENOMEM, "memory for a port: %s", strerror(ENOMEM));
	started = true;
	int error = start_eal();
	if (error)
		goto no_eal;

	void (*before[_NSIG])(int);
	handlers(before);
	error = attach(port, device);
	if (error)
		goto no_device;
	complaint[0] = '\0';
	error = configure(port);
	/* Only now: a driver that does not find its own handler any more takes the next signal. */
	adopt_signal(before);
	if (error) {
		if (error == -1) /* some drivers know no other */
			error = -EIO;
		error = fail(-error, "--net %s: the device does not start: %s (%s)", device,
			reason(), strerror(-error));
		goto no_start;
	}
	*out = port;
	return 0;

no_start:
	rte_eth_dev_close(port->id);
	rte_mempool_free(port->receive_pool);
	rte_mempool_free(port->send_pool);
	rte_mempool_free(port->merge_pool);
	disown_signal();
no_device:
	rte_eal_cleanup();
no_eal:
	free(port);
	return error;
}

void port_close(struct port *port)
{
	if (!port)
		return;
	rte_eth_dev_stop(port->id);
	rte_eth_dev_close(port->id);
	rte_mempool_free(port->receive_pool);
	rte_mempool_free(port->send_pool);
	rte_mempool_free(port->merge_pool);
	disown_signal();
	rte_eal_cleanup();
	free(port);
}

/* Gives a buffer to the user, with a header in front of its frame. */
static struct port_frame frame_of(struct rte_mbuf *buffer, const struct frame_header *header)
{
	void *bytes = rte_pktmbuf_prepend(buffer, FRAME_HEADER);
	/* Drivers leave the headroom that pools have. */
	CHECK(D1, bytes, "a received frame without room in front of it");
	memcpy(bytes, header, FRAME_HEADER);
	return (struct port_frame){
		.bytes = bytes, .length = rte_pktmbuf_pkt_len(buffer), .owner = buffer};
}

/* Merges the first of `received` with those that follow it, as far as they do. Returns how many it took,
 * 0 when there is nothing to merge it with; theirs are free then. */
static unsigned merge(
	struct port *port, struct rte_mbuf **received, unsigned count, struct port_frame *out)
{
	struct gro gro;
	struct rte_mbuf *merged = NULL;
	struct frame_header header;
	uint32_t length;
	const uint8_t *from;
	if (!gro_begin(&gro, rte_pktmbuf_mtod(received[0], const uint8_t *),
		    rte_pktmbuf_pkt_len(received[0])))
		return 0;
	for (unsigned i = 1; i < count; i++) {
		size_t most = MERGE_ROOM - RTE_PKTMBUF_HEADROOM;
		if (!gro_add(&gro, rte_pktmbuf_mtod(received[i], const uint8_t *),
			    rte_pktmbuf_pkt_len(received[i]), most, &from, &length))
			break;
		if (!merged) {
			merged = rte_pktmbuf_alloc(port->merge_pool);
			if (!merged)
				return 0;
			uint32_t first = gro.length - length;
			memcpy(rte_pktmbuf_append(merged, (uint16_t)first), gro.first, first);
		}
		memcpy(rte_pktmbuf_append(merged, (uint16_t)length), from, length);
	}
	if (!merged)
		return 0;
	gro_headers(&gro, &header, rte_pktmbuf_mtod(merged, uint8_t *));
	rte_pktmbuf_free_bulk(received, gro.count);
	*out = frame_of(merged, &header);
	return gro.count;
}

unsigned port_receive(
	struct port *port, struct port_frame *frames, unsigned capacity, bool may_merge)
{
	static const struct frame_header whole;
	struct rte_mbuf *received[BURST];
	/* A driver that finds no buffer loses the frame it was about to read. */
	if (rte_mempool_avail_count(port->receive_pool) < 2 * BURST)
		return 0;
	unsigned n = rte_eth_rx_burst(
		port->id, 0, received, (uint16_t)(capacity < BURST ? capacity : BURST));
	unsigned kept = 0;
	for (unsigned i = 0; i < n; i++) {
		if (rte_pktmbuf_linearize(received[i]) == 0)
			received[kept++] = received[i];
		else
			rte_pktmbuf_free(received[i]);
	}
	unsigned given = 0;
	for (unsigned i = 0; i < kept; given++) {
		unsigned merged =
			may_merge ? merge(port, received + i, kept - i, &frames[given]) : 0;
		if (!merged)
			frames[given] = frame_of(received[i], &whole);
		i += merged ? merged : 1;
	}
	return given;
}

static void add_part(
	struct rte_mempool *pool, void *argument, struct rte_mempool_memhdr *part, unsigned index)
{
	uint8_t **bounds = argument, *begin = part->addr;
	(void)pool, (void)index;
	if (!bounds[0] || begin < bounds[0])
		bounds[0] = begin;
	if (!bounds[1] || begin + part->len > bounds[1])
		bounds[1] = begin + part->len;
}

void port_packets(const struct port *port, void **base, size_t *size)
{
	/* Whatever lies between the pools' parts is DPDK's as well, and mapped: without huge pages it has
	 * one piece of memory. */
	uint8_t *bounds[2] = {NULL, NULL};
	rte_mempool_mem_iter(port->receive_pool, add_part, bounds);
	rte_mempool_mem_iter(port->merge_pool, add_part, bounds);
	*base = bounds[0];
	*size = (size_t)(bounds[1] - bounds[0]);
}

void port_frame_free(struct port_frame *frame)
{
	rte_pktmbuf_free(frame->owner);
	frame->owner = NULL;
}

static void count_dropped(struct port *port, unsigned count)
{
	atomic_fetch_add_explicit(&port->dropped, count, memory_order_relaxed);
}

/* The next piece of what is to be sent, in a buffer; NULL when all is made, or no buffer is left. */
static struct rte_mbuf *next_buffer(
	struct port *port, struct cursor *at, const struct hold_output *frames, unsigned count)
{
	for (; !at->cutting && at->frame < count; at->frame++, at->dropped++) {
		const struct hold_output *frame = &frames[at->frame];
		if (gso_begin(&at->gso, frame->bytes, frame->length, port->mtu)) {
			at->cutting = frame->bytes;
			break;
		}
	}
	if (!at->cutting)
		return NULL;
	struct rte_mbuf *buffer = rte_pktmbuf_alloc(port->send_pool);
	if (!buffer)
		return NULL;
	char *to = rte_pktmbuf_append(buffer, (uint16_t)gso_length(&at->gso));
	CHECK(O4, to, "a piece of %u bytes has no room in a buffer", gso_length(&at->gso));
	gso_next(&at->gso, (uint8_t *)to);
	if (gso_ended(&at->gso)) {
		at->cutting = NULL;
		at->frame++;
	}
	return buffer;
}

/* One burst of buffers; `*sent` counts those that the device takes. Whether there may be more. */
static bool send_burst(
	struct port *port, const struct hold_output *frames, unsigned count, unsigned *sent)
{
	struct rte_mbuf *buffers[BURST];
	struct cursor before[BURST], at = port->at;
	unsigned made = 0;
	for (; made < BURST; made++) {
		before[made] = at;
		buffers[made] = next_buffer(port, &at, frames, count);
		if (!buffers[made])
			break;
	}
	unsigned taken = made ? rte_eth_tx_burst(port->id, 0, buffers, (uint16_t)made) : 0;
	rte_pktmbuf_free_bulk(buffers + taken, made - taken);
	/* What the device will never take is skipped where its turn is. */
	port->at = taken < made ? before[taken] : at;
	*sent += taken;
	return taken == BURST;
}

unsigned port_send(struct port *port, const struct hold_output *frames, unsigned count)
{
	unsigned sent = 0;
	/* Another may have come in front: then the one that was cut begins again. */
	if (count == 0 || port->at.cutting != frames[0].bytes)
		port->at.cutting = NULL;
	port->at.frame = port->at.dropped = 0;
	while (send_burst(port, frames, count, &sent))
		;
	unsigned taken = port->at.frame;
	count_dropped(port, port->at.dropped);
	if (sent || taken || count == 0) {
		port->stuck_since = 0;
		return taken;
	}
	uint64_t now = now_ns();
	if (port->stuck_since == 0)
		port->stuck_since = now;
	if (now - port->stuck_since < STUCK_NS)
		return 0;
	port->at.cutting = NULL;
	count_dropped(port, count);
	return count;
}

uint32_t port_mtu(const struct port *port)
{
	return port->mtu;
}

uint64_t port_dropped(const struct port *port)
{
	return atomic_load_explicit(&port->dropped, memory_order_relaxed);
}

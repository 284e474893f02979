/*
 * Measures the log's way over a provider: log_writer, the provider, log_reader, and the ack back.
 *
 *   bench_transport [ADDRESS...]        both ends on this machine, in two processes; shm and tcp
 *                                       without an address
 *   bench_transport standby ADDRESS     one end on each of two machines; the standby first, which
 *   bench_transport primary ADDRESS     ends when the primary does
 *
 * Reported for each address, the median of ROUNDS runs:
 *   - from the append of an entry of 64 bytes to its `received` ack, with both ends polling all the
 *     time, and with both as idle as a machine with two processors wants them (base/idle.h)
 *   - bytes a second of entries of 64 KiB through a full ring, beside memcpy of the same bytes into
 *     memory of the ring's size, in turns
 *   - CPU time of both processes for an entry, and what an entry adds to its payload
 */
#include "base/idle.h"
#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"
#include "transport/memfd.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RING (16u << 20)
#define MEMORY 4096u
#define SECRET 0x62656e6368u
#define ROUNDS 5
#define STREAM_NS 300000000u
/* Round trips of a run: as many as there is time for. */
#define TRIPS 20000u
#define TRIPS_NS 300000000u
#define SMALL 24u            /* payload of an entry of 64 bytes */
#define LARGE (65536u - 40u) /* payload of an entry of 64 KiB */
#define CONNECT_MS 10000u
#define PHASE_MS 60000u

/* What the primary asks of the standby for the next entries, up to an END. */
struct phase {
	uint32_t spins, yields;
};

static const struct provider *provider;
static const char *where;
static uint8_t payload[65536];

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "bench_transport: %s:%d: not so: %s (%s)\n", __FILE__,     \
				__LINE__, #condition, fail_message());                             \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static uint64_t cpu_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* With both ends on one machine, each has a processor of its own, and not by chance. A provider's
 * own threads, which there are by now, go where they like. */
static void take_processor(unsigned number)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(number, &set);
	/* Where there is no such processor, chance it is. */
	(void)!sched_setaffinity(0, sizeof set, &set);
}

/* ---- The standby ---- */

/* Follows the log up to an END; a stand-in for engine/receiver.c, and a consumer at once. */
static void follow(struct connection *c, struct log_reader *reader)
{
	struct idle idle = {.bell = provider->bell(c), .longest_ns = 1000000};
	uint64_t acked = reader->next;
	for (bool at_end = false; !at_end;) {
		struct log_entry entry;
		idle_watch(&idle);
		for (unsigned n = 0; n < 16 && !at_end; n++) {
			if (log_reader_peek(reader, &entry) != LOG_VALID)
				break;
			log_reader_take(reader, &entry);
			at_end = entry.kind == LOG_END;
		}
		if (reader->next == acked) {
			idle_pause(&idle);
			continue;
		}
		acked = reader->next;
		idle_busy(&idle);
		if (provider->write_ack(c, ACK_RECEIVED, acked) ||
			provider->write_ack(c, ACK_CONSUMED, acked))
			return;
	}
}

static int be_standby(struct listener *listener, bool is_pinned)
{
	struct connection *c;
	struct pollfd pollfd = {.fd = provider->listener_fd(listener), .events = POLLIN};
	REQUIRE(poll(&pollfd, 1, -1) == 1);
	REQUIRE(provider->accept(listener, &c) == 0);
	int memory = memfd_make("bench guest", MEMORY);
	REQUIRE(memory >= 0);
	REQUIRE(provider->expose(c, RING, memory, MEMORY, SECRET) == 0);
	close(memory);
	struct log_reader reader;
	log_reader_ring(&reader, provider->ring(c), RING, SECRET, 0);
	if (is_pinned)
		take_processor(1);
	struct phase phase;
	size_t length;
	while (provider->recv(c, &phase, sizeof phase, &length, PHASE_MS) == 0) {
		idle_configure(phase.spins, phase.yields);
		REQUIRE(provider->send(c, "", 0) == 0);
		uint64_t cpu = cpu_ns();
		follow(c, &reader);
		cpu = cpu_ns() - cpu;
		REQUIRE(provider->send(c, &cpu, sizeof cpu) == 0);
	}
	provider->close(c);
	provider->listener_close(listener);
	return 0;
}

/* ---- The primary ---- */

struct primary {
	struct connection *c;
	struct log_writer *writer;
	struct ack_reader consumed, received;
	uint64_t position;
	uint64_t entries; /* of this phase */
	uint64_t cpu;     /* when it began; of both, when it has ended */
};

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	return provider->write_log(((struct primary *)context)->c, lsn, pieces, count);
}

static uint64_t sink_written(void *context)
{
	return provider->written(((struct primary *)context)->c);
}

static uint64_t sink_consumed(void *context, uint64_t head)
{
	return ack_read(&((struct primary *)context)->consumed, head);
}

static const struct log_sink sink = {
	.write = sink_write, .written = sink_written, .consumed = sink_consumed};

static void open_primary(struct primary *p)
{
	int error;
	uint64_t until = now_ns() + CONNECT_MS * 1000000ull;
	*p = (struct primary){0};
	while ((error = provider->connect(where, CONNECT_MS, &p->c)) == -ECONNREFUSED &&
		now_ns() < until)
		usleep(10000);
	REQUIRE(error == 0);
	REQUIRE(provider->attach(p->c, RING, MEMORY, SECRET) == 0);
	REQUIRE(log_writer_create(&p->writer, &sink, p, RING, SECRET, 0) == 0);
	void *staging;
	size_t size;
	log_writer_staging(p->writer, &staging, &size);
	REQUIRE(provider->register_source(p->c, staging, size) == 0);
	p->consumed = p->received = (struct ack_reader){
		.block = provider->acks(p->c), .secret = SECRET, .counter = ACK_CONSUMED};
	p->received.counter = ACK_RECEIVED;
}

static void begin_phase(struct primary *p, uint32_t spins, uint32_t yields)
{
	const struct phase phase = {.spins = spins, .yields = yields};
	char nothing;
	size_t length;
	idle_configure(spins, yields);
	REQUIRE(provider->send(p->c, &phase, sizeof phase) == 0);
	REQUIRE(provider->recv(p->c, &nothing, 1, &length, PHASE_MS) == 0);
	p->entries = 0;
	p->cpu = cpu_ns();
}

static void await(struct primary *p, struct ack_reader *reader, uint64_t lsn, struct idle *idle)
{
	idle_busy(idle);
	for (;;) {
		idle_watch(idle);
		if (ack_read(reader, log_writer_flushed(p->writer)) >= lsn)
			return;
		idle_pause(idle);
	}
}

static void append(struct primary *p, enum log_kind kind, const void *from, uint32_t length,
	uint64_t *end, struct idle *idle)
{
	int error;
	p->entries++;
	idle_busy(idle);
	for (;;) {
		idle_watch(idle);
		error = log_writer_append(p->writer, kind, p->position, 0, from, length, end);
		if (error != -EAGAIN)
			break;
		REQUIRE(log_writer_flush(p->writer) == 0);
		idle_pause(idle);
	}
	REQUIRE(error == 0);
	p->position++;
}

static void end_phase(struct primary *p, struct idle *idle)
{
	struct log_ending ending = {.reason = LOG_END_STOPPED};
	uint64_t end, theirs;
	size_t length;
	append(p, LOG_END, &ending, sizeof ending, &end, idle);
	REQUIRE(log_writer_flush(p->writer) == 0);
	await(p, &p->received, end, idle);
	p->cpu = cpu_ns() - p->cpu;
	REQUIRE(provider->recv(p->c, &theirs, sizeof theirs, &length, PHASE_MS) == 0);
	p->cpu += theirs;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values)
{
	qsort(values, ROUNDS, sizeof values[0], ascending);
	return values[ROUNDS / 2];
}

struct latency {
	double p50, p99, cpu; /* us, us, ns an entry */
};

static void measure_latency(struct primary *p, struct latency *out)
{
	static double samples[TRIPS];
	struct idle idle = {.bell = provider->bell(p->c), .longest_ns = 1000000};
	unsigned count = 0;
	for (uint64_t began = now_ns(); count < TRIPS && now_ns() - began < TRIPS_NS; count++) {
		uint64_t end, before = now_ns();
		append(p, LOG_NET_RX, payload, SMALL, &end, &idle);
		REQUIRE(log_writer_flush(p->writer) == 0);
		await(p, &p->received, end, &idle);
		samples[count] = (double)(now_ns() - before) / 1e3;
	}
	end_phase(p, &idle);
	qsort(samples, count, sizeof samples[0], ascending);
	out->p50 = samples[count / 2];
	out->p99 = samples[count * 99 / 100];
	out->cpu = (double)p->cpu / (double)p->entries;
}

/* Bytes a second; each flush is one entry. */
static double measure_stream(struct primary *p, double *cpu)
{
	struct idle idle = {.bell = provider->bell(p->c), .longest_ns = 200000};
	uint64_t before = log_writer_head(p->writer), began = now_ns(), end;
	while (now_ns() - began < STREAM_NS) {
		append(p, LOG_NET_RX, payload, LARGE, &end, &idle);
		REQUIRE(log_writer_flush(p->writer) == 0);
	}
	await(p, &p->received, end, &idle);
	uint64_t ns = now_ns() - began;
	double rate = (double)(log_writer_head(p->writer) - before) * 1e9 / (double)ns;
	end_phase(p, &idle);
	*cpu = (double)p->cpu / (double)p->entries;
	return rate;
}

static double measure_memcpy(void)
{
	static uint8_t *to;
	if (!to) {
		to = malloc(RING);
		REQUIRE(to);
		memset(to, 1, RING);
	}
	uint64_t began = now_ns(), bytes = 0;
	while (now_ns() - began < STREAM_NS / 3) {
		memcpy(to + bytes % RING, payload, sizeof payload);
		/* The copy is wanted, whatever the compiler thinks. */
		__asm__ volatile("" : : "r"(to) : "memory");
		bytes += sizeof payload;
	}
	return (double)bytes * 1e9 / (double)(now_ns() - began);
}

static void measure_and_report(struct primary *p, const char *address)
{
	double p50[2][ROUNDS], p99[2][ROUNDS], cpu[3][ROUNDS], stream[ROUNDS], copy[ROUNDS];
	for (int round = 0; round < ROUNDS; round++) {
		struct latency latency;
		for (int sleeps = 0; sleeps < 2; sleeps++) {
			begin_phase(p, sleeps ? 20 : 2000, sleeps ? 2 : UINT32_MAX - 2000);
			measure_latency(p, &latency);
			p50[sleeps][round] = latency.p50;
			p99[sleeps][round] = latency.p99;
			cpu[sleeps][round] = latency.cpu;
		}
		copy[round] = measure_memcpy();
		begin_phase(p, 20, 2);
		stream[round] = measure_stream(p, &cpu[2][round]);
	}
	printf("%s\n", address);
	static const char *const manners[] = {"polling", "sleeping"};
	for (int sleeps = 0; sleeps < 2; sleeps++)
		printf("  64 bytes to their ack, %-9s p50 %8.2f us  p99 %8.2f us  CPU %7.2f us an "
		       "entry\n",
			manners[sleeps], median(p50[sleeps]), median(p99[sleeps]),
			median(cpu[sleeps]) / 1e3);
	double rate = median(stream), base = median(copy);
	printf("  64 KiB writes  %.3f GB/s (%.3f Gbit/s)  memcpy %.3f GB/s  ratio %.2f  CPU %.2f "
	       "us an entry\n",
		rate / 1e9, rate * 8 / 1e9, base / 1e9, rate / base, median(cpu[2]) / 1e3);
	fflush(stdout);
}

static void be_primary(const char *address, bool is_pinned)
{
	struct primary p;
	cpu_set_t before;
	open_primary(&p);
	REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
	if (is_pinned)
		take_processor(0);
	measure_and_report(&p, address);
	provider->close(p.c);
	log_writer_destroy(p.writer);
	(void)!sched_setaffinity(0, sizeof before, &before);
}

static void find(const char *address)
{
	if (provider_find(address, &provider, &where) < 0) {
		fprintf(stderr, "bench_transport: %s\n", fail_message());
		exit(2);
	}
}

/* A port of loopback that was free a moment ago. */
static void free_port(char *text, size_t size)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof any;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&any, length) == 0 &&
		getsockname(fd, (struct sockaddr *)&any, &length) == 0);
	close(fd);
	snprintf(text, size, "tcp:127.0.0.1:%u", ntohs(any.sin_port));
}

static void measure_both(const char *address)
{
	find(address);
	fflush(stdout);
	pid_t child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		struct listener *listener;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		REQUIRE(provider->listen(where, &listener) == 0);
		exit(be_standby(listener, true));
	}
	be_primary(address, true);
	int status;
	REQUIRE(waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv)
{
	char shm[48], tcp[48];
	for (size_t i = 0; i < sizeof payload; i++)
		payload[i] = (uint8_t)(i * 131 >> 3);
	snprintf(shm, sizeof shm, "shm:bench-%d", (int)getpid());
	if (argc == 3 && strcmp(argv[1], "standby") == 0) {
		struct listener *listener;
		find(argv[2]);
		REQUIRE(provider->listen(where, &listener) == 0);
		return be_standby(listener, false);
	}
	printf("an entry adds %u bytes to its payload, and what makes it a multiple of 8\n",
		(unsigned)log_entry_size(0));
	if (argc == 3 && strcmp(argv[1], "primary") == 0) {
		find(argv[2]);
		be_primary(argv[2], false);
		return 0;
	}
	if (argc < 2) {
		measure_both(shm);
		free_port(tcp, sizeof tcp);
		measure_both(tcp);
	}
	for (int i = 1; i < argc; i++)
		measure_both(argv[i]);
	return 0;
}

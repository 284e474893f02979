/*
 * Measures the log's way over a provider: log_writer, the provider, log_reader, and the ack back.
 * tests/bench_transport.sh runs it and makes a table of what it prints.
 *
 *   bench_transport both ADDRESS ROUNDS MS PHASE...      both ends on this machine, in two processes
 *   bench_transport standby ADDRESS                      one end on each of two machines; the standby
 *   bench_transport primary ADDRESS ROUNDS MS PHASE...   ends when the primary does
 *
 * Each round runs the phases in their order, each for about MS milliseconds, and prints a line for
 * each figure, its name and its value:
 *
 *   spinning     from the append of an entry of 64 bytes to its `received` ack, both ends spinning
 *   idle         the same, both as idle as a machine with two processors wants them (base/idle.h)
 *   placed       spinning, to the end of the provider's own write, where that promises commit level placed
 *   stream       entries of 64 KiB through a full ring, each a flush of its own, both ends spinning
 *   idle_stream  the same, both as idle as above
 *   memcpy       the same bytes into memory of the ring's size
 *
 * CPU time is that of both processes for an entry; pinned memory is what the kernel says of each.
 */
#include "base/idle.h"
#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"
#include "transport/memfd.h"
#include "transport/transport.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RING (16u << 20)
#define MEMORY 4096u
#define SECRET 0x62656e6368u
#define TRIPS_MAX 100000u
#define SMALL 24u            /* payload of an entry of 64 bytes */
#define LARGE (65536u - 40u) /* payload of an entry of 64 KiB */
/* As engine/receiver.c does: what nobody waits for is acked when this much has come. */
#define ACK_BYTES (RING / 8)
#define CONNECT_MS 10000u
#define PHASE_MS 60000u

/* How both ends wait in a phase. */
struct manner {
	uint32_t spins, yields;
	uint32_t acks_each; /* entry, since it is waited for */
};
/* Who spins lets others have its processor now and then, and never sleeps. */
static struct manner spinning = {1000, UINT32_MAX - 1000, 0};
static const struct manner idling = {20, 2, 0};

/* The standby's answer at a phase's end. */
struct costs {
	uint64_t cpu_ns, pinned;
};

static const struct provider *provider;
static const char *where;
/* What stands for a received frame, in memory that is lent to the log. */
static uint8_t payload[65536] __attribute__((aligned(4096)));

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

/* Bytes of this process that a device may reach. */
static uint64_t pinned(void)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *status = fopen("/proc/self/status", "r");
	REQUIRE(status);
	while (fgets(line, sizeof line, status) && sscanf(line, "VmPin: %llu", &kib) != 1)
		continue;
	fclose(status);
	return kib * 1024;
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
static void follow(struct connection *c, struct log_reader *reader, bool acks_each)
{
	struct idle idle = {.bell = provider->bell(c), .longest_ns = 1000000};
	uint64_t before = reader->next, consumed = before;
	for (bool at_end = false; !at_end;) {
		struct log_entry entry;
		idle_watch(&idle);
		for (unsigned n = 0; n < 16 && !at_end; n++) {
			if (log_reader_peek(reader, &entry) != LOG_VALID)
				break;
			log_reader_take(reader, &entry);
			at_end = entry.kind == LOG_END;
		}
		if (reader->next == before) {
			idle_pause(&idle);
			continue;
		}
		before = reader->next;
		idle_busy(&idle);
		bool much = before - consumed > ACK_BYTES;
		if (acks_each || much || at_end) {
			if (provider->write_ack(c, ACK_RECEIVED, before))
				return;
		}
		if (much || at_end) {
			consumed = before;
			if (provider->write_ack(c, ACK_CONSUMED, before))
				return;
		}
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
	struct manner manner;
	size_t length;
	while (provider->recv(c, &manner, sizeof manner, &length, PHASE_MS) == 0) {
		idle_configure(manner.spins, manner.yields);
		REQUIRE(provider->send(c, "", 0) == 0);
		uint64_t cpu = cpu_ns();
		follow(c, &reader, manner.acks_each);
		const struct costs costs = {.cpu_ns = cpu_ns() - cpu, .pinned = pinned()};
		REQUIRE(provider->send(c, &costs, sizeof costs) == 0);
	}
	provider->close(c);
	provider->listener_close(listener);
	return 0;
}

/* ---- The primary ---- */

struct primary {
	struct connection *c;
	struct log_writer *writer;
	struct idle idle;
	struct ack_reader consumed, received;
	uint64_t position;
	uint64_t entries; /* of this phase */
	uint64_t cpu;     /* when it began; of both, when it has ended */
	uint64_t their_pinned;
	uint64_t phase_ns;
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
	REQUIRE(provider->register_source(p->c, payload, sizeof payload) == 0);
	log_writer_lend(p->writer, payload, sizeof payload);
	p->idle = (struct idle){.bell = provider->bell(p->c), .longest_ns = 200000};
	p->consumed = p->received = (struct ack_reader){
		.block = provider->acks(p->c), .secret = SECRET, .counter = ACK_CONSUMED};
	p->received.counter = ACK_RECEIVED;
}

static void begin_phase(struct primary *p, struct manner manner)
{
	char nothing;
	size_t length;
	idle_configure(manner.spins, manner.yields);
	REQUIRE(provider->send(p->c, &manner, sizeof manner) == 0);
	REQUIRE(provider->recv(p->c, &nothing, 1, &length, PHASE_MS) == 0);
	p->entries = 0;
	p->cpu = cpu_ns();
}

static void await(struct primary *p, uint64_t lsn, bool is_placed)
{
	idle_busy(&p->idle);
	for (;;) {
		idle_watch(&p->idle);
		if ((is_placed ? provider->written(p->c)
			       : ack_read(&p->received, log_writer_flushed(p->writer))) >= lsn)
			return;
		idle_pause(&p->idle);
	}
}

/* Appends an entry and flushes it; the LSN behind it. */
static uint64_t append(struct primary *p, enum log_kind kind, const void *from, uint32_t length)
{
	int error;
	uint64_t end = 0;
	p->entries++;
	idle_busy(&p->idle);
	for (;;) {
		idle_watch(&p->idle);
		error = log_writer_append(p->writer, kind, p->position, 0, from, length, &end);
		if (error != -EAGAIN)
			break;
		idle_pause(&p->idle);
	}
	REQUIRE(error == 0);
	REQUIRE(log_writer_flush(p->writer) == 0);
	p->position++;
	return end;
}

/* All has been received. */
static void await_all(struct primary *p)
{
	struct log_ending ending = {.reason = LOG_END_STOPPED};
	await(p, append(p, LOG_END, &ending, sizeof ending), false);
}

/* CPU time of both ends for an entry, in us. */
static double end_phase(struct primary *p)
{
	struct costs theirs;
	size_t length;
	p->cpu = cpu_ns() - p->cpu;
	REQUIRE(provider->recv(p->c, &theirs, sizeof theirs, &length, PHASE_MS) == 0);
	p->their_pinned = theirs.pinned;
	return (double)(p->cpu + theirs.cpu_ns) / (double)p->entries / 1e3;
}

/* ---- Phases ---- */

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void measure_latency(struct primary *p, const char *name, struct manner manner)
{
	static double samples[TRIPS_MAX];
	bool is_placed = strcmp(name, "placed") == 0;
	unsigned count = 0;
	manner.acks_each = !is_placed;
	begin_phase(p, manner);
	for (uint64_t began = now_ns(), now = began; count < TRIPS_MAX && now - began < p->phase_ns;
		count++) {
		uint64_t before = now;
		await(p, append(p, LOG_CONSOLE_RX, payload, SMALL), is_placed);
		now = now_ns();
		samples[count] = (double)(now - before) / 1e3;
	}
	await_all(p);
	double cpu = end_phase(p);
	qsort(samples, count, sizeof samples[0], ascending);
	printf("%s_p50_us %.3f\n%s_p99_us %.3f\n%s_cpu_us %.3f\n", name, samples[count / 2], name,
		samples[count * 99 / 100], name, cpu);
}

/* In millions of bytes a second. */
static void measure_stream(struct primary *p, const char *name, struct manner manner)
{
	begin_phase(p, manner);
	uint64_t before = log_writer_head(p->writer), began = now_ns();
	do {
		append(p, LOG_NET_RX, payload, LARGE);
	} while (now_ns() - began < p->phase_ns);
	await_all(p);
	uint64_t ns = now_ns() - began;
	double rate = (double)(log_writer_head(p->writer) - before) * 1e3 / (double)ns;
	printf("%s_MBs %.3f\n%s_cpu_us %.3f\n", name, rate, name, end_phase(p));
}

static void measure_memcpy(const struct primary *p)
{
	static uint8_t *to;
	if (!to) {
		to = malloc(RING);
		REQUIRE(to);
		memset(to, 1, RING);
	}
	uint64_t began = now_ns(), bytes = 0;
	do {
		memcpy(to + bytes % RING, payload, sizeof payload);
		/* The copy is wanted, whatever the compiler thinks. */
		__asm__ volatile("" : : "r"(to) : "memory");
		bytes += sizeof payload;
	} while (now_ns() - began < p->phase_ns);
	printf("memcpy_MBs %.3f\n", (double)bytes * 1e3 / (double)(now_ns() - began));
}

static void run_phase(struct primary *p, const char *name)
{
	if (strcmp(name, "spinning") == 0 || strcmp(name, "placed") == 0)
		measure_latency(p, name, spinning);
	else if (strcmp(name, "idle") == 0)
		measure_latency(p, name, idling);
	else if (strcmp(name, "stream") == 0)
		measure_stream(p, name, spinning);
	else if (strcmp(name, "idle_stream") == 0)
		measure_stream(p, name, idling);
	else if (strcmp(name, "memcpy") == 0)
		measure_memcpy(p);
	else
		REQUIRE(!"a phase");
	fflush(stdout);
}

/* `words`: ROUNDS MS PHASE... */
static void be_primary(char **words, bool is_pinned)
{
	struct primary p;
	int rounds = atoi(words[0]);
	open_primary(&p);
	p.phase_ns = (uint64_t)atoi(words[1]) * 1000000u;
	if (is_pinned)
		take_processor(0);
	for (char **word = words + 2; *word; word++) {
		if (strcmp(*word, "placed") == 0)
			REQUIRE(provider->placed(p.c) == 0);
	}
	for (int round = 0; round < rounds; round++) {
		for (char **word = words + 2; *word; word++)
			run_phase(&p, *word);
	}
	printf("overhead_bytes %u\npinned_primary_MiB %.3f\npinned_standby_MiB %.3f\n",
		(unsigned)log_entry_size(0), (double)pinned() / (1 << 20),
		(double)p.their_pinned / (1 << 20));
	provider->close(p.c);
	log_writer_destroy(p.writer);
}

static void be_both(char **words)
{
	pid_t child = fork();
	REQUIRE(child >= 0);
	if (child == 0) {
		struct listener *listener;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		REQUIRE(provider->listen(where, &listener) == 0);
		exit(be_standby(listener, true));
	}
	be_primary(words, true);
	int status;
	REQUIRE(waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv)
{
	const char *role = argc >= 3 ? argv[1] : "";
	bool is_standby = argc == 3 && strcmp(role, "standby") == 0;
	bool is_both = argc >= 6 && strcmp(role, "both") == 0;
	if (!is_standby && !is_both && (argc < 6 || strcmp(role, "primary") != 0)) {
		fprintf(stderr, "usage: bench_transport both|primary ADDRESS ROUNDS MS PHASE... | "
				"standby ADDRESS\n");
		return 2;
	}
	if (provider_find(argv[2], &provider, &where) < 0) {
		fprintf(stderr, "bench_transport: %s\n", fail_message());
		return 2;
	}
	for (size_t i = 0; i < sizeof payload; i++)
		payload[i] = (uint8_t)(i * 131 >> 3);
	/* In an emulated machine the processor's pause takes the lock that its devices want. */
	if (!is_both)
		spinning = (struct manner){.yields = UINT32_MAX};
	if (is_standby) {
		struct listener *listener;
		REQUIRE(provider->listen(where, &listener) == 0);
		return be_standby(listener, false);
	}
	if (is_both)
		be_both(argv + 3);
	else
		be_primary(argv + 3, false);
	return 0;
}

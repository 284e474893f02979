/*
 * traffic: the client of a streaming guest (tests/guests/stream.c), at the other end of its port. One loop on one
 * thread; `traffic --help` says how it is used.
 */
#include "base/idle.h"
#include "base/thread.h"
#include "dataplane/frame.h"
#include "dataplane/port.h"
#include "perf/link.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEGMENT 1460u
#define HEADERS 54u
#define WINDOW_UNIT 4096u
#define QUEUE 64u                    /* frames that are made and not yet sent */
#define BURST 32u                    /* frames in or out in one go */
#define LARGE_SEGMENT (44 * SEGMENT) /* in one IPv4 packet */
#define SLEEP_NS 50000u
#define ANSWER_NS 20000000u     /* until a first answer is asked for again */
#define FIRST_NS 15000000000u   /* for the first one */
#define PATIENCE_NS 5000000000u /* without any progress */
#define LOOK_S 0.002
#define SAMPLES_MOST 4000000u
#define ECHO_PAYLOAD 64u
#define OWN_PORTS 32768u /* from here on; another one for each test */

enum { ECHO = 7, DISCARD = 9, CHARGEN = 19, LARGE = 1000 }; /* services */
enum { FORWARD = 0 };                                       /* every frame comes back */
/* Where things are in Ethernet, IPv4 and TCP. */
enum { AT_IP = 14, AT_IP_LENGTH = 16, AT_IP_CHECKSUM = 24, AT_TCP = 34 };
enum {
	AT_FROM = 34,
	AT_TO = 36,
	AT_SEQUENCE = 38,
	AT_ACKNOWLEDGED = 42,
	AT_FLAGS = 47,
	AT_WINDOW = 48
};
enum { SYN = 0x02 };

enum { STATUS_OK = 0, STATUS_USAGE = 2, STATUS_PORT = 3, STATUS_GUEST = 4 };

struct frame {
	uint8_t bytes[FRAME_HEADER + HEADERS + LARGE_SEGMENT];
	uint32_t length, payload;
};

static struct {
	const char *port;
	double rate, seconds, warmup;
	uint32_t window;
	char **tests;
} options = {.seconds = 1, .warmup = 0.3, .window = 1u << 20};

static struct port *port;
static struct link to_guest, from_guest;
static struct bell never;
static struct idle idle = {.bell = &never, .longest_ns = SLEEP_NS};

/* Frames in the order in which they go. */
static struct frame queue[QUEUE];
static unsigned queued, sent; /* ever */

static struct {
	uint16_t own;           /* port, of this connection alone */
	uint16_t port, service; /* as the port says, large or not */
	uint32_t segment;
	uint32_t next, acknowledged;       /* what is sent to discard */
	uint32_t expected, unacknowledged; /* what comes from chargen */
	uint64_t payload, frames;          /* of the stream, as far as it is sure */
	uint64_t disorder;
	bool answered;
	uint32_t echo; /* number of the newest request */
} stream;

static void write_headers(
	uint8_t *frame, uint32_t sequence, uint32_t acknowledged, uint8_t flags, uint32_t payload)
{
	static const uint8_t constant[HEADERS] = {0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08,
		0, [14] = 0x45, [22] = 64, [23] = 6, [26] = 10, 77, 0, 1, 10, 77, 0,
		2, [46] = 0x50};
	memcpy(frame, constant, HEADERS);
	frame_put16(frame + AT_IP_LENGTH, HEADERS - ETHER_HEADER + payload);
	frame_put16(frame + AT_IP_CHECKSUM, (uint16_t)~frame_fold(frame_sum(0, frame + AT_IP, 20)));
	frame_put16(frame + AT_FROM, stream.own);
	frame_put16(frame + AT_TO, stream.port);
	frame_put32(frame + AT_SEQUENCE, sequence);
	frame_put32(frame + AT_ACKNOWLEDGED, acknowledged);
	frame[AT_FLAGS] = flags;
	frame_put16(frame + AT_WINDOW, options.window / WINDOW_UNIT);
	struct frame_tcp tcp = {.ip = AT_IP, .tcp = AT_TCP, .payload = HEADERS};
	frame_put16(frame + AT_TCP + TCP_CHECKSUM,
		frame_fold(frame_pseudo_sum(frame, &tcp, 20 + payload)));
}

static bool has_room(void)
{
	return queued - sent < QUEUE;
}

static void put(uint32_t sequence, uint32_t acknowledged, uint8_t flags, uint32_t payload)
{
	struct frame *frame = &queue[queued++ % QUEUE];
	struct frame_header header = {.flags = FRAME_NEEDS_CHECKSUM,
		.checksum_start = AT_TCP,
		.checksum_offset = TCP_CHECKSUM};
	if (payload > SEGMENT) {
		header.gso_type = FRAME_TCP4;
		header.gso_size = SEGMENT;
		header.header_length = HEADERS;
	}
	memcpy(frame->bytes, &header, sizeof header);
	write_headers(frame->bytes + FRAME_HEADER, sequence, acknowledged, flags, payload);
	frame->length = FRAME_HEADER + HEADERS + payload;
	frame->payload = payload;
}

/* What the wire carries of a frame that is cut. */
static void take_link(struct link *link, uint64_t now, uint32_t payload)
{
	do {
		uint32_t piece = payload < SEGMENT ? payload : SEGMENT;
		link_take(link, now, HEADERS + piece);
		payload -= piece;
	} while (payload > 0);
}

static bool transmit(void)
{
	struct hold_output outputs[BURST];
	unsigned count = 0;
	uint64_t now = now_ns();
	struct link ahead = to_guest;
	for (; count < BURST && sent + count != queued && link_is_free(&ahead, now); count++) {
		const struct frame *frame = &queue[(sent + count) % QUEUE];
		outputs[count] = (struct hold_output){frame->bytes, frame->length};
		take_link(&ahead, now, frame->payload);
	}
	if (count == 0) {
		if (link_is_free(&to_guest, now))
			link_rest(&to_guest, now);
		return false;
	}
	unsigned taken = port_send(port, outputs, count);
	if (taken == 0)
		link_rest(&to_guest, now);
	for (unsigned i = 0; i < taken; i++)
		take_link(&to_guest, now, queue[sent++ % QUEUE].payload);
	return taken > 0;
}

static void take_frame(const uint8_t *frame, uint32_t length)
{
	if (stream.service == FORWARD) {
		stream.frames++;
		stream.payload += length;
		return;
	}
	uint32_t end = ETHER_HEADER + frame_get16(frame + AT_IP_LENGTH);
	if (length < HEADERS || frame_get16(frame + AT_FROM) != stream.port ||
		frame_get16(frame + AT_TO) != stream.own || end < HEADERS || end > length)
		return;
	uint32_t payload = end - HEADERS;
	stream.answered = true;
	switch (stream.service) {
	case DISCARD: {
		uint32_t acknowledged = frame_get32(frame + AT_ACKNOWLEDGED);
		int32_t more = (int32_t)(acknowledged - stream.acknowledged);
		if (more > 0)
			stream.payload += (uint32_t)more;
		stream.acknowledged = acknowledged;
		break;
	}
	case CHARGEN:
		if (frame_get32(frame + AT_SEQUENCE) != stream.expected)
			stream.disorder++;
		stream.expected = frame_get32(frame + AT_SEQUENCE) + payload;
		stream.payload += payload;
		stream.frames++;
		stream.unacknowledged += payload;
		break;
	default:
		if (payload >= 4)
			stream.echo = frame_get32(frame + HEADERS);
		break;
	}
}

static bool receive(void)
{
	struct port_frame frames[BURST];
	uint64_t now = now_ns();
	if (!link_is_free(&from_guest, now))
		return false;
	unsigned count = port_receive(port, frames, BURST, false);
	if (count == 0)
		link_rest(&from_guest, now);
	for (unsigned i = 0; i < count; i++) {
		uint32_t length = frames[i].length - FRAME_HEADER;
		link_take(&from_guest, now, length);
		take_frame((const uint8_t *)frames[i].bytes + FRAME_HEADER, length);
		port_frame_free(&frames[i]);
		/* TCP's, for every second full segment. */
		if (stream.service == CHARGEN && stream.unacknowledged >= 2 * stream.segment &&
			has_room()) {
			put(0, stream.expected, TCP_ACK, 0);
			stream.unacknowledged = 0;
		}
	}
	return count > 0;
}

/* What is pushed is not merged on its way (dataplane/gro.h). */
static uint8_t data_flags(void)
{
	return stream.segment > SEGMENT ? TCP_ACK : TCP_ACK | TCP_PSH;
}

static bool pass(void)
{
	bool busy = receive();
	while (stream.service == DISCARD && stream.answered && has_room() &&
		stream.next - stream.acknowledged + stream.segment <= options.window) {
		put(stream.next, 0, data_flags(), stream.segment);
		stream.next += stream.segment;
	}
	/* The same frames again: nothing is to be made. */
	if (stream.service == FORWARD)
		queued = sent + QUEUE;
	busy |= transmit();
	if (busy)
		idle_busy(&idle);
	else
		idle_pause(&idle);
	return busy;
}

/* The first answer: the guest may not be there yet. */
static int begin(uint16_t service, bool is_large)
{
	uint64_t began = now_ns(), asked = 0;
	memset(&stream, 0, sizeof stream);
	stream.own = (uint16_t)(OWN_PORTS + began / 1000 % (UINT16_MAX - OWN_PORTS));
	stream.service = service;
	stream.port = (uint16_t)(service + (is_large ? LARGE : 0));
	stream.segment = is_large ? LARGE_SEGMENT : SEGMENT;
	while (!stream.answered) {
		uint64_t now = now_ns();
		if (now - began > FIRST_NS)
			return fail(ETIMEDOUT, "no guest answers at %s", options.port);
		if (now - asked > ANSWER_NS && has_room()) {
			asked = now;
			put(0, 0, SYN, 0);
			if (service == DISCARD)
				put(0, 0, data_flags(), stream.next = stream.segment);
			else if (service == ECHO)
				put(0, 0, TCP_ACK, ECHO_PAYLOAD);
		}
		pass();
	}
	return 0;
}

/* Lets the stream go on for that long. */
static int run(double seconds, uint64_t *payload, double *took)
{
	uint64_t began = now_ns(), progress = began, before = stream.payload, seen = before, now;
	do {
		pass();
		now = now_ns();
		if (stream.payload != seen) {
			seen = stream.payload;
			progress = now;
		} else if (now - progress > PATIENCE_NS) {
			return fail(ETIMEDOUT, "the stream stands still behind %" PRIu64 " bytes",
				seen);
		}
	} while ((double)(now - began) < seconds * 1e9);
	*payload = stream.payload - before;
	*took = (double)(now - began) / 1e9;
	return 0;
}

static void tell(const char *what, const char *name)
{
	printf("%s %s\n", what, name);
	fflush(stdout);
}

/* Whoever watches answers with a line, or the input's end. */
static bool is_answered(bool wait)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	char byte;
	while (poll(&input, 1, wait ? -1 : 0) > 0)
		if (read(STDIN_FILENO, &byte, 1) <= 0 || byte == '\n')
			return true;
	return false;
}

/* Nothing moves until whoever watches has seen the end. */
static void tell_end(const char *name)
{
	tell("end", name);
	is_answered(true);
}

/* The stream goes on until whoever watches has seen where the test begins. */
static int tell_begin(const char *name)
{
	uint64_t payload;
	double took;
	int error = 0;
	tell("begin", name);
	while (!error && !is_answered(false))
		error = run(LOOK_S, &payload, &took);
	return error;
}

static int measure_stream(const char *name, uint16_t service, bool is_large)
{
	uint64_t payload;
	double took;
	int error = begin(service, is_large);
	if (!error)
		error = run(options.warmup, &payload, &took);
	uint64_t disorder = stream.disorder;
	if (!error)
		error = tell_begin(name);
	if (!error)
		error = run(options.seconds, &payload, &took);
	if (error)
		return error;
	tell_end(name);
	printf("%s.mbit %.1f\n", name, (double)payload * 8 / took / 1e6);
	if (stream.disorder != disorder)
		return fail(EPROTO, "%s: %" PRIu64 " frames out of order", name,
			stream.disorder - disorder);
	return 0;
}

/* Frames of 60 bytes, as many as come back. */
static int measure_forward(const char *name)
{
	uint64_t payload;
	double took;
	memset(&stream, 0, sizeof stream);
	for (queued = sent = 0; queued < QUEUE;) {
		put(0, 0, 0, LINK_FRAME_LEAST - HEADERS);
		memset(queue[queued - 1].bytes, 0, FRAME_HEADER);
	}
	int error = run(options.warmup, &payload, &took);
	if (!error)
		error = tell_begin(name);
	uint64_t before = stream.frames;
	if (!error)
		error = run(options.seconds, &payload, &took);
	tell_end(name);
	if (!error)
		printf("%s.mpps %.3f\n", name, (double)(stream.frames - before) / took / 1e6);
	return error;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static int measure_echo(const char *name)
{
	static uint32_t samples[SAMPLES_MOST]; /* ns */
	unsigned count = 0;
	int error = begin(ECHO, false);
	uint64_t began = now_ns(), now = began;
	bool told = false, counts = false;
	for (uint32_t number = 1; !error && count < SAMPLES_MOST; number++) {
		uint64_t asked = now_ns();
		if (counts && (double)(asked - began) > options.seconds * 1e9)
			break;
		if (!told && (double)(asked - began) > options.warmup * 1e9) {
			told = true;
			tell("begin", name);
		} else if (told && !counts && is_answered(false)) {
			counts = true;
			began = asked;
		}
		put(number, 0, TCP_ACK, ECHO_PAYLOAD);
		frame_put32(queue[(queued - 1) % QUEUE].bytes + FRAME_HEADER + HEADERS, number);
		while (stream.echo != number) {
			pass();
			now = now_ns();
			if (now - asked > PATIENCE_NS)
				return fail(ETIMEDOUT, "request %u has no answer", number);
		}
		now = now_ns();
		if (counts)
			samples[count++] = (uint32_t)(now - asked);
	}
	if (error)
		return error;
	tell_end(name);
	if (count == 0)
		return fail(ETIMEDOUT, "no request was answered in time");
	qsort(samples, count, sizeof samples[0], compare);
	static const struct {
		const char *name;
		double share;
	} quantiles[] = {{"p1", 0.01}, {"p10", 0.1}, {"p25", 0.25}, {"p50", 0.5}, {"p75", 0.75},
		{"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
	for (unsigned i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++)
		printf("%s.%s_us %.1f\n", name, quantiles[i].name,
			samples[(size_t)(count * quantiles[i].share)] / 1e3);
	printf("%s.requests %u\n", name, count);
	return 0;
}

static int measure(const char *test)
{
	if (strcmp(test, "transmit") == 0)
		return measure_stream(test, CHARGEN, false);
	if (strcmp(test, "transmit-large") == 0)
		return measure_stream(test, CHARGEN, true);
	if (strcmp(test, "receive") == 0)
		return measure_stream(test, DISCARD, false);
	if (strcmp(test, "receive-large") == 0)
		return measure_stream(test, DISCARD, true);
	if (strcmp(test, "echo") == 0)
		return measure_echo(test);
	if (strcmp(test, "forward") == 0)
		return measure_forward(test);
	return fail(EINVAL,
		"%s is no test: give transmit, receive, either with -large, echo or forward", test);
}

static double number(struct argp_state *state, const char *name, const char *text, double least)
{
	char *end;
	double value = strtod(text, &end);
	if (end == text || *end || !(value >= least) || value > 1e12)
		argp_error(state, "--%s %s: give a number, at least %g", name, text, least);
	return value;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	double window;
	switch (key) {
	case 'p':
		options.port = value;
		return 0;
	case 'r':
		options.rate = number(state, "rate", value, 0);
		return 0;
	case 's':
		options.seconds = number(state, "seconds", value, 0.01);
		return 0;
	case 'w':
		window = number(state, "window", value, 2 * LARGE_SEGMENT);
		if (window > UINT16_MAX * WINDOW_UNIT)
			argp_error(state, "--window %s: give at most %u", value,
				UINT16_MAX * WINDOW_UNIT);
		options.window = (uint32_t)window;
		return 0;
	case ARGP_KEY_ARGS:
		options.tests = state->argv + state->next;
		return 0;
	case ARGP_KEY_END:
		if (!options.port || !options.tests)
			argp_error(state, "give --port and a test");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp_option described[] = {
		{"port", 'p', "DEVICE", 0, "the client's DPDK port, as in doppel --net", 0},
		{"rate", 'r', "BITS", 0,
			"a second, that the link carries in each direction (0: no limit)", 0},
		{"seconds", 's', "S", 0, "how long each test is measured (1)", 0},
		{"window", 'w', "BYTES", 0, "that may be on their way (1 MiB)", 0}, {0}};
	static const struct argp argp = {.options = described,
		.parser = parse,
		.args_doc = "TEST...",
		.doc = "Measures a streaming guest: transmit, transmit-large, receive, "
		       "receive-large, echo, in the order given; or, beside whatever sends "
		       "back all that comes, forward. One figure a line. Before each test and "
		       "after it, it waits for a line on its standard input, and in the end "
		       "for the input's end: until then it keeps its port.\v"
		       "Exit status: 0 measured, 2 usage, 3 the port, 4 the guest."};
	argp_err_exit_status = STATUS_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, NULL);
	port_block_signals();
	thread_is_prompt();
	if (port_open(&port, options.port) < 0) {
		say("%s", fail_message());
		return STATUS_PORT;
	}
	link_start(&to_guest, options.rate);
	link_start(&from_guest, options.rate);
	int error = 0;
	for (char **test = options.tests; *test && !error; test++) {
		error = measure(*test);
		fflush(stdout);
	}
	if (error)
		say("%s", fail_message());
	else
		tell("done", "");
	/* A port that goes while its other end is in use may take that along. */
	char rest[64];
	while (read(STDIN_FILENO, rest, sizeof rest) > 0)
		;
	port_close(port);
	return error ? STATUS_GUEST : STATUS_OK;
}

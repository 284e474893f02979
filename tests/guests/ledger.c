/*
 * ledger: a network service whose answers a client can check, through a failover too.
 *
 * Command line: ip=A.B.C.D, its address (10.77.0.2); compute=TICKS, so many of its timer's ticks that it
 * computes between two looks at its network, without leaving and with interrupts on (0). It answers ARP and ICMP echo, echoes UDP port
 * 7 (RFC 862), and serves UDP port 4000: one datagram a request, text, a newline at the end.
 *
 *   ADD <id> <amount>   OK <id> <total>
 *   GET                 TOTAL <total> <count of ids>
 *   TIME                TIME <nanoseconds>, by a clock that never goes back
 *   FILL <bytes>        that many bytes, FILL_MAX at most, in datagrams of UDP_PAYLOAD_MAX
 *   anything else       ERR <reason>
 *
 * An id, 0 to 2^64-1, counts once: a repeated one gets the answer it got first, if it is among the
 * last BOOK_REMEMBERED. Amounts and totals are signed, of 64 bits. One FILL runs at a time; another
 * one meanwhile is told so.
 *
 * Every second it writes a line to the UART.
 *
 * One loop serves; interrupts only end its sleep. It sleeps with nothing to do, and is interrupted
 * by the network only then, so under load a request costs no interrupt and a fraction of an exit.
 */
#include "tests/guests/book.h"
#include "tests/guests/ip.h"
#include "tests/guests/net.h"
#include "tests/guests/runtime.h"
#include "tests/guests/text.h"

#include <stdatomic.h>

#define HZ 100u
#define FILL_MAX (16u << 20)
#define PORT_ECHO 7
#define PORT_LEDGER 4000

/* Packets received, or sent for FILL, before the device is told of what is to be sent. */
#define BATCH 16u

static _Atomic uint64_t ticks;
static uint64_t seconds, requests;

/* One FILL at a time: where to, and how much is left. */
static struct {
	struct udp_headers headers;
	uint64_t left;
} filling;
static char fill_payload[UDP_PAYLOAD_MAX];

void on_interrupt(unsigned line, const struct registers *interrupted)
{
	(void)interrupted;
	if (line == LINE_PIT) /* nobody else writes it, so no locked addition */
		atomic_store_explicit(&ticks,
			atomic_load_explicit(&ticks, memory_order_relaxed) + 1,
			memory_order_relaxed);
	else if (line == LINE_NET)
		net_acknowledge();
}

static void add(struct reader *request, struct text *answer)
{
	uint64_t id;
	int64_t amount, total;
	if (!take_unsigned(request, &id) || !take(request, " ") || !take_signed(request, &amount) ||
		!take(request, "\n") || !reader_done(request)) {
		text_put(answer, "ERR ADD takes an id from 0 to 2^64-1 and an amount of 64 bits\n");
		return;
	}
	if (!book_add(id, amount, &total)) {
		text_put(answer, "ERR the total would not fit into 64 bits\n");
		return;
	}
	text_put(answer, "OK ");
	text_put_unsigned(answer, id);
	text_put(answer, " ");
	text_put_signed(answer, total);
	text_put(answer, "\n");
}

static void get(struct text *answer)
{
	text_put(answer, "TOTAL ");
	text_put_signed(answer, book.total);
	text_put(answer, " ");
	text_put_unsigned(answer, book.count);
	text_put(answer, "\n");
}

static void tell_time(struct text *answer)
{
	text_put(answer, "TIME ");
	text_put_unsigned(answer, clock_ns());
	text_put(answer, "\n");
}

/* Leaves the answer empty when it is the filling itself. */
static void fill(struct reader *request, struct text *answer, const struct udp_headers *asker)
{
	uint64_t bytes;
	if (!take_unsigned(request, &bytes) || !take(request, "\n") || !reader_done(request) ||
		bytes == 0 || bytes > FILL_MAX) {
		text_put(answer, "ERR FILL takes 1 to 16777216 bytes\n");
		return;
	}
	if (filling.left) {
		text_put(answer, "ERR busy with another FILL\n");
		return;
	}
	filling.headers = *asker;
	udp_turn(&filling.headers);
	udp_set_length(&filling.headers, UDP_PAYLOAD_MAX);
	filling.left = bytes;
}

static void serve(struct packet *packet, char *payload, size_t length)
{
	struct reader request = {payload, payload + length};
	/* The request is read to its end before the answer takes its place. */
	struct text answer = text_into(payload, UDP_PAYLOAD_MAX);
	requests++;
	if (take(&request, "ADD "))
		add(&request, &answer);
	else if (take(&request, "GET\n") && reader_done(&request))
		get(&answer);
	else if (take(&request, "TIME\n") && reader_done(&request))
		tell_time(&answer);
	else if (take(&request, "FILL "))
		fill(&request, &answer, (const struct udp_headers *)packet->frame);
	else
		text_put(&answer,
			"ERR requests are ADD, GET, TIME and FILL, with a newline at the end\n");
	if (answer.length)
		udp_answer(packet, answer.length);
	else
		net_drop(packet);
}

void on_datagram(struct packet *packet, uint16_t port, char *payload, size_t length)
{
	if (port == PORT_LEDGER)
		serve(packet, payload, length);
	else if (port == PORT_ECHO)
		udp_answer(packet, length);
	else
		net_drop(packet);
}

static bool receive_some(void)
{
	unsigned received = 0;
	struct packet *packet;
	while (received < BATCH && (packet = net_receive())) {
		ip_input(packet);
		received++;
	}
	return received;
}

static bool fill_some(void)
{
	unsigned sent = 0;
	while (filling.left && sent < BATCH && net_room()) {
		struct packet *packet = net_packet();
		size_t length = UDP_PAYLOAD_MAX;
		if (filling.left < length) {
			length = filling.left;
			udp_set_length(&filling.headers, length);
		}
		__builtin_memcpy(packet->frame, &filling.headers, sizeof filling.headers);
		packet->length = sizeof filling.headers;
		/* All datagrams share one payload, which is not even copied. */
		net_send(packet, fill_payload, (uint32_t)length);
		filling.left -= length;
		sent++;
	}
	return sent;
}

static bool second_is_over(void)
{
	return atomic_load_explicit(&ticks, memory_order_relaxed) >= (seconds + 1) * HZ;
}

static void report(void)
{
	char line[128];
	struct text text = text_into(line, sizeof line);
	seconds++;
	text_put(&text, "ledger: t=");
	text_put_unsigned(&text, seconds);
	text_put(&text, "s requests=");
	text_put_unsigned(&text, requests);
	text_put(&text, " total=");
	text_put_signed(&text, book.total);
	text_put(&text, "\n");
	uart_write(line, text.length);
}

static void sleep(void)
{
	interrupts_off();
	if (net_listen(filling.left != 0) && !second_is_over())
		wait_for_interrupt();
	else
		interrupts_on();
}

/* An IPv4 address in host order; false when it is not one. */
static bool take_address(struct reader *reader, uint32_t *address)
{
	*address = 0;
	for (unsigned i = 0; i < 4; i++) {
		uint64_t byte;
		if ((i && !take(reader, ".")) || !take_unsigned(reader, &byte) || byte > 255)
			return false;
		*address = *address << 8 | (uint32_t)byte;
	}
	return reader_done(reader);
}

static void announce(uint32_t address)
{
	char line[128];
	struct text text = text_into(line, sizeof line);
	text_put(&text, "ledger: ready ip=");
	for (unsigned i = 0; i < 4; i++) {
		text_put(&text, i ? "." : "");
		text_put_unsigned(&text, address >> (24 - 8 * i) & 255);
	}
	text_put(&text, " mac=");
	for (unsigned i = 0; i < 6; i++) {
		text_put(&text, i ? ":" : "");
		text_put_hex(&text, net_mac[i], 2);
	}
	text_put(&text, "\n");
	uart_write(line, text.length);
}

/* Works until so many ticks have come: for ever, if nobody interrupts it. What it works on must stay as it
 * left it. */
static void compute(uint64_t wanted)
{
	static uint64_t work[2][4 * 512];
	uint64_t until = atomic_load_explicit(&ticks, memory_order_relaxed) + wanted;
	for (uint64_t i = 0; atomic_load_explicit(&ticks, memory_order_relaxed) < until; i++) {
		uint64_t at = i * 257 % (4 * 512);
		if (work[0][at] != work[1][at])
			power_off(3);
		work[0][at] = work[1][at] = work[0][at] * 5 + i;
	}
}

int guest_main(uint64_t memory_size, const char *command_line)
{
	(void)memory_size;
	uint32_t address = 10u << 24 | 77u << 16 | 0u << 8 | 2u;
	struct reader given;
	uint64_t work = option_unsigned(command_line, "compute", 0);
	uart_start();
	if (option(command_line, "ip", &given) && !take_address(&given, &address)) {
		print("ledger: ip= takes an IPv4 address, such as ip=10.77.0.2");
		return 2;
	}
	const char *problem = net_start(0);
	if (problem) {
		uart_write("ledger: ", 8);
		print(problem);
		return 1;
	}
	ip_start(address);
	for (size_t i = 0; i < sizeof fill_payload; i++)
		fill_payload[i] = (char)('a' + i % 26);
	pic_start(1 << LINE_PIT | 1 << LINE_NET, true);
	pit_start(PIT_HZ / HZ);
	announce(address);
	interrupts_on();
	for (;;) {
		bool received = receive_some();
		bool filled = fill_some();
		net_flush();
		if (second_is_over())
			report();
		if (work)
			compute(work);
		if (!received && !filled)
			sleep();
	}
}

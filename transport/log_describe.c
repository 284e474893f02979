#include "transport/log_describe.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ETHERNET_HEADER 14u
#define PROTOCOL_TCP 6u
#define PROTOCOL_UDP 17u
#define PROTOCOL_ICMP 1u
#define PROTOCOL_ICMP6 58u

/* A line that grows; what finds no room is left out. */
struct line {
	char *text;
	size_t size;
};

__attribute__((format(printf, 2, 3))) static void add(
	const struct line *line, const char *format, ...)
{
	size_t used = strlen(line->text);
	va_list args;
	va_start(args, format);
	vsnprintf(line->text + used, line->size - used, format, args);
	va_end(args);
}

static const char *plural(uint32_t count)
{
	return count == 1 ? "" : "s";
}

static void add_text(const struct line *line, const uint8_t *bytes, uint32_t length)
{
	uint32_t shown = length < 32 ? length : 32;
	add(line, "\"");
	for (uint32_t i = 0; i < shown; i++) {
		if (bytes[i] >= ' ' && bytes[i] < 0x7f && bytes[i] != '"' && bytes[i] != '\\')
			add(line, "%c", bytes[i]);
		else
			add(line, "\\x%02x", bytes[i]);
	}
	add(line, shown < length ? "\"..." : "\"");
}

/* ---- frames ---- */

/* The rest of a frame, whose sender may have written anything into it. */
struct bytes {
	const uint8_t *at;
	uint32_t length;
};

static uint32_t number16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static void add_mac(const struct line *line, const uint8_t *mac)
{
	add(line, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

static void add_address(const struct line *line, int family, const uint8_t *address)
{
	char text[INET6_ADDRSTRLEN];
	add(line, "%s", inet_ntop(family, address, text, sizeof text));
}

static void add_arp(const struct line *line, struct bytes arp)
{
	/* Of IPv4 over Ethernet. */
	if (arp.length < 28 || memcmp(arp.at, "\0\1\x08\0\6\4", 6) != 0) {
		add(line, "ARP");
	} else if (number16(arp.at + 6) == 1) {
		add(line, "ARP, ");
		add_address(line, AF_INET, arp.at + 14);
		add(line, " asks who has ");
		add_address(line, AF_INET, arp.at + 24);
	} else {
		add(line, "ARP, ");
		add_address(line, AF_INET, arp.at + 14);
		add(line, " is at ");
		add_mac(line, arp.at + 8);
	}
}

static void add_flags(const struct line *line, uint8_t flags)
{
	static const char *const names[] = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"};
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (flags & 1u << i)
			add(line, " %s", names[i]);
	}
}

/* What lies in an IP packet, `from` and `to` whose addresses it goes. */
static void add_packet(const struct line *line, int family, const uint8_t *from, const uint8_t *to,
	unsigned protocol, struct bytes body)
{
	bool is_tcp = protocol == PROTOCOL_TCP && body.length >= 20;
	bool is_udp = protocol == PROTOCOL_UDP && body.length >= 8;
	const char *opening = family == AF_INET6 ? "[" : "",
		   *closing = family == AF_INET6 ? "]" : "";
	if (is_tcp || is_udp) {
		add(line, "%s %s", is_tcp ? "TCP" : "UDP", opening);
		add_address(line, family, from);
		add(line, "%s:%u to %s", closing, number16(body.at), opening);
		add_address(line, family, to);
		add(line, "%s:%u", closing, number16(body.at + 2));
	} else {
		add(line, "IP ");
		add_address(line, family, from);
		add(line, " to ");
		add_address(line, family, to);
	}
	if (is_tcp) {
		uint32_t header = (uint32_t)(body.at[12] >> 4) * 4;
		uint32_t data = header <= body.length ? body.length - header : 0;
		add_flags(line, body.at[13]);
		add(line, ", %u byte%s", data, plural(data));
	} else if (is_udp) {
		add(line, ", %u byte%s", body.length - 8, plural(body.length - 8));
	} else if (protocol == PROTOCOL_ICMP && body.length > 0) {
		add(line, ", ICMP %s",
			body.at[0] == 8   ? "echo request"
			: body.at[0] == 0 ? "echo reply"
					  : "message");
	} else if (protocol == PROTOCOL_ICMP6 && body.length > 0) {
		add(line, ", ICMPv6 type %u", body.at[0]);
	} else {
		add(line, ", protocol %u", protocol);
	}
}

/* Without what pads a short frame. */
static struct bytes behind(struct bytes packet, uint32_t header, uint32_t total)
{
	uint32_t end = total < packet.length ? total : packet.length;
	return (struct bytes){packet.at + header, end > header ? end - header : 0};
}

static void add_ipv4(const struct line *line, struct bytes packet)
{
	uint32_t header = packet.length >= 20 ? (uint32_t)(packet.at[0] & 15) * 4 : 0;
	if (header < 20 || header > packet.length || packet.at[0] >> 4 != 4) {
		add(line, "IPv4, damaged");
		return;
	}
	struct bytes body = behind(packet, header, number16(packet.at + 2));
	bool is_rest = (number16(packet.at + 6) & 0x1fff) != 0;
	if (is_rest) /* of a packet whose ports came with its first fragment */
		body.length = 0;
	add_packet(line, AF_INET, packet.at + 12, packet.at + 16, packet.at[9], body);
	if (is_rest)
		add(line, ", a later fragment");
}

static void add_ipv6(const struct line *line, struct bytes packet)
{
	if (packet.length < 40 || packet.at[0] >> 4 != 6) {
		add(line, "IPv6, damaged");
		return;
	}
	struct bytes body = behind(packet, 40, 40 + number16(packet.at + 4));
	add_packet(line, AF_INET6, packet.at + 8, packet.at + 24, packet.at[6], body);
}

static void add_frame(const struct line *line, struct bytes frame)
{
	uint32_t type = number16(frame.at + 12);
	struct bytes rest = {frame.at + ETHERNET_HEADER, frame.length - ETHERNET_HEADER};
	add(line, "frame of %u bytes, ", frame.length);
	switch (type) {
	case 0x0806:
		add_arp(line, rest);
		break;
	case 0x0800:
		add_ipv4(line, rest);
		break;
	case 0x86dd:
		add_ipv6(line, rest);
		break;
	default:
		add(line, "Ethernet type %04x from ", type);
		add_mac(line, frame.at + 6);
		add(line, " to ");
		add_mac(line, frame.at);
		break;
	}
}

/* ---- entries ---- */

const char *log_time(uint64_t time_ns, char text[LOG_TIME_TEXT])
{
	if (time_ns == LOG_NO_TIME)
		return strcpy(text, "-");
	snprintf(text, LOG_TIME_TEXT, "%llu.%06llu", (unsigned long long)(time_ns / 1000000000u),
		(unsigned long long)(time_ns % 1000000000u / 1000));
	return text;
}

bool log_tells_time(const struct log_entry *entry, uint64_t *time_ns)
{
	struct log_tick tick;
	if (entry->kind == LOG_TICK && entry->length == sizeof tick) {
		memcpy(&tick, entry->payload, sizeof tick);
		*time_ns = tick.time_ns;
		return true;
	}
	if (entry->kind == LOG_CLOCK && entry->length == sizeof *time_ns) {
		memcpy(time_ns, entry->payload, sizeof *time_ns);
		return true;
	}
	return false;
}

static void add_tick(const struct line *line, const struct log_entry *entry)
{
	struct log_tick tick;
	memcpy(&tick, entry->payload, sizeof tick);
	if (tick.timer == LOG_TIMER_PIT)
		add(line, "the PIT");
	else if (tick.timer == LOG_TIMER_CMOS)
		add(line, "the CMOS clock");
	else
		add(line, "timer %u", tick.timer);
	add(line, " has ticked ");
	if (tick.count == 1)
		add(line, "once");
	else
		add(line, "%u times", tick.count);
}

static void add_device(const struct line *line, uint32_t device)
{
	if (device == LOG_DEVICE_NET)
		add(line, "the network");
	else if (device == LOG_DEVICE_CONSOLE)
		add(line, "the console");
	else
		add(line, "device %u", device);
}

static void add_released(const struct line *line, const struct log_entry *entry)
{
	struct log_released gone;
	memcpy(&gone, entry->payload, sizeof gone);
	add(line, "outputs to ");
	add_device(line, gone.device);
	add(line, " up to LSN %llu have left", (unsigned long long)gone.lsn);
}

static void add_output(const struct line *line, const struct log_entry *entry)
{
	struct log_output output;
	memcpy(&output, entry->payload, sizeof output);
	const char *what = output.device == LOG_DEVICE_NET ? "frame" : "output";
	add(line, "%u %s%s to ", output.count, what, plural(output.count));
	add_device(line, output.device);
	add(line, " with digest %016llx", (unsigned long long)output.digest);
}

static void add_ending(const struct line *line, const struct log_entry *entry)
{
	static const char *const reasons[] = {
		[LOG_END_POWER] = "the guest switched its machine off",
		[LOG_END_SHUTDOWN] = "the guest died of a triple fault",
		[LOG_END_HALT] = "the guest halted with interrupts off",
		[LOG_END_STOPPED] = "somebody stopped the machine",
		[LOG_END_RESTART] = "the guest asked for a restart"};
	struct log_ending ending;
	memcpy(&ending, entry->payload, sizeof ending);
	if (ending.reason < sizeof reasons / sizeof reasons[0])
		add(line, "%s", reasons[ending.reason]);
	else
		add(line, "for reason %u", ending.reason);
	if (ending.reason == LOG_END_POWER)
		add(line, " with value %u", ending.value);
}

static void add_frames(const struct line *line, const struct log_entry *entry)
{
	struct log_frame frame, first = {0};
	uint32_t at = 0, frames = 0, bytes = 0;
	for (; log_frame_next(entry, &at, &frame); frames++, bytes += frame.length)
		if (frames == 0)
			first = frame;
	if (frames != 1)
		add(line, "%u frames of %u bytes in all", frames, bytes);
	if (frames > 1)
		add(line, ", the first a ");
	if (frames > 0)
		add_frame(line, (struct bytes){first.bytes, first.length});
	if (frames > 0 && first.header[1])
		add(line, ", merged of segments of %u bytes", first.header[4] | (unsigned)first.header[5] << 8);
}

void log_describe(const struct log_entry *entry, uint64_t time_ns, char *text, size_t size)
{
	const struct line line = {text, size};
	char time[LOG_TIME_TEXT];
	uint64_t word = 0;
	if (size == 0)
		return;
	text[0] = '\0';
	add(&line, "lsn=%llu pos=%llu time=%s %s len=%u digest=%08x",
		(unsigned long long)entry->lsn, (unsigned long long)entry->position,
		log_time(time_ns, time), log_kind_name(entry->kind), entry->length, entry->digest);
	if (!log_length_allowed(entry->kind, entry->length))
		return;
	add(&line, ": ");
	if (entry->length >= sizeof word)
		memcpy(&word, entry->payload, sizeof word);
	switch (entry->kind) {
	case LOG_TICK:
		add_tick(&line, entry);
		break;
	case LOG_CLOCK:
		add(&line, "the guest reads its clock");
		break;
	case LOG_NET_RX:
		add_frames(&line, entry);
		break;
	case LOG_CONSOLE_RX:
		add(&line, "typed ");
		add_text(&line, entry->payload, entry->length);
		break;
	case LOG_OUTPUT:
		add_output(&line, entry);
		break;
	case LOG_MARK:
		add(&line, "position %llu is reached", (unsigned long long)word);
		break;
	case LOG_PAGE:
		add(&line, entry->length == sizeof word ? "page %llu is zero" : "page %llu",
			(unsigned long long)word);
		break;
	case LOG_COMMIT:
		add(&line, "a resync of %llu pages", (unsigned long long)word);
		break;
	case LOG_RELEASED:
		add_released(&line, entry);
		break;
	case LOG_RANDOM:
		add(&line, "the guest asks for random bytes");
		break;
	case LOG_END:
		add_ending(&line, entry);
		break;
	default:
		break;
	}
}

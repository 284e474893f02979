/* Entries in words. Payloads may hold anything; the frames here are written as a network would carry them. */
#include "tests/unit/transport/support.h"

#include "transport/log_describe.h"

static struct log_entry entry_of(enum log_kind kind, const void *bytes, uint32_t length)
{
	return (struct log_entry){.lsn = 4096,
		.position = 1234,
		.kind = kind,
		.length = length,
		.digest = 0x8fa3,
		.payload = bytes};
}

static void assert_described(
	enum log_kind kind, const void *bytes, uint32_t length, const char *expected)
{
	struct log_entry entry = entry_of(kind, bytes, length);
	char text[256], head[128];
	log_describe(&entry, 3000004999, text, sizeof text);
	snprintf(head, sizeof head, "lsn=4096 pos=1234 time=3.000004 %s len=%u digest=00008fa3",
		log_kind_name(kind), length);
	assert_memory_equal(text, head, strlen(head));
	assert_string_equal(text + strlen(head), expected);
	for (size_t size = 1; size < 140; size++) {
		char short_text[140];
		memset(short_text, 'x', sizeof short_text);
		log_describe(&entry, 3000004999, short_text, size);
		assert_true(strlen(short_text) < size);
		assert_memory_equal(short_text, text, strlen(short_text));
	}
}

static void an_entry_is_one_line_of_words(void **state)
{
	(void)state;
	struct log_tick tick = {.timer = LOG_TIMER_PIT, .count = 2, .time_ns = 3000};
	struct log_tick once = {.timer = LOG_TIMER_CMOS, .count = 1, .time_ns = 3000};
	struct log_tick strange = {.timer = 9, .count = 1, .time_ns = 3000};
	struct log_released gone = {.device = LOG_DEVICE_CONSOLE, .lsn = 77};
	struct log_released nowhere = {.device = 5, .lsn = 77};
	uint64_t word = 99;
	assert_described(LOG_TICK, &tick, sizeof tick, ": the PIT has ticked 2 times");
	assert_described(LOG_TICK, &once, sizeof once, ": the CMOS clock has ticked once");
	assert_described(LOG_TICK, &strange, sizeof strange, ": timer 9 has ticked once");
	assert_described(LOG_CLOCK, &word, 8, ": the guest reads its clock");
	assert_described(LOG_MARK, &word, 8, ": position 99 is reached");
	assert_described(LOG_RELEASED, &gone, sizeof gone,
		": outputs to the console up to LSN 77 have left");
	assert_described(LOG_RELEASED, &nowhere, sizeof nowhere,
		": outputs to device 5 up to LSN 77 have left");
	assert_described(LOG_RANDOM, "\x00\xff\x0e", 3, ": the guest asks for random bytes");
	assert_described(LOG_CONSOLE_RX, "a\"\n", 3, ": typed \"a\\x22\\x0a\"");
	assert_described(LOG_CONSOLE_RX, "0123456789012345678901234567890123456789", 40,
		": typed \"01234567890123456789012345678901\"...");
	struct log_entry entry = entry_of(LOG_MARK, &word, 8);
	char text[256];
	log_describe(&entry, LOG_NO_TIME, text, sizeof text);
	assert_non_null(strstr(text, " time=- MARK "));
	assert_described((enum log_kind)99, "", 0, "");
	assert_string_equal(log_kind_name(LOG_DISK_DONE), "DISK_DONE");
	assert_string_equal(log_kind_name((enum log_kind)0), "?");
}

static void an_output_names_its_device_and_count(void **state)
{
	(void)state;
	struct log_output frame = {LOG_DEVICE_NET, 1, 0xabc}, frames = {LOG_DEVICE_NET, 32, 0};
	struct log_output bytes = {LOG_DEVICE_CONSOLE, 5, 0xabc}, strange = {9, 5, 0xabc};
	assert_described(LOG_OUTPUT, &frame, sizeof frame,
		": 1 frame to the network with digest 0000000000000abc");
	assert_described(LOG_OUTPUT, &frames, sizeof frames,
		": 32 frames to the network with digest 0000000000000000");
	assert_described(LOG_OUTPUT, &bytes, sizeof bytes,
		": 5 outputs to the console with digest 0000000000000abc");
	assert_described(LOG_OUTPUT, &strange, sizeof strange,
		": 5 outputs to device 9 with digest 0000000000000abc");
}

static void an_end_says_why(void **state)
{
	(void)state;
	const struct {
		struct log_ending ending;
		const char *words;
	} ends[] = {
		{{LOG_END_POWER, 7}, ": the guest switched its machine off with value 7"},
		{{LOG_END_SHUTDOWN, 0}, ": the guest died of a triple fault"},
		{{LOG_END_HALT, 0}, ": the guest halted with interrupts off"},
		{{LOG_END_STOPPED, 0}, ": somebody stopped the machine"},
		{{LOG_END_RESTART, 0}, ": the guest asked for a restart"},
		{{LOG_END_RESTART + 1, 0}, ": for reason 5"},
	};
	for (unsigned i = 0; i < sizeof ends / sizeof ends[0]; i++)
		assert_described(LOG_END, &ends[i].ending, sizeof ends[i].ending, ends[i].words);
}

#define TO "\x52\x54\x00\x00\x00\x02"
#define FROM "\x52\x54\x00\x00\x00\x01"
#define ETHERNET(type) TO FROM type
/* Of a packet of `total` bytes. */
#define IPV4(total, fragment, protocol)                                                            \
	ETHERNET("\x08\x00")                                                                       \
	"\x45\x00\x00" total "\x00\x07" fragment "\x40" protocol "\0\0\x0a\x4d\0\1\x0a\x4d\0\2"
#define IPV6(length, protocol)                                                                     \
	ETHERNET("\x86\xdd")                                                                       \
	"\x60\0\0\0\0" length protocol "\x40"                                                      \
	"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\1\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\2"
#define PORTS "\x9c\x40\0\x07"
#define TCP(flags) PORTS "\0\0\0\1\0\0\0\2\x50" flags "\xff\xff\0\0\0\0"
#define ARP(operation)                                                                             \
	ETHERNET("\x08\x06")                                                                       \
	"\0\1\x08\0\6\4\0" operation FROM "\x0a\x4d\0\1" TO "\x0a\x4d\0\2"

/* A literal, without the zero behind it. */
#define FRAME(bytes, words)                                                                        \
	{                                                                                          \
		bytes, sizeof bytes - 1, words                                                     \
	}

static const struct {
	const char *bytes;
	uint32_t length;
	const char *words;
} frames[] = {
	FRAME(ARP("\1"), ": frame of 42 bytes, ARP, 10.77.0.1 asks who has 10.77.0.2"),
	FRAME(ARP("\2"), ": frame of 42 bytes, ARP, 10.77.0.1 is at 52:54:00:00:00:01"),
	FRAME(ETHERNET("\x08\x06") "....", ": frame of 18 bytes, ARP"),
	FRAME(IPV4("\x28", "\0\0", "\6") TCP("\x02"),
		": frame of 54 bytes, TCP 10.77.0.1:40000 to 10.77.0.2:7 SYN, 0 bytes"),
	FRAME(IPV4("\x2b", "\0\0", "\6") TCP("\x18") "abc",
		": frame of 57 bytes, TCP 10.77.0.1:40000 to 10.77.0.2:7 PSH ACK, 3 bytes"),
	/* Padded to the least that Ethernet carries. */
	FRAME(IPV4("\x28", "\0\0", "\6") TCP("\x11") "......",
		": frame of 60 bytes, TCP 10.77.0.1:40000 to 10.77.0.2:7 FIN ACK, 0 bytes"),
	FRAME(IPV4("\x1d", "\0\0", "\x11") PORTS "\0\x09\0\0x",
		": frame of 43 bytes, UDP 10.77.0.1:40000 to 10.77.0.2:7, 1 byte"),
	FRAME(IPV4("\x1c", "\0\0", "\1") "\x08\0......",
		": frame of 42 bytes, IP 10.77.0.1 to 10.77.0.2, ICMP echo request"),
	FRAME(IPV4("\x1c", "\0\0", "\1") "\0\0......",
		": frame of 42 bytes, IP 10.77.0.1 to 10.77.0.2, ICMP echo reply"),
	FRAME(IPV4("\x1c", "\0\0", "\1") "\3\0......",
		": frame of 42 bytes, IP 10.77.0.1 to 10.77.0.2, ICMP message"),
	FRAME(IPV4("\x18", "\0\0", "\x59") "....",
		": frame of 38 bytes, IP 10.77.0.1 to 10.77.0.2, protocol 89"),
	FRAME(IPV4("\x28", "\0\1", "\6") TCP("\x02"),
		": frame of 54 bytes, IP 10.77.0.1 to 10.77.0.2, protocol 6, a later fragment"),
	FRAME(ETHERNET("\x08\x00") "\x46.......................",
		": frame of 38 bytes, IP 46.46.46.46 to 46.46.46.46, protocol 46, a later "
		"fragment"),
	FRAME(ETHERNET("\x08\x00") "\x44...................", ": frame of 34 bytes, IPv4, damaged"),
	FRAME(ETHERNET("\x08\x00"), ": frame of 14 bytes, IPv4, damaged"),
	FRAME(IPV6("\x14", "\6") TCP("\x12"),
		": frame of 74 bytes, TCP [fe80::1]:40000 to [fe80::2]:7 SYN ACK, 0 bytes"),
	FRAME(IPV6("\x04", "\x3a") "\x87...",
		": frame of 58 bytes, IP fe80::1 to fe80::2, ICMPv6 type 135"),
	FRAME(ETHERNET("\x86\xdd") "\x60", ": frame of 15 bytes, IPv6, damaged"),
	FRAME(ETHERNET("\x88\xcc") "....",
		": frame of 18 bytes, Ethernet type 88cc from 52:54:00:00:00:01 to "
		"52:54:00:00:00:02"),
};
#define FRAMES (sizeof frames / sizeof frames[0])

/* Appends frame `i` to a NET_RX, which is `at` bytes long; returns its new length. */
static uint32_t put_frame(uint8_t *entry, uint32_t at, unsigned i, const uint8_t *header)
{
	uint32_t word = frames[i].length | (header ? LOG_FRAME_HEADED : 0);
	memcpy(entry + at, &word, sizeof word);
	at += (uint32_t)sizeof word;
	if (header) {
		memcpy(entry + at, header, LOG_FRAME_HEADER);
		at += LOG_FRAME_HEADER;
	}
	memcpy(entry + at, frames[i].bytes, frames[i].length);
	return at + frames[i].length;
}

static void a_frame_is_summed_up(void **state)
{
	(void)state;
	static const uint8_t merged[LOG_FRAME_HEADER] = {1, 1, 54, 0, 0xb4, 5};
	uint8_t entry[256];
	char words[256];
	for (unsigned i = 0; i < FRAMES; i++) {
		assert_described(LOG_NET_RX, entry, put_frame(entry, 0, i, NULL), frames[i].words);
		snprintf(words, sizeof words, "%s, merged of segments of 1460 bytes", frames[i].words);
		assert_described(LOG_NET_RX, entry, put_frame(entry, 0, i, merged), words);
	}
}

static void several_frames_are_summed_up(void **state)
{
	(void)state;
	uint8_t entry[256];
	char words[256];
	uint32_t length = put_frame(entry, put_frame(entry, 0, 0, NULL), FRAMES - 1, NULL);
	snprintf(words, sizeof words, ": 2 frames of %u bytes in all, the first a %s",
		frames[0].length + frames[FRAMES - 1].length, frames[0].words + 2);
	assert_described(LOG_NET_RX, entry, length, words);
	/* The second is cut off. */
	assert_described(LOG_NET_RX, entry, length - 1, frames[0].words);
	memset(entry, 0, 4);
	assert_described(LOG_NET_RX, entry, length, ": 0 frames of 0 bytes in all");
}

/* Whoever reads too far reads behind an allocation, which the sanitizer sees. */
static void a_frame_that_lies_about_itself_is_not_believed(void **state)
{
	(void)state;
	uint64_t random = 5;
	char text[256];
	for (unsigned i = 0; i < FRAMES; i++) {
		for (uint32_t length = 14; length <= frames[i].length; length++) {
			for (unsigned round = 0; round < 20; round++) {
				uint8_t *bytes = malloc(sizeof length + length);
				assert_non_null(bytes);
				memcpy(bytes, &length, sizeof length);
				memcpy(bytes + sizeof length, frames[i].bytes, length);
				if (round > 0)
					bytes[16 + next_random(&random) % (length - 12)] =
						(uint8_t)next_random(&random);
				struct log_entry entry =
					entry_of(LOG_NET_RX, bytes, (uint32_t)sizeof length + length);
				log_describe(&entry, 0, text, sizeof text);
				assert_null(strchr(text, '\n'));
				free(bytes);
			}
		}
	}
}

static void ticks_and_clocks_tell_the_time(void **state)
{
	(void)state;
	struct log_tick tick = {.timer = 1, .count = 2, .time_ns = 3000};
	uint64_t clock = 4000, time_ns = 0;
	struct log_entry entry = entry_of(LOG_TICK, &tick, sizeof tick);
	assert_true(log_tells_time(&entry, &time_ns));
	assert_int_equal(time_ns, 3000);
	entry = entry_of(LOG_CLOCK, &clock, sizeof clock);
	assert_true(log_tells_time(&entry, &time_ns));
	assert_int_equal(time_ns, 4000);
	entry = entry_of(LOG_MARK, &clock, sizeof clock);
	assert_false(log_tells_time(&entry, &time_ns));
	assert_int_equal(time_ns, 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_entry_is_one_line_of_words),
		cmocka_unit_test(an_output_names_its_device_and_count),
		cmocka_unit_test(an_end_says_why),
		cmocka_unit_test(a_frame_is_summed_up),
		cmocka_unit_test(several_frames_are_summed_up),
		cmocka_unit_test(a_frame_that_lies_about_itself_is_not_believed),
		cmocka_unit_test(ticks_and_clocks_tell_the_time),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

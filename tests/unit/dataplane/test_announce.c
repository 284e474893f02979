#include "dataplane/announce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

/* An ARP request from the guest, 10.0.0.2 asking for 10.0.0.1. */
static const uint8_t guest_arp[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12,
	0x34, 0x56, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x52, 0x54, 0x00,
	0x12, 0x34, 0x56, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1};

static struct announce fresh(void)
{
	struct announce announce = {0};
	memcpy(announce.mac, mac, 6);
	return announce;
}

static void the_first_announcement_is_a_rarp_request_with_the_guests_mac(void **state)
{
	(void)state;
	static const uint8_t expected[ANNOUNCE_FRAME] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52,
		0x54, 0x00, 0x12, 0x34, 0x56, 0x80, 0x35, 0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00,
		0x03, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0x52, 0x54, 0x00, 0x12, 0x34,
		0x56, 0, 0, 0, 0};
	struct announce announce = fresh();
	uint8_t frame[ANNOUNCE_FRAME];
	memset(frame, 0xaa, sizeof frame);
	assert_true(announce_frame(&announce, 0, frame));
	assert_memory_equal(frame, expected, sizeof frame);
}

static void the_second_is_a_gratuitous_arp_once_an_address_is_known(void **state)
{
	(void)state;
	static const uint8_t expected[ANNOUNCE_FRAME] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52,
		0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x06, 0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00,
		0x01, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0,
		2};
	struct announce announce = fresh();
	uint8_t frame[ANNOUNCE_FRAME];
	assert_false(announce_frame(&announce, 1, frame));
	announce_learn(&announce, guest_arp, sizeof guest_arp);
	memset(frame, 0xaa, sizeof frame);
	assert_true(announce_frame(&announce, 1, frame));
	assert_memory_equal(frame, expected, sizeof frame);
	assert_false(announce_frame(&announce, 2, frame));
}

static void a_newer_address_replaces_an_older_one(void **state)
{
	(void)state;
	struct announce announce = fresh();
	uint8_t other[sizeof guest_arp];
	memcpy(other, guest_arp, sizeof other);
	other[31] = 77;
	announce_learn(&announce, guest_arp, sizeof guest_arp);
	announce_learn(&announce, other, sizeof other);
	assert_int_equal(announce.ip[3], 77);
}

static void an_arp_cut_short_teaches_nothing_and_is_not_read_past_its_end(void **state)
{
	(void)state;
	for (size_t length = 0; length < sizeof guest_arp; length++) {
		struct announce announce = fresh();
		uint8_t *exact =
			malloc(length ? length : 1); /* the address sanitizer sees its end */
		memcpy(exact, guest_arp, length);
		announce_learn(&announce, exact, length);
		assert_false(announce.ip_known);
		free(exact);
	}
}

static void a_frame_that_is_not_the_guests_own_arp_teaches_nothing(void **state)
{
	(void)state;
	/* Type, hardware, protocol, both lengths, the sender's MAC: each wrong once. */
	static const size_t places[] = {12, 13, 14, 15, 16, 17, 18, 19, 22, 27};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		struct announce announce = fresh();
		uint8_t frame[sizeof guest_arp];
		memcpy(frame, guest_arp, sizeof frame);
		frame[places[i]] ^= 0x40;
		announce_learn(&announce, frame, sizeof frame);
		assert_false(announce.ip_known);
	}
}

static void a_probe_for_an_address_teaches_nothing(void **state)
{
	(void)state;
	struct announce announce = fresh();
	uint8_t frame[sizeof guest_arp];
	memcpy(frame, guest_arp, sizeof frame);
	memset(frame + 28, 0, 4);
	announce_learn(&announce, frame, sizeof frame);
	assert_false(announce.ip_known);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_announcement_is_a_rarp_request_with_the_guests_mac),
		cmocka_unit_test(the_second_is_a_gratuitous_arp_once_an_address_is_known),
		cmocka_unit_test(a_newer_address_replaces_an_older_one),
		cmocka_unit_test(an_arp_cut_short_teaches_nothing_and_is_not_read_past_its_end),
		cmocka_unit_test(a_frame_that_is_not_the_guests_own_arp_teaches_nothing),
		cmocka_unit_test(a_probe_for_an_address_teaches_nothing),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "engine/heartbeat.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

#define SECRET 0x0123456789abcdefull

static struct heartbeat_session primary, backup;
static const struct heartbeat untouched = {.generation = 77, .progress = 77, .flags = 77};

static int set_up(void **state)
{
	(void)state;
	heartbeat_begin(&primary, SECRET, HEARTBEAT_PRIMARY);
	heartbeat_begin(&backup, SECRET, HEARTBEAT_BACKUP);
	return 0;
}

static struct heartbeat numbered(uint64_t progress)
{
	return (struct heartbeat){.generation = 3, .progress = progress};
}

static void assert_untouched(const struct heartbeat *heartbeat)
{
	assert_int_equal(heartbeat->generation, untouched.generation);
	assert_int_equal(heartbeat->progress, untouched.progress);
	assert_int_equal(heartbeat->flags, untouched.flags);
}

static void encode(uint8_t datagram[HEARTBEAT_SIZE], uint64_t progress)
{
	struct heartbeat heartbeat = numbered(progress);
	heartbeat_encode(&primary, &heartbeat, datagram);
}

static void assert_ignored(const void *datagram, size_t length)
{
	struct heartbeat heartbeat = untouched;
	uint64_t ignored = backup.ignored, seen = backup.seen;
	assert_false(heartbeat_decode(&backup, datagram, length, &heartbeat));
	assert_untouched(&heartbeat);
	assert_int_equal(backup.ignored, ignored + 1);
	assert_int_equal(backup.seen, seen);
}

/* Makes the checksum right again after a field was changed. */
static void sign(uint8_t datagram[HEARTBEAT_SIZE], uint64_t secret)
{
	uint64_t checksum = XXH3_64bits_withSeed(datagram, HEARTBEAT_SIZE - 8, secret);
	memcpy(datagram + HEARTBEAT_SIZE - 8, &checksum, 8);
}

static void a_heartbeat_arrives_as_it_was_sent(void **state)
{
	(void)state;
	struct heartbeat sent = {.generation = UINT64_MAX - 5,
		.progress = 0x1122334455667788,
		.flags = HEARTBEAT_STOP_REQUESTED | HEARTBEAT_LEAVING};
	struct heartbeat got = untouched;
	uint8_t datagram[HEARTBEAT_SIZE];
	heartbeat_encode(&primary, &sent, datagram);
	assert_true(heartbeat_decode(&backup, datagram, sizeof datagram, &got));
	assert_true(got.generation == sent.generation);
	assert_true(got.progress == sent.progress);
	assert_int_equal(got.flags, sent.flags);
	assert_int_equal(backup.taken, 1);
	assert_int_equal(backup.ignored, 0);
}

static void the_bytes_are_those_of_the_specification(void **state)
{
	(void)state;
	struct heartbeat sent = {
		.generation = 0x0203, .progress = 0x0405, .flags = HEARTBEAT_LEAVING};
	uint8_t datagram[HEARTBEAT_SIZE], expected[HEARTBEAT_SIZE] = "DPHB\1\0\1\0\2";
	heartbeat_encode(&primary, &sent, datagram);
	memcpy(expected + 16, &primary.id, 8);
	expected[24] = 1;
	expected[32] = 3, expected[33] = 2;
	expected[40] = 5, expected[41] = 4;
	sign(expected, SECRET);
	assert_memory_equal(datagram, expected, sizeof expected);
}

static void a_changed_bit_anywhere_is_noticed(void **state)
{
	(void)state;
	struct heartbeat heartbeat;
	uint8_t datagram[HEARTBEAT_SIZE];
	encode(datagram, 1);
	for (unsigned bit = 0; bit < 8 * HEARTBEAT_SIZE; bit++) {
		datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_ignored(datagram, sizeof datagram);
		datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_true(heartbeat_decode(&backup, datagram, sizeof datagram, &heartbeat));
}

static void any_other_length_is_ignored(void **state)
{
	(void)state;
	uint8_t datagram[HEARTBEAT_SIZE + 8] = {0};
	encode(datagram, 1);
	for (size_t length = 0; length <= sizeof datagram; length++) {
		if (length != HEARTBEAT_SIZE)
			assert_ignored(datagram, length);
	}
}

static void a_field_that_is_wrong_under_a_right_checksum_is_ignored(void **state)
{
	(void)state;
	static const unsigned at[] = {0, 4, 6, 8, 11, 12, 16};
	for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++) {
		uint8_t datagram[HEARTBEAT_SIZE];
		encode(datagram, 1);
		datagram[at[i]] ^= 0x40;
		sign(datagram, SECRET);
		assert_ignored(datagram, sizeof datagram);
	}
}

static void another_session_is_ignored(void **state)
{
	(void)state;
	uint8_t datagram[HEARTBEAT_SIZE];
	heartbeat_begin(&primary, SECRET + 1, HEARTBEAT_PRIMARY);
	encode(datagram, 1);
	assert_ignored(datagram, sizeof datagram);
	/* The id can be seen on the network, and is not enough. */
	memcpy(datagram + 16, &backup.id, 8);
	assert_ignored(datagram, sizeof datagram);
	sign(datagram, 0);
	assert_ignored(datagram, sizeof datagram);
	/* Nor does it give the secret away. */
	sign(datagram, backup.id);
	assert_ignored(datagram, sizeof datagram);
}

static void ones_own_datagram_sent_back_is_ignored(void **state)
{
	(void)state;
	struct heartbeat heartbeat = numbered(1);
	uint8_t datagram[HEARTBEAT_SIZE];
	heartbeat_encode(&backup, &heartbeat, datagram);
	assert_ignored(datagram, sizeof datagram);
	assert_true(heartbeat_decode(&primary, datagram, sizeof datagram, &heartbeat));
	encode(datagram, 1);
	assert_false(heartbeat_decode(&primary, datagram, sizeof datagram, &heartbeat));
}

static void repeated_and_overtaken_datagrams_are_ignored(void **state)
{
	(void)state;
	struct heartbeat heartbeat;
	uint8_t datagram[5][HEARTBEAT_SIZE];
	for (unsigned i = 0; i < 5; i++)
		encode(datagram[i], i);
	assert_true(heartbeat_decode(&backup, datagram[0], HEARTBEAT_SIZE, &heartbeat));
	assert_ignored(datagram[0], HEARTBEAT_SIZE);
	assert_true(heartbeat_decode(&backup, datagram[3], HEARTBEAT_SIZE, &heartbeat));
	assert_ignored(datagram[1], HEARTBEAT_SIZE);
	assert_ignored(datagram[2], HEARTBEAT_SIZE);
	assert_ignored(datagram[3], HEARTBEAT_SIZE);
	assert_int_equal(heartbeat.progress, 3);
	assert_true(heartbeat_decode(&backup, datagram[4], HEARTBEAT_SIZE, &heartbeat));
	assert_int_equal(heartbeat.progress, 4);
	assert_int_equal(backup.taken, 3);
}

/* ---- sockets, on loopback ---- */

struct ends {
	int primary_fd, backup_fd;
	uint16_t primary_port, backup_port;
	struct heartbeat_peer to_backup, to_primary;
};

/* Two sockets that know each other. Returns false when the address cannot be had. */
static bool connect_ends(struct ends *ends, const char *host)
{
	*ends = (struct ends){0};
	ends->primary_fd = heartbeat_open(host, &ends->primary_port);
	if (ends->primary_fd < 0)
		return false;
	ends->backup_fd = heartbeat_open(host, &ends->backup_port);
	assert_true(ends->backup_fd >= 0);
	assert_int_not_equal(ends->primary_port, 0);
	assert_int_not_equal(ends->primary_port, ends->backup_port);
	assert_int_equal(
		heartbeat_peer(ends->primary_fd, host, ends->backup_port, &ends->to_backup), 0);
	assert_int_equal(
		heartbeat_peer(ends->backup_fd, host, ends->primary_port, &ends->to_primary), 0);
	return true;
}

static void close_ends(struct ends *ends)
{
	close(ends->primary_fd);
	close(ends->backup_fd);
}

static void send_one(struct ends *ends, uint64_t progress)
{
	struct heartbeat heartbeat = numbered(progress);
	assert_int_equal(
		heartbeat_send(ends->primary_fd, &ends->to_backup, &primary, &heartbeat), 0);
}

static void heartbeats_go_both_ways(void **state)
{
	(void)state;
	struct ends ends;
	struct heartbeat got = untouched;
	struct heartbeat sent = numbered(5);
	assert_true(connect_ends(&ends, "127.0.0.1"));
	assert_int_equal(heartbeat_receive(ends.backup_fd, &backup, &got), 0);
	assert_untouched(&got);
	send_one(&ends, 4);
	assert_int_equal(heartbeat_receive(ends.backup_fd, &backup, &got), 1);
	assert_int_equal(got.progress, 4);
	assert_int_equal(heartbeat_send(ends.backup_fd, &ends.to_primary, &backup, &sent), 0);
	assert_int_equal(heartbeat_receive(ends.primary_fd, &primary, &got), 1);
	assert_int_equal(got.progress, 5);
	assert_int_equal(heartbeat_receive(ends.primary_fd, &primary, &got), 0);
	close_ends(&ends);
}

static void heartbeats_go_over_ipv6(void **state)
{
	(void)state;
	struct ends ends;
	struct heartbeat got;
	if (!connect_ends(&ends, "::1")) {
		printf("skip: no IPv6 loopback: %s\n", fail_message());
		skip();
	}
	send_one(&ends, 4);
	assert_int_equal(heartbeat_receive(ends.backup_fd, &backup, &got), 1);
	assert_int_equal(got.progress, 4);
	close_ends(&ends);
}

static void receiving_drains_the_socket_and_keeps_the_newest(void **state)
{
	(void)state;
	struct ends ends;
	struct heartbeat got;
	uint8_t late[HEARTBEAT_SIZE], noise[100] = {0};
	assert_true(connect_ends(&ends, "127.0.0.1"));
	encode(late, 1);
	for (uint64_t i = 2; i < 10; i++)
		send_one(&ends, i);
	const struct sockaddr *to = (const struct sockaddr *)&ends.to_backup.address;
	assert_int_equal(sendto(ends.primary_fd, late, sizeof late, 0, to, ends.to_backup.length),
		sizeof late);
	assert_int_equal(sendto(ends.primary_fd, noise, sizeof noise, 0, to, ends.to_backup.length),
		sizeof noise);
	assert_int_equal(sendto(ends.primary_fd, noise, 0, 0, to, ends.to_backup.length), 0);
	assert_int_equal(heartbeat_receive(ends.backup_fd, &backup, &got), 1);
	assert_int_equal(got.progress, 9);
	assert_int_equal(backup.taken, 8);
	assert_int_equal(backup.ignored, 3);
	struct pollfd nothing = {.fd = ends.backup_fd, .events = POLLIN};
	assert_int_equal(poll(&nothing, 1, 0), 0);
	close_ends(&ends);
}

static void a_longer_datagram_that_begins_well_is_ignored(void **state)
{
	(void)state;
	struct ends ends;
	struct heartbeat got;
	uint8_t longer[HEARTBEAT_SIZE + 20] = {0};
	assert_true(connect_ends(&ends, "127.0.0.1"));
	encode(longer, 1);
	assert_int_equal(
		sendto(ends.primary_fd, longer, sizeof longer, 0,
			(const struct sockaddr *)&ends.to_backup.address, ends.to_backup.length),
		sizeof longer);
	assert_int_equal(heartbeat_receive(ends.backup_fd, &backup, &got), 0);
	assert_int_equal(backup.ignored, 1);
	close_ends(&ends);
}

static void a_peer_that_is_not_there_is_no_error(void **state)
{
	(void)state;
	struct ends ends;
	struct heartbeat got;
	assert_true(connect_ends(&ends, "127.0.0.1"));
	close(ends.backup_fd);
	for (unsigned i = 0; i < 3; i++) {
		send_one(&ends, i);
		assert_int_equal(heartbeat_receive(ends.primary_fd, &primary, &got), 0);
	}
	close(ends.primary_fd);
}

static void the_socket_never_blocks_nor_outlives_an_exec(void **state)
{
	(void)state;
	uint16_t port = 0;
	int fd = heartbeat_open("localhost", &port);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
}

static void an_address_that_cannot_be_had_is_refused_with_a_reason(void **state)
{
	(void)state;
	uint16_t port = 0;
	int fd = heartbeat_open("127.0.0.1", &port);
	assert_true(fd >= 0);
	assert_int_equal(heartbeat_open("127.0.0.1", &port), -EADDRINUSE);
	assert_non_null(strstr(fail_message(), "127.0.0.1, port "));
	struct heartbeat_peer peer;
	assert_true(heartbeat_peer(fd, "::1", port, &peer) < 0); /* not in the socket's family */
	close(fd);
	port = 0;
	assert_true(heartbeat_open("192.0.2.1", &port) < 0); /* nobody's address: TEST-NET-1 */
	assert_true(heartbeat_open("not a host name", &port) < 0);
	assert_non_null(strstr(fail_message(), "not a host name"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, set_up)
	const struct CMUnitTest tests[] = {
		TEST(a_heartbeat_arrives_as_it_was_sent),
		TEST(the_bytes_are_those_of_the_specification),
		TEST(a_changed_bit_anywhere_is_noticed),
		TEST(any_other_length_is_ignored),
		TEST(a_field_that_is_wrong_under_a_right_checksum_is_ignored),
		TEST(another_session_is_ignored),
		TEST(ones_own_datagram_sent_back_is_ignored),
		TEST(repeated_and_overtaken_datagrams_are_ignored),
		TEST(heartbeats_go_both_ways),
		TEST(heartbeats_go_over_ipv6),
		TEST(receiving_drains_the_socket_and_keeps_the_newest),
		TEST(a_longer_datagram_that_begins_well_is_ignored),
		TEST(a_peer_that_is_not_there_is_no_error),
		TEST(the_socket_never_blocks_nor_outlives_an_exec),
		TEST(an_address_that_cannot_be_had_is_refused_with_a_reason),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

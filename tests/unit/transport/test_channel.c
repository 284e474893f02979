#include "support.h"

#include "transport/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#define TYPE 7u

static struct channel channel;
static int peer; /* a raw socket, so that it can send anything */
static uint8_t body[CHANNEL_BODY_MAX], got[CHANNEL_BODY_MAX];

static void open_both(void)
{
	int ends[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(channel_open(&channel, ends[0], "test"), 0);
	peer = ends[1];
}

static void close_both(void)
{
	channel_close(&channel);
	close(peer);
}

static int set_up(void **state)
{
	remember_fds(state);
	fill_random(body, sizeof body, 1);
	open_both();
	return 0;
}

static int tear_down(void **state)
{
	close_both();
	return compare_fds(state);
}

static int receive(size_t *length)
{
	return channel_recv(&channel, TYPE, got, sizeof got, length, NULL, 0, 0);
}

/* A frame as raw bytes. */
static size_t frame(uint8_t *out, uint32_t length, uint16_t type, uint16_t fds)
{
	struct channel_header header = {length, type, fds};
	memcpy(out, &header, sizeof header);
	memcpy(out + sizeof header, body, length);
	return sizeof header + length;
}

static void feed(const void *bytes, size_t length)
{
	assert_int_equal(write(peer, bytes, length), length);
}

static void feed_fds(const void *bytes, size_t length, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(64 * sizeof(int))];
	} control = {0};
	struct iovec piece = {(void *)bytes, length};
	struct msghdr message = {.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(count * sizeof(int))};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	assert_int_equal(sendmsg(peer, &message, 0), length);
}

static void a_frame_that_arrives_in_parts_is_received_whole(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t size = frame(bytes, 40, TYPE, 0), length;
	for (size_t cut = 1; cut < size; cut++) {
		feed(bytes, cut);
		assert_int_equal(receive(&length), -ETIMEDOUT);
		feed(bytes + cut, size - cut);
		/* The next frame is there already and stays where it is. */
		feed(bytes, size);
		for (int i = 0; i < 2; i++) {
			memset(got, 0, 40);
			assert_int_equal(receive(&length), 0);
			assert_int_equal(length, 40);
			assert_memory_equal(got, body, 40);
		}
		assert_int_equal(receive(&length), -ETIMEDOUT);
	}
}

static void a_peer_that_leaves_within_a_frame_is_gone(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t size = frame(bytes, 40, TYPE, 0), length;
	for (size_t cut = 0; cut < size; cut++) {
		if (cut > 0)
			feed(bytes, cut);
		close(peer);
		assert_int_equal(receive(&length), -ECONNRESET);
		assert_int_equal(receive(&length), -ECONNRESET);
		assert_int_equal(channel_send(&channel, TYPE, body, 8, NULL, 0, 0), -ECONNRESET);
		channel_close(&channel);
		open_both();
	}
}

static void impossible_frames_break_the_channel(void **state)
{
	(void)state;
	static const struct channel_header headers[] = {
		{CHANNEL_BODY_MAX + 1, TYPE, 0},
		{UINT32_MAX, TYPE, 0},
		{UINT32_MAX - 7, TYPE, 0},
		{8, TYPE, CHANNEL_FDS + 1},
		{8, TYPE, UINT16_MAX},
		{8, TYPE, 1},
		{8, TYPE + 1, 0},
		{0, 0, 0},
	};
	for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
		size_t length;
		feed(&headers[i], sizeof headers[i]);
		/* More than fits into the buffer of any frame, so that a length that is believed is
		 * seen. */
		feed(body, 4096);
		assert_int_equal(receive(&length), -ECONNRESET);
		assert_int_equal(receive(&length), -ECONNRESET);
		close_both();
		open_both();
	}
}

static void a_broken_channel_stays_broken(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t length;
	feed(bytes, frame(bytes, 40, TYPE + 1, 0));
	feed(bytes, frame(bytes, 40, TYPE, 0));
	assert_int_equal(receive(&length), -ECONNRESET);
	assert_int_equal(receive(&length), -ECONNRESET);
	assert_int_equal(channel_send(&channel, TYPE, body, 8, NULL, 0, 0), -ECONNRESET);
}

static void a_frame_that_is_too_long_is_dropped_with_its_descriptors(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t size = frame(bytes, 40, TYPE, 1), length;
	int fd;
	feed_fds(bytes, size, &peer, 1);
	assert_int_equal(channel_recv(&channel, TYPE, got, 39, &length, &fd, 1, 0), -EMSGSIZE);
	assert_int_equal(count_fds(), fds_before + 2);
	feed(bytes, frame(bytes, 40, TYPE, 0));
	assert_int_equal(receive(&length), 0);
}

static void descriptors_arrive_with_their_frame(void **state)
{
	(void)state;
	int sent[CHANNEL_FDS] = {peer, peer, peer}, fds[CHANNEL_FDS];
	uint8_t bytes[64];
	size_t size = frame(bytes, 16, TYPE, CHANNEL_FDS), length;
	feed_fds(bytes, 3, sent, CHANNEL_FDS);
	assert_int_equal(
		channel_recv(&channel, TYPE, got, sizeof got, &length, fds, 3, 0), -ETIMEDOUT);
	feed(bytes + 3, size - 3);
	assert_int_equal(channel_recv(&channel, TYPE, got, sizeof got, &length, fds, 3, 0), 0);
	assert_memory_equal(got, body, 16);
	for (int i = 0; i < CHANNEL_FDS; i++) {
		assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
		close(fds[i]);
	}
}

static void descriptors_nobody_asked_for_are_closed(void **state)
{
	(void)state;
	int sent[64];
	for (int i = 0; i < 64; i++)
		sent[i] = peer;
	for (size_t count = 1; count <= 64; count = count < 6 ? count + 1 : count * 2) {
		for (uint16_t declared = 0; declared <= CHANNEL_FDS; declared++) {
			uint8_t bytes[64];
			size_t size = frame(bytes, 16, TYPE, declared), length;
			int fds[CHANNEL_FDS];
			feed_fds(bytes, size, sent, count);
			/* The last round asks for as many as are declared, the others for none. */
			if (count != declared) {
				assert_int_equal(channel_recv(&channel, TYPE, got, sizeof got,
							 &length, fds, declared, 0),
					-ECONNRESET);
				assert_int_equal(count_fds(), fds_before + 2);
			} else {
				assert_int_equal(receive(&length), -ECONNRESET);
				assert_int_equal(count_fds(), fds_before + 2);
			}
			close_both();
			open_both();
		}
	}
}

static void descriptors_spread_over_a_frame_are_counted(void **state)
{
	(void)state;
	uint8_t bytes[64];
	size_t size = frame(bytes, 16, TYPE, 3), length;
	int fds[CHANNEL_FDS];
	for (size_t at = 0; at < size; at++)
		feed_fds(bytes + at, 1, &peer, 1);
	assert_int_equal(
		channel_recv(&channel, TYPE, got, sizeof got, &length, fds, 3, 0), -ECONNRESET);
}

static void a_peer_that_does_not_read_costs_no_more_than_the_timeout(void **state)
{
	(void)state;
	int error, sent = 0;
	while ((error = channel_send(&channel, TYPE, body, sizeof body, NULL, 0, 1)) == 0)
		assert_true(++sent < 100);
	assert_int_equal(error, -ETIMEDOUT);
	assert_int_equal(
		channel_send(&channel, TYPE, body, sizeof body + 1, NULL, 0, 1), -EMSGSIZE);
}

static void random_bytes_do_no_harm(void **state)
{
	(void)state;
	uint64_t random = 17;
	for (int round = 0; round < 500; round++) {
		uint8_t bytes[256];
		size_t size = 1 + next_random(&random) % sizeof bytes, length;
		fill_random(bytes, size, next_random(&random));
		/* Half of them with a header that could be one. */
		if (round % 2 && size >= 8) {
			struct channel_header header = {
				(uint32_t)(next_random(&random) % 64), TYPE, 0};
			memcpy(bytes, &header, sizeof header);
		}
		feed(bytes, size);
		close(peer);
		int error;
		do {
			error = receive(&length);
		} while (error == 0);
		assert_int_equal(error, -ECONNRESET);
		channel_close(&channel);
		open_both();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_frame_that_arrives_in_parts_is_received_whole),
		TEST(a_peer_that_leaves_within_a_frame_is_gone),
		TEST(impossible_frames_break_the_channel),
		TEST(a_broken_channel_stays_broken),
		TEST(a_frame_that_is_too_long_is_dropped_with_its_descriptors),
		TEST(descriptors_arrive_with_their_frame),
		TEST(descriptors_nobody_asked_for_are_closed),
		TEST(descriptors_spread_over_a_frame_are_counted),
		TEST(a_peer_that_does_not_read_costs_no_more_than_the_timeout),
		TEST(random_bytes_do_no_harm),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

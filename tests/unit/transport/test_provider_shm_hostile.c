/* Peers over shm that offer what must not be mapped. */
#include "pair.h"

#include "transport/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

static const struct provider *const shm = &provider_shm;

/* What a peer sends in the place of an honest expose, over a channel of its own. */
struct offer {
	uint64_t ring_size, memory_size;
	int fds[CHANNEL_FDS];
	unsigned fd_count;
	uint16_t type;
};

static int open_size(size_t size, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int attach_to(const struct offer *offer)
{
	int listener = channel_listen(pair_name());
	assert_true(listener >= 0);
	struct connection *primary;
	assert_int_equal(shm->connect(pair_name(), LONG_MS, &primary), 0);
	struct channel channel;
	assert_int_equal(channel_open(&channel, channel_accept(listener, "test"), "test"), 0);
	assert_int_equal(
		channel_send(&channel, offer->type, offer, 16, offer->fds, offer->fd_count, 0), 0);
	int error = shm->attach(primary, PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	shm->close(primary);
	channel_close(&channel);
	close(listener);
	return error;
}

static void memory_that_is_too_small_or_could_shrink_is_not_mapped(void **state)
{
	(void)state;
	int ring = open_size(PAIR_RING, F_SEAL_SHRINK), page = open_size(4096, F_SEAL_SHRINK),
	    memory = open_size(PAIR_MEMORY, F_SEAL_SHRINK);
	const struct offer honest = {PAIR_RING, PAIR_MEMORY, {ring, page, memory}, 3, 2};
	assert_int_equal(attach_to(&honest), 0);
	for (int which = 0; which < 3; which++) {
		size_t size = which == 0 ? PAIR_RING : which == 1 ? 4096 : PAIR_MEMORY;
		int bad[] = {open_size(size - 1, F_SEAL_SHRINK), open_size(0, F_SEAL_SHRINK),
			open_size(size, F_SEAL_GROW), open_size(size, 0), open("/dev/zero", O_RDWR),
			open("/proc/self/exe", O_RDONLY)};
		for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
			struct offer offer = honest;
			offer.fds[which] = bad[i];
			assert_int_equal(attach_to(&offer), -EPROTO);
			close(bad[i]);
		}
		/* A memfd sealed against writes cannot be mapped to write. */
		struct offer offer = honest;
		offer.fds[which] = open_size(size, F_SEAL_SHRINK | F_SEAL_WRITE);
		assert_int_equal(attach_to(&offer), -EPERM);
		close(offer.fds[which]);
	}
	close(ring);
	close(page);
	close(memory);
}

static void an_offer_that_is_not_what_was_agreed_is_refused(void **state)
{
	(void)state;
	int ring = open_size(PAIR_RING, F_SEAL_SHRINK), page = open_size(4096, F_SEAL_SHRINK),
	    memory = open_size(2 * PAIR_MEMORY, F_SEAL_SHRINK);
	const struct offer honest = {PAIR_RING, PAIR_MEMORY, {ring, page, memory}, 3, 2};
	struct offer offer = honest;
	offer.ring_size *= 2;
	assert_int_equal(attach_to(&offer), -EPROTO);
	offer = honest;
	offer.memory_size *= 2;
	assert_int_equal(attach_to(&offer), -EPROTO);
	for (offer = honest; offer.fd_count-- > 0;)
		assert_int_equal(attach_to(&offer), -ECONNRESET);
	for (uint16_t type = 0; type < 10; type++) {
		offer = honest;
		offer.type = type;
		assert_int_equal(attach_to(&offer), type == 2 ? 0 : -ECONNRESET);
	}
	close(ring);
	close(page);
	close(memory);
}

static void an_ack_block_that_is_too_small_or_could_shrink_is_not_mapped(void **state)
{
	(void)state;
	int bad[] = {open_size(4095, F_SEAL_SHRINK), open_size(4096, 0), open("/dev/zero", O_RDWR)};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct listener *listener;
		struct connection *standby;
		struct channel channel;
		assert_int_equal(shm->listen(pair_name(), &listener), 0);
		assert_int_equal(
			channel_open(&channel, channel_connect(pair_name(), 0), "test"), 0);
		assert_int_equal(shm->accept(listener, &standby), 0);
		assert_int_equal(channel_send(&channel, 3, NULL, 0, &bad[i], 1, 0), 0);
		int memory = memfd_make("test", PAIR_MEMORY);
		assert_int_equal(
			shm->expose(standby, PAIR_RING, memory, PAIR_MEMORY, PAIR_SECRET), -EPROTO);
		close(memory);
		close(bad[i]);
		channel_close(&channel);
		shm->close(standby);
		shm->listener_close(listener);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(memory_that_is_too_small_or_could_shrink_is_not_mapped),
		TEST(an_offer_that_is_not_what_was_agreed_is_refused),
		TEST(an_ack_block_that_is_too_small_or_could_shrink_is_not_mapped),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

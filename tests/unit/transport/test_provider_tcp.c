/* Peers over tcp that are raw sockets, and so can send anything: what may not be done is refused,
 * and harms nothing. */
#include "pair.h"

#include "transport/ack.h"
#include "transport/tcp_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static const struct provider *const tcp = &provider_tcp;

static struct listener *listener;
static struct connection *ours;
static int raw, memory;
static uint8_t *guest;
static uint8_t bytes[1u << 20], back[1u << 20];

/* ---- The raw end ---- */

static void raw_write(const void *from, size_t length)
{
	const uint8_t *at = from;
	while (length > 0) {
		ssize_t n = send(raw, at, length, MSG_NOSIGNAL);
		/* Ours may have had enough by now. */
		if (n < 0)
			return;
		at += n;
		length -= (size_t)n;
	}
}

/* False at the end. */
static bool raw_read(void *to, size_t length)
{
	uint8_t *at = to;
	while (length > 0) {
		ssize_t n = recv(raw, at, length, 0);
		if (n <= 0)
			return false;
		at += n;
		length -= (size_t)n;
	}
	return true;
}

static void raw_frame(uint16_t type, uint32_t length, uint64_t at, const void *body)
{
	const struct tcp_frame frame = {.type = type, .length = length, .at = at};
	raw_write(&frame, sizeof frame);
	if (body)
		raw_write(body, length);
}

static int raw_socket(const char *address, struct sockaddr_in *to)
{
	char host[48];
	unsigned port;
	assert_int_equal(sscanf(address, "%47[^:]:%u", host, &port), 2);
	*to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	inet_pton(AF_INET, host, &to->sin_addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	/* So that ours soon finds no room. */
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
	return fd;
}

/* ---- Ours as the standby ---- */

static void *raw_attach(void *argument)
{
	struct tcp_frame frame;
	struct tcp_exposed exposed;
	if (!raw_read(&frame, sizeof frame) || frame.type != FRAME_EXPOSED ||
		!raw_read(&exposed, sizeof exposed) || exposed.ring_size != *(size_t *)argument)
		return argument;
	raw_frame(FRAME_ATTACHED, 0, 0, NULL);
	return NULL;
}

static void open_standby(size_t ring_size)
{
	char address[48];
	struct sockaddr_in to;
	free_port(address, sizeof address);
	assert_int_equal(tcp->listen(address, &listener), 0);
	raw = raw_socket(address, &to);
	assert_int_equal(connect(raw, (struct sockaddr *)&to, sizeof to), 0);
	struct pollfd pollfd = {.fd = tcp->listener_fd(listener), .events = POLLIN};
	assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
	assert_int_equal(tcp->accept(listener, &ours), 0);
	memory = memfd_make("test guest", PAIR_MEMORY);
	guest = mmap(NULL, PAIR_MEMORY, PROT_READ, MAP_SHARED, memory, 0);
	if (ring_size == 0)
		return;
	pthread_t thread;
	void *failed;
	pthread_create(&thread, NULL, raw_attach, &ring_size);
	assert_int_equal(tcp->expose(ours, ring_size, memory, PAIR_MEMORY, PAIR_SECRET), 0);
	pthread_join(thread, &failed);
	assert_null(failed);
}

static void close_standby(void)
{
	tcp->close(ours);
	tcp->listener_close(listener);
	munmap(guest, PAIR_MEMORY);
	close(memory);
	close(raw);
}

static void assert_refused(void)
{
	size_t length;
	assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), -ECONNRESET);
	assert_non_null(strstr(fail_message(), "protocol"));
	assert_int_equal(tcp->send(ours, bytes, 1), -ECONNRESET);
}

/* Reads a message of 5 bytes, says as much, and goes. */
static void *answer_and_go(void *unused)
{
	struct tcp_frame frame;
	uint8_t body[5];
	if (!raw_read(&frame, sizeof frame) || !raw_read(body, sizeof body))
		return unused;
	raw_frame(FRAME_MESSAGE, 5, 0, "never");
	shutdown(raw, SHUT_RDWR);
	return NULL;
}

/* The answer may be there, and the end of the connection behind it, before the call that sends has returned. */
static void what_was_sent_was_sent_however_soon_the_peer_goes(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		pthread_t thread;
		size_t length;
		open_standby(0);
		pthread_create(&thread, NULL, answer_and_go, NULL);
		assert_int_equal(tcp->send(ours, "hello", 5), 0);
		assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), 0);
		assert_memory_equal(back, "never", 5);
		pthread_join(thread, NULL);
		assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), -ECONNRESET);
		close_standby();
	}
}

/* A message that went through shows that what came before it did. */
static void assert_still_open(void)
{
	size_t length;
	raw_frame(FRAME_MESSAGE, 5, 0, "still");
	assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), 0);
	assert_int_equal(length, 5);
}

static void a_frame_that_may_not_come_ends_the_connection(void **state)
{
	(void)state;
	static const struct {
		size_t ring; /* 0: not exposed */
		struct tcp_frame frame;
	} cases[] = {
		{0, {.type = 0}},
		{0, {.type = FRAME_EXPOSED, .length = 16}},
		{0, {.type = FRAME_ATTACHED}},
		{0, {.type = FRAME_MEMORY}},
		{0, {.type = FRAME_MEMORY_END, .at = 1}},
		{0, {.type = FRAME_LOG}},
		{0, {.type = FRAME_ACK, .at = 8}},
		{0, {.type = FRAME_MESSAGE, .length = MESSAGE_MAX + 1}},
		{0, {.type = FRAME_MESSAGE, .length = UINT32_MAX}},
		{0, {.type = FRAME_MESSAGE, .at = 1}},
		{PAIR_RING, {.type = FRAME_MESSAGE, .counter = 1}},
		{PAIR_RING, {.type = FRAME_ACK + 1}},
		{PAIR_RING, {.type = 32 + FRAME_LOG, .length = 8}},
		{PAIR_RING, {.type = UINT16_MAX}},
		{PAIR_RING, {.type = FRAME_EXPOSED, .length = 16}},
		{PAIR_RING, {.type = FRAME_ATTACHED}},
		{PAIR_RING, {.type = FRAME_MEMORY_DONE, .at = 1}},
		{PAIR_RING, {.type = FRAME_ACK, .at = 8}},
		{PAIR_RING, {.type = FRAME_MEMORY, .length = 1, .at = PAIR_MEMORY}},
		{PAIR_RING, {.type = FRAME_MEMORY, .length = PAIR_MEMORY + 1}},
		{PAIR_RING, {.type = FRAME_MEMORY, .length = 2, .at = UINT64_MAX}},
		{PAIR_RING, {.type = FRAME_MEMORY, .length = UINT32_MAX, .at = 1}},
		{PAIR_RING, {.type = FRAME_MEMORY_END, .length = 1}},
		{PAIR_RING, {.type = FRAME_LOG, .length = PAIR_RING + 1}},
		{PAIR_RING, {.type = FRAME_LOG, .length = UINT32_MAX}},
		{PAIR_RING, {.type = FRAME_LOG, .length = 8, .at = UINT64_MAX - 7}},
		{PAIR_RING, {.type = FRAME_LOG, .length = 8, .counter = 1}},
	};
	memset(bytes, 0xee, sizeof bytes);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		open_standby(cases[i].ring);
		raw_write(&cases[i].frame, sizeof cases[i].frame);
		raw_write(bytes, 4096);
		assert_refused();
		for (size_t at = 0; at < PAIR_MEMORY; at++)
			assert_int_equal(guest[at], 0);
		const uint8_t *ring = tcp->ring(ours);
		for (size_t at = 0; ring && at < PAIR_RING; at++)
			assert_int_equal(ring[at], 0);
		close_standby();
	}
}

/* Also one byte at a time, so that each part of it is cut everywhere. */
static void frames_may_arrive_in_any_parts(void **state)
{
	(void)state;
	for (int slow = 0; slow < 2; slow++) {
		uint8_t all[400], *end = all;
		size_t length;
		open_standby(PAIR_RING);
		fill_random(bytes, 64, 3);
		const struct tcp_frame frames[] = {{.type = FRAME_MEMORY, .length = 64, .at = 100},
			{.type = FRAME_MESSAGE, .length = 33},
			{.type = FRAME_LOG, .length = 40, .at = PAIR_RING - 20},
			{.type = FRAME_LOG, .length = 0, .at = PAIR_RING + 20},
			{.type = FRAME_MESSAGE},
			{.type = FRAME_LOG, .length = 24, .at = PAIR_RING + 20},
			{.type = FRAME_MEMORY_END, .at = 9}};
		for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
			memcpy(end, &frames[i], sizeof frames[i]);
			memcpy(end + sizeof frames[i], bytes, frames[i].length);
			end += sizeof frames[i] + frames[i].length;
		}
		setsockopt(raw, IPPROTO_TCP, 1 /* TCP_NODELAY */, &(int){1}, sizeof(int));
		for (const uint8_t *at = all; at < end;) {
			size_t part = slow ? 1 : (size_t)(end - all);
			raw_write(at, part);
			at += part;
			if (slow)
				sched_yield();
		}
		assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), 0);
		assert_int_equal(length, 33);
		assert_memory_equal(back, bytes, 33);
		assert_int_equal(tcp->recv(ours, back, sizeof back, &length, LONG_MS), 0);
		assert_int_equal(length, 0);
		struct tcp_frame done;
		assert_true(raw_read(&done, sizeof done));
		assert_int_equal(done.type, FRAME_MEMORY_DONE);
		assert_int_equal(done.at, 9);
		assert_memory_equal(guest + 100, bytes, 64);
		assert_memory_equal(tcp->ring(ours) + PAIR_RING - 20, bytes, 40);
		assert_memory_equal(tcp->ring(ours) + 20, bytes, 24);
		close_standby();
	}
}

/* L3 */
static void log_that_does_not_follow_is_not_placed(void **state)
{
	(void)state;
	static const int64_t off[] = {-1, 1, -100, 100, -(int64_t)PAIR_RING, PAIR_RING, 1ll << 40};
	for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) {
		open_standby(PAIR_RING);
		fill_random(bytes, 200, 1);
		raw_frame(FRAME_LOG, 200, 3 * PAIR_RING, bytes);
		assert_still_open();
		memset(back, 0xee, 200);
		raw_frame(FRAME_LOG, 200, 3 * PAIR_RING + 200 + (uint64_t)off[i], back);
		assert_refused();
		const uint8_t *ring = tcp->ring(ours);
		assert_memory_equal(ring, bytes, 200);
		for (size_t at = 200; at < PAIR_RING; at++)
			assert_int_equal(ring[at], 0);
		close_standby();
	}
}

/* L3: a full ring takes nothing; what is reported as consumed makes as much room, and no more. */
static void what_is_not_consumed_is_not_overwritten(void **state)
{
	(void)state;
	static const struct {
		uint64_t consumed; /* counted from the start; 0: nothing is reported */
		uint32_t fits;
	} cases[] = {{0, 0}, {8, 8}, {1000, 1000}, {PAIR_RING, PAIR_RING}};
	const uint64_t start = 7 * PAIR_RING + 24;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		open_standby(PAIR_RING);
		fill_random(bytes, 2 * PAIR_RING, 1);
		raw_frame(FRAME_LOG, PAIR_RING - 100, start, bytes);
		raw_frame(FRAME_LOG, 100, start + PAIR_RING - 100, bytes + PAIR_RING - 100);
		assert_still_open();
		if (cases[i].consumed)
			assert_int_equal(
				tcp->write_ack(ours, ACK_CONSUMED, start + cases[i].consumed), 0);
		raw_frame(FRAME_LOG, cases[i].fits, start + PAIR_RING, bytes + PAIR_RING);
		assert_still_open();
		memset(back, 0xee, PAIR_RING);
		raw_frame(FRAME_LOG, 1, start + PAIR_RING + cases[i].fits, back);
		assert_refused();
		const uint8_t *ring = tcp->ring(ours) + start % PAIR_RING;
		assert_memory_equal(ring, bytes + PAIR_RING, cases[i].fits);
		assert_memory_equal(
			ring + cases[i].fits, bytes + cases[i].fits, PAIR_RING - cases[i].fits);
		close_standby();
	}
}

static void memory_is_not_written_once_it_is_withdrawn(void **state)
{
	(void)state;
	/* Between two frames, and within one. */
	for (uint32_t sent = 0; sent <= 300; sent += 300) {
		open_standby(PAIR_RING);
		memset(bytes, 0xee, 1000);
		struct tcp_frame frame = {.type = FRAME_MEMORY, .length = 1000, .at = 0};
		raw_frame(FRAME_MEMORY, 8, 4096, bytes);
		if (sent)
			raw_write(&frame, sizeof frame);
		raw_write(bytes, sent);
		assert_true(eventually(guest[sent ? 299 : 4096] == 0xee));
		tcp->withdraw_memory(ours);
		if (!sent)
			raw_write(&frame, sizeof frame);
		raw_write(bytes, 1000 - sent);
		assert_refused();
		assert_int_equal(guest[sent], 0);
		assert_int_equal(guest[999], 0);
		close_standby();
	}
}

static void nothing_is_placed_after_the_fence(void **state)
{
	(void)state;
	open_standby(PAIR_RING);
	memset(bytes, 0xee, 1000);
	raw_frame(FRAME_LOG, 8, 0, bytes);
	assert_still_open();
	tcp->fence(ours);
	raw_frame(FRAME_LOG, 8, 8, bytes);
	raw_frame(FRAME_MEMORY, 8, 0, bytes);
	raw_frame(FRAME_MESSAGE, 8, 0, bytes);
	usleep(2000);
	assert_int_equal(tcp->ring(ours)[7], 0xee);
	assert_int_equal(tcp->ring(ours)[8], 0);
	assert_int_equal(guest[0], 0);
	close_standby();
}

/* A peer that reads nothing costs no time and no memory, and in the end gets the newest values. */
static void acks_that_nobody_reads_are_not_piled_up(void **state)
{
	(void)state;
	open_standby(PAIR_RING);
	uint64_t value, last[ACK_COUNTERS] = {0};
	/* Until the kernel has taken all that it takes, and then some. */
	struct pollfd pollfd = {.fd = raw, .events = POLLIN};
	for (value = 8; value < 8 * 200000; value += 8) {
		assert_int_equal(tcp->write_ack(ours, ACK_RECEIVED, value), 0);
		assert_int_equal(tcp->write_ack(ours, ACK_REPLAYED, value - 8), 0);
	}
	unsigned frames = 0;
	while (last[ACK_RECEIVED] != value - 8 || last[ACK_REPLAYED] != value - 16) {
		struct tcp_frame frame;
		assert_int_equal(poll(&pollfd, 1, (int)LONG_MS), 1);
		assert_true(raw_read(&frame, sizeof frame));
		assert_int_equal(frame.type, FRAME_ACK);
		assert_int_equal(frame.length, 0);
		assert_true(frame.counter == ACK_RECEIVED || frame.counter == ACK_REPLAYED);
		assert_true(frame.at >= last[frame.counter] && frame.at < value);
		last[frame.counter] = frame.at;
		frames++;
	}
	assert_true(frames < 2 * 200000);
	close_standby();
}

/* ---- Ours as the primary ---- */

static int raw_listener;

static void open_primary(size_t ring_size)
{
	char address[48];
	struct sockaddr_in to;
	free_port(address, sizeof address);
	raw_listener = raw_socket(address, &to);
	assert_int_equal(bind(raw_listener, (struct sockaddr *)&to, sizeof to), 0);
	assert_int_equal(listen(raw_listener, 1), 0);
	assert_int_equal(tcp->connect(address, LONG_MS, &ours), 0);
	raw = accept4(raw_listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(raw >= 0);
	if (ring_size == 0)
		return;
	const struct tcp_exposed exposed = {.ring_size = ring_size, .memory_size = PAIR_MEMORY};
	struct tcp_frame frame;
	raw_frame(FRAME_EXPOSED, sizeof exposed, 0, &exposed);
	assert_int_equal(tcp->attach(ours, ring_size, PAIR_MEMORY, PAIR_SECRET), 0);
	assert_true(raw_read(&frame, sizeof frame));
	assert_int_equal(frame.type, FRAME_ATTACHED);
}

static void close_primary(void)
{
	tcp->close(ours);
	close(raw);
	close(raw_listener);
}

static void what_a_standby_may_not_send_ends_the_connection(void **state)
{
	(void)state;
	static const struct {
		size_t ring; /* 0: not attached */
		struct tcp_frame frame;
	} cases[] = {
		{0, {.type = FRAME_EXPOSED, .length = 15}},
		{0, {.type = FRAME_EXPOSED, .length = 17}},
		{0, {.type = FRAME_EXPOSED, .length = UINT32_MAX}},
		{0, {.type = FRAME_ACK, .at = 8}},
		{0, {.type = FRAME_MEMORY_DONE, .at = 1}},
		{0, {.type = FRAME_LOG, .length = 8}},
		{0, {.type = FRAME_MEMORY, .length = 8}},
		{PAIR_RING, {.type = FRAME_EXPOSED, .length = 16}},
		{PAIR_RING, {.type = FRAME_ATTACHED}},
		{PAIR_RING, {.type = FRAME_LOG, .length = 8}},
		{PAIR_RING, {.type = FRAME_MEMORY, .length = 8}},
		{PAIR_RING, {.type = FRAME_MEMORY_END, .at = 1}},
		{PAIR_RING, {.type = FRAME_MEMORY_DONE, .at = 1}},
		{PAIR_RING, {.type = FRAME_MEMORY_DONE}},
		{PAIR_RING, {.type = FRAME_ACK, .at = 8, .length = 1}},
		{PAIR_RING, {.type = FRAME_ACK, .at = 8, .counter = ACK_COUNTERS}},
		{PAIR_RING, {.type = FRAME_ACK, .at = 8, .counter = UINT16_MAX}},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		open_primary(cases[i].ring);
		raw_write(&cases[i].frame, sizeof cases[i].frame);
		raw_write(bytes, 4096);
		assert_refused();
		close_primary();
	}
}

static void an_offer_of_another_size_is_not_attached_to(void **state)
{
	(void)state;
	static const struct tcp_exposed offers[] = {{PAIR_RING * 2, PAIR_MEMORY},
		{PAIR_RING, PAIR_MEMORY - 1}, {0, 0}, {UINT64_MAX, UINT64_MAX}};
	for (size_t i = 0; i < sizeof offers / sizeof offers[0]; i++) {
		open_primary(0);
		raw_frame(FRAME_EXPOSED, sizeof offers[i], 0, &offers[i]);
		assert_int_equal(tcp->attach(ours, PAIR_RING, PAIR_MEMORY, PAIR_SECRET), -EPROTO);
		assert_null(tcp->acks(ours));
		close_primary();
	}
}

/* What the socket has no room for waits, in order, and holds nobody up; messages overtake it
 * between two frames. */
static void log_that_finds_no_room_arrives_later(void **state)
{
	(void)state;
	enum { RING = 16u << 20, PART = 30011, PIECES = 300 };
	const uint64_t start = 5 * (uint64_t)RING - 1000;
	open_primary(RING);
	fill_random(bytes, sizeof bytes, 5);
	uint64_t lsn = start;
	for (unsigned i = 0; lsn + PART <= start + RING; i++, lsn += PART) {
		struct iovec pieces[PIECES];
		/* Now in one piece, now in more than go to the socket at once. */
		int count = i % 3 ? 1 : PIECES;
		for (int k = 0; k < count; k++)
			pieces[k] = (struct iovec){
				bytes + (lsn - start) % 70000 + k * (PART / PIECES), PART / PIECES};
		pieces[count - 1].iov_len = (size_t)(PART - (count - 1) * (PART / PIECES));
		assert_int_equal(tcp->write_log(ours, lsn, pieces, count), 0);
		assert_int_equal(tcp->written(ours), lsn + PART);
	}
	uint64_t expected = start;
	unsigned frames = 0;
	while (expected < lsn) {
		struct tcp_frame frame;
		assert_true(raw_read(&frame, sizeof frame));
		assert_int_equal(frame.type, FRAME_LOG);
		assert_int_equal(frame.at, expected);
		assert_true(frame.length > 0 && frame.length <= sizeof back);
		assert_true(raw_read(back, frame.length));
		for (uint32_t i = 0; i < frame.length; i++) {
			uint64_t offset = expected + i - start;
			uint64_t first = offset / PART * PART;
			if (back[i] != bytes[first % 70000 + offset % PART])
				assert_int_equal(offset, UINT64_MAX);
		}
		expected += frame.length;
		frames++;
	}
	close_primary();
}

/* The kernel's, with which another thread than the test's can be held up. */
static pthread_t test_thread;
static atomic_bool hold_up, is_held_up;
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	while (atomic_load(&hold_up) && !pthread_equal(pthread_self(), test_thread)) {
		atomic_store(&is_held_up, true);
		usleep(20);
	}
	return syscall(SYS_sendmsg, fd, message, flags);
}

/* The guest stands still in write_log, so that must not take the time that another thread's system
 * call takes. */
static void a_write_waits_for_nobody_who_sends(void **state)
{
	(void)state;
	enum { RING = 16u << 20, PART = 1u << 20 };
	test_thread = pthread_self();
	open_primary(RING);
	fill_random(bytes, sizeof bytes, 7);
	struct iovec piece = {bytes, PART};
	uint64_t lsn = 0;
	for (; lsn < RING - PART; lsn += PART)
		assert_int_equal(tcp->write_log(ours, lsn, &piece, 1), 0);
	atomic_store(&hold_up, true);
	uint64_t expected = 0, left = 0;
	while (expected < RING) {
		struct tcp_frame frame;
		if (left == 0) {
			assert_true(raw_read(&frame, sizeof frame));
			assert_int_equal(frame.type, FRAME_LOG);
			assert_int_equal(frame.at, expected);
			left = frame.length;
		}
		uint64_t part = left < 4096 ? left : 4096;
		part = part < PART - expected % PART ? part : PART - expected % PART;
		assert_true(raw_read(back, part));
		assert_memory_equal(back, bytes + expected % PART, part);
		expected += part;
		left -= part;
		if (lsn < RING && atomic_load(&is_held_up)) {
			assert_int_equal(tcp->write_log(ours, lsn, &piece, 1), 0);
			lsn += PART;
			atomic_store(&hold_up, false);
		}
	}
	assert_int_equal(lsn, RING);
	close_primary();
}

static void a_standby_that_claims_to_have_what_was_not_sent_is_found_out(void **state)
{
	(void)state;
	enum { RING = 65536 };
	open_primary(RING);
	struct iovec piece = {bytes, RING / 2};
	int error = 0;
	unsigned count = 0;
	/* As if each were acknowledged, while nothing is read. */
	for (uint64_t lsn = 0; !error && count < 1000; lsn += RING / 2, count++)
		error = tcp->write_log(ours, lsn, &piece, 1);
	assert_int_equal(error, -ECONNRESET);
	assert_non_null(strstr(fail_message(), "not sent"));
	close_primary();
}

static void random_bytes_do_no_harm(void **state)
{
	(void)state;
	uint64_t random = 23;
	for (int round = 0; round < 300; round++) {
		size_t length;
		bool is_standby = round % 2;
		if (is_standby)
			open_standby(PAIR_RING);
		else
			open_primary(PAIR_RING);
		for (int i = 0; i < 6; i++) {
			struct tcp_frame frame;
			fill_random((uint8_t *)&frame, sizeof frame, next_random(&random));
			/* Most could be right, or nearly. */
			if (next_random(&random) % 8) {
				frame.type = (uint16_t)(next_random(&random) % 10);
				frame.length = (uint32_t)(next_random(&random) % 200);
				frame.at = next_random(&random) % 300;
				frame.counter %= 2;
			}
			raw_write(&frame, sizeof frame);
			raw_write(bytes, next_random(&random) % 256);
		}
		shutdown(raw, SHUT_WR);
		int error;
		do {
			error = tcp->recv(ours, back, sizeof back, &length, LONG_MS);
		} while (error == 0);
		assert_int_equal(error, -ECONNRESET);
		if (is_standby)
			close_standby();
		else
			close_primary();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(a_frame_that_may_not_come_ends_the_connection),
		TEST(frames_may_arrive_in_any_parts),
		TEST(log_that_does_not_follow_is_not_placed),
		TEST(what_is_not_consumed_is_not_overwritten),
		TEST(memory_is_not_written_once_it_is_withdrawn),
		TEST(nothing_is_placed_after_the_fence),
		TEST(acks_that_nobody_reads_are_not_piled_up),
		TEST(what_a_standby_may_not_send_ends_the_connection),
		TEST(an_offer_of_another_size_is_not_attached_to),
		TEST(log_that_finds_no_room_arrives_later),
		TEST(a_write_waits_for_nobody_who_sends),
		TEST(a_standby_that_claims_to_have_what_was_not_sent_is_found_out),
		TEST(random_bytes_do_no_harm),
		TEST(what_was_sent_was_sent_however_soon_the_peer_goes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

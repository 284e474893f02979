/* How the verbs provider uses a device: chains, slots, keys, sounds. */
#include "verbs_pair.h"

#include "transport/log_reader.h"

static struct ack_reader reader_of(struct pair *pair, enum ack_counter counter)
{
	return (struct ack_reader){
		.block = verbs->acks(pair->primary), .secret = PAIR_SECRET, .counter = counter};
}

static struct verbs_link *log_link(struct connection *c)
{
	return &c->links[VERBS_LOG];
}

/* ---- Meeting ---- */

/* Connects, and looks at what each side asks of its two links. */
static void check_patience(unsigned ack_timeout)
{
	struct pair pair;
	unsigned ids = 0;
	pair_connect(&pair);
	for (struct fake_id *id = fake.ids; id; id = id->next) {
		if (id->listens)
			continue;
		ids++;
		assert_int_equal(id->ack_timeout, ack_timeout);
		assert_in_range(id->parameters.retry_count, 1, 6);
		assert_int_equal(id->parameters.rnr_retry_count, 7);
		assert_int_equal(id->parameters.responder_resources, 0);
		assert_int_equal(((struct fake_qp *)id->id.qp)->rnr_timer, 12);
	}
	assert_int_equal(ids, 4);
	pair_close(&pair);
}

static void both_sides_give_up_a_silent_peer_when_its_heartbeats_do_and_wait_for_a_slow_one(
	void **state)
{
	(void)state;
	/* Seven times 4.096 us << 14 are 470 ms, and << 17 are 3.8 s. */
	check_patience(14);
	provider_set_silence(5000);
	check_patience(17);
	provider_set_silence(600000);
	check_patience(20);
	provider_set_silence(1);
	check_patience(5);
	provider_set_silence(500);
	check_patience(14);
}

/* ---- The keys ---- */

static unsigned count_remote(const struct fake_mr **only)
{
	unsigned count = 0;
	pthread_mutex_lock(&fake.lock);
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next) {
		/* Nobody may read, and the order of writes is never given up. */
		assert_int_equal(
			mr->access & ~(unsigned)(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE),
			0);
		if (!(mr->access & IBV_ACCESS_REMOTE_WRITE))
			continue;
		count++;
		*only = mr;
	}
	pthread_mutex_unlock(&fake.lock);
	return count;
}

static bool is_remote(const void *base, size_t size)
{
	bool found = false;
	pthread_mutex_lock(&fake.lock);
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		found |= mr->mr.addr == base && mr->mr.length == size &&
			 (mr->access & IBV_ACCESS_REMOTE_WRITE);
	pthread_mutex_unlock(&fake.lock);
	return found;
}

static void the_keys_cover_what_is_shared_and_end_with_it(void **state)
{
	(void)state;
	struct pair pair;
	const struct fake_mr *last;
	pair_connect(&pair);
	assert_int_equal(count_remote(&last), 0);
	pair_close(&pair);

	pair_open(&pair);
	const uint8_t *ring = verbs->ring(pair.standby);
	assert_int_equal(count_remote(&last), 3);
	assert_true(is_remote(ring, PAIR_RING));
	assert_true(is_remote(pair.standby->memory, PAIR_MEMORY));
	assert_true(is_remote(verbs->acks(pair.primary), ACK_COUNTERS * sizeof(struct ack_cell)));
	verbs->withdraw_memory(pair.primary);
	assert_int_equal(count_remote(&last), 3);
	verbs->withdraw_memory(pair.standby);
	assert_int_equal(count_remote(&last), 2);
	verbs->withdraw_memory(pair.standby);
	verbs->fence(pair.standby);
	assert_false(is_remote(ring, PAIR_RING));
	/* The other side's ends when it hears of it. */
	assert_true(eventually(count_remote(&last) == 0));
	pair_close(&pair);
}

static void what_is_written_after_the_withdrawal_ends_the_connection(void **state)
{
	(void)state;
	struct pair pair;
	uint8_t byte;
	size_t length;
	pair_open(&pair);
	assert_int_equal(verbs->write_memory(pair.primary, 0, source, 4096), 0);
	assert_int_equal(verbs->finish_memory(pair.primary, LONG_MS), 0);
	assert_memory_equal(pair.guest, source, 4096);
	verbs->withdraw_memory(pair.standby);
	assert_int_equal(verbs->write_memory(pair.primary, 0, source + 1, 4096), 0);
	assert_int_equal(verbs->finish_memory(pair.primary, LONG_MS), -ECONNRESET);
	assert_non_null(strstr(fail_message(), "withdrawn"));
	assert_memory_equal(pair.guest, source, 4096);
	assert_int_equal(verbs->recv(pair.standby, &byte, 1, &length, LONG_MS), -ECONNRESET);
	pair_close(&pair);
}

/* ---- Chains ---- */

static void a_flush_is_one_chain_split_at_the_gather_limit_and_the_rings_end(void **state)
{
	(void)state;
	struct pair pair;
	struct iovec pieces[100];
	size_t length = 0;
	pair_open(&pair);
	/* Every second piece of the source, so that none are neighbours. */
	for (unsigned i = 0; i < 100; i++) {
		pieces[i] = (struct iovec){source + i * 200, 100 + i % 7};
		length += pieces[i].iov_len;
	}
	uint64_t lsn = 3 * PAIR_RING - 5008;
	unsigned posts = fake.calls[FAKE_POST_SEND], signalled = fake.signalled;
	fake.requests = fake.longest_gather = 0;
	assert_int_equal(verbs->write_log(pair.primary, lsn, pieces, 100), 0);
	assert_int_equal(fake.calls[FAKE_POST_SEND], posts + 1);
	assert_int_equal(fake.longest_gather, 16);
	/* 16 at most in each, and one more where the ring ends. */
	assert_in_range(fake.requests, 7, 8);
	assert_int_equal(fake.signalled, signalled + 1);
	assert_true(eventually(verbs->written(pair.primary) == lsn + length));
	const uint8_t *ring = verbs->ring(pair.standby);
	for (unsigned i = 0; i < 100; lsn += pieces[i++].iov_len)
		assert_memory_equal(ring + lsn % PAIR_RING, pieces[i].iov_base, pieces[i].iov_len);
	pair_close(&pair);
}

static void a_device_that_gathers_less_gets_smaller_requests(void **state)
{
	(void)state;
	struct pair pair;
	struct iovec pieces[20];
	fake.max_sge = 3;
	pair_open(&pair);
	for (unsigned i = 0; i < 20; i++)
		pieces[i] = (struct iovec){source + i * 64, 32};
	fake.requests = 0;
	assert_int_equal(verbs->write_log(pair.primary, 0, pieces, 20), 0);
	assert_int_equal(fake.requests, 7);
	for (unsigned i = 0; i < 20; i++)
		assert_memory_equal(verbs->ring(pair.standby) + i * 32, source + i * 64, 32);
	pair_close(&pair);
}

static void no_byte_of_the_log_is_copied_on_its_way(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	fake_pause(true);
	assert_int_equal(write_source(&pair, 8, 1000, 5000), 0);
	const struct fake_qp *qp = (const struct fake_qp *)log_link(pair.primary)->id->qp;
	assert_int_equal(qp->sends->gather[0].addr, (uintptr_t)(source + 1000));
	assert_int_equal(qp->sends->gather[0].length, 5000);
	fake_pause(false);
	pair_close(&pair);
}

static void what_is_small_travels_inside_its_request(void **state)
{
	(void)state;
	struct pair pair;
	static const unsigned limits[] = {512, 256, 255, 100, 16, 15, 0};
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		fake.max_inline = limits[i];
		pair_open(&pair);
		unsigned most = log_link(pair.primary)->inline_bytes;
		assert_int_equal(most, limits[i] < 16 ? 0 : limits[i]);
		fake_pause(true);
		assert_int_equal(write_source(&pair, 0, 8, most), 0);
		assert_int_equal(write_source(&pair, most, most + 8, most + 1), 0);
		const struct fake_request *request =
			((const struct fake_qp *)log_link(pair.primary)->id->qp)->sends;
		if (most > 0) {
			assert_non_null(request->inline_data);
			request = request->next;
		}
		assert_null(request->inline_data);
		fake_pause(false);
		assert_memory_equal(verbs->ring(pair.standby), source + 8, 2 * most + 1);
		pair_close(&pair);
	}
}

static void memory_that_was_not_registered_is_not_read(void **state)
{
	(void)state;
	struct pair pair;
	static uint8_t other[16];
	struct iovec pieces[] = {{source, 8}, {other, 8}}, over = {source + sizeof source - 8, 9};
	pair_open(&pair);
	fake.requests = 0;
	assert_int_equal(verbs->write_log(pair.primary, 0, pieces, 2), -EFAULT);
	assert_int_equal(verbs->write_log(pair.primary, 0, &over, 1), -EFAULT);
	assert_int_equal(fake.requests, 0);
	assert_int_equal(verbs->register_source(pair.primary, other, sizeof other), 0);
	assert_int_equal(verbs->write_log(pair.primary, 0, pieces, 2), 0);
	pair_close(&pair);
}

/* ---- Slots ---- */

static void slots_are_counted_and_what_finds_none_waits(void **state)
{
	(void)state;
	struct pair pair;
	uint64_t head = 0;
	pair_open(&pair);
	fake_pause(true);
	/* Far more flushes than slots; not one blocks. */
	for (unsigned i = 0; i < 1000; i++, head += 56)
		assert_int_equal(write_source(&pair, head, head, 56), 0);
	assert_int_equal(fake_waiting(), 256);
	assert_int_equal(verbs->written(pair.primary), 0);
	/* Written follows the completions, and nothing else. */
	fake_proceed(10);
	/* The connection's own thread may be at it. */
	assert_true(eventually(verbs->written(pair.primary) == 560));
	assert_memory_equal(verbs->ring(pair.standby), source, 560);
	fake_pause(false);
	/* The connection's own thread goes on with the rest. */
	assert_true(eventually(verbs->written(pair.primary) == head));
	assert_memory_equal(verbs->ring(pair.standby), source, head);
	/* What had to wait went in few requests. */
	assert_in_range(fake.requests, 256, 300);
	pair_close(&pair);
}

static void a_long_chain_asks_for_completions_every_quarter(void **state)
{
	(void)state;
	struct pair pair;
	static struct iovec pieces[4096];
	pair_open(&pair);
	for (unsigned i = 0; i < 2048; i++)
		pieces[i] = (struct iovec){source + i * 16, 8};
	fake.signalled = fake.requests = 0;
	assert_int_equal(verbs->write_log(pair.primary, 0, pieces, 2048), 0);
	assert_int_equal(fake.requests, 128);
	assert_int_equal(fake.signalled, 2);
	for (unsigned i = 0; i < 4096; i++)
		pieces[i] = (struct iovec){source + i * 16, 8};
	uint64_t done = 2048 * 8;
	assert_true(eventually(verbs->written(pair.primary) == done));
	fake.signalled = fake.requests = 0;
	assert_int_equal(verbs->write_log(pair.primary, done, pieces, 4096), 0);
	assert_int_equal(fake.requests, 256);
	assert_int_equal(fake.signalled, 4);
	assert_true(eventually(verbs->written(pair.primary) == done + 4096 * 8));
	pair_close(&pair);
}

static void pieces_beyond_what_can_wait_are_not_taken(void **state)
{
	(void)state;
	struct pair pair;
	struct iovec pieces[64];
	uint64_t lsn = 0;
	int error;
	pair_open(&pair);
	for (unsigned i = 0; i < 64; i++)
		pieces[i] = (struct iovec){source + i * 16, 8};
	fake_pause(true);
	while ((error = verbs->write_log(pair.primary, lsn, pieces, 64)) == 0)
		lsn += 64 * 8;
	assert_int_equal(error, -EAGAIN);
	assert_true(lsn >= (256 + 4096 - 64) * 8);
	fake_pause(false);
	assert_true(eventually(verbs->written(pair.primary) == lsn));
	assert_int_equal(verbs->write_log(pair.primary, lsn, pieces, 64), 0);
	for (uint64_t at = lsn - PAIR_RING / 2; at < lsn; at += 8)
		assert_memory_equal(
			verbs->ring(pair.standby) + at % PAIR_RING, source + at / 8 % 64 * 16, 8);
	pair_close(&pair);
}

static void a_small_queue_does_as_well(void **state)
{
	(void)state;
	struct pair pair;
	fake.max_qp_wr = 16;
	pair_open(&pair);
	for (uint64_t lsn = 0; lsn < 3 * PAIR_RING; lsn += 512)
		assert_int_equal(write_source(&pair, lsn, lsn, 512), 0);
	assert_true(eventually(verbs->written(pair.primary) == 3 * PAIR_RING));
	assert_memory_equal(verbs->ring(pair.standby), source + 2 * PAIR_RING, PAIR_RING);
	for (uint64_t value = 8; value < 2000; value += 8)
		assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, value), 0);
	struct ack_reader reader = reader_of(&pair, ACK_RECEIVED);
	assert_true(eventually(ack_read(&reader, UINT64_MAX) == 1992));
	pair_close(&pair);
	fake.max_qp_wr = 15;
	/* One that is smaller still is refused. */
	assert_int_equal(verbs->listen(PLACE, &pair.listener), 0);
	assert_int_equal(verbs->connect(PLACE, LONG_MS, &pair.primary), -EOPNOTSUPP);
	verbs->listener_close(pair.listener);
}

/* ---- Placement ---- */

static void an_entry_that_is_placed_in_pieces_is_seen_only_when_whole(void **state)
{
	(void)state;
	struct pair pair;
	struct log_reader reader;
	struct log_entry entry;
	static uint8_t payload[700];
	uint64_t lsn = 5 * PAIR_RING - 1000, next = lsn;
	pair_open(&pair);
	fill_random(payload, sizeof payload, 3);
	log_reader_ring(&reader, verbs->ring(pair.standby), PAIR_RING, PAIR_SECRET, lsn);
	fake_pause(true);
	/* Several entries are on their way at once, and their bytes arrive in any order. */
	for (unsigned i = 0; i < 4; i++) {
		uint32_t length = 100 + i * 190;
		size_t size = log_entry_size(length);
		log_encode(source + next % PAIR_RING, PAIR_SECRET, next, LOG_NET_RX, i, 0, payload,
			length);
		assert_int_equal(write_source(&pair, next, next % PAIR_RING, size), 0);
		next += size;
	}
	for (bool more = true; more;) {
		more = fake_place();
		while (log_reader_peek(&reader, &entry) == LOG_VALID) {
			assert_memory_equal(entry.payload, payload, entry.length);
			log_reader_take(&reader, &entry);
		}
		assert_true(!more || reader.next <= next);
		/* Placed is not yet finished. */
		assert_int_equal(verbs->written(pair.primary), 0);
	}
	assert_int_equal(reader.next, next);
	fake_pause(false);
	assert_true(eventually(verbs->written(pair.primary) == next));
	pair_close(&pair);
}

/* ---- Acks ---- */

static void an_ack_is_16_inline_bytes(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	fake_pause(true);
	assert_int_equal(verbs->write_ack(pair.standby, ACK_CONSUMED, 4711), 0);
	const struct fake_request *request =
		((const struct fake_qp *)log_link(pair.standby)->id->qp)->sends;
	assert_true(request->wr.send_flags & IBV_SEND_INLINE);
	assert_int_equal(request->length, 16);
	fake_pause(false);
	struct ack_reader reader = reader_of(&pair, ACK_CONSUMED);
	assert_true(eventually(ack_read(&reader, 5000) == 4711));
	pair_close(&pair);
}

static void without_inline_data_acks_have_sources_that_do_not_change(void **state)
{
	(void)state;
	struct pair pair;
	fake.max_inline = 0;
	pair_open(&pair);
	fake_pause(true);
	for (uint64_t value = 1; value <= 1000; value++)
		assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, value), 0);
	assert_int_equal(fake_waiting(), 256);
	fake_pause(false);
	struct ack_reader reader = reader_of(&pair, ACK_RECEIVED);
	assert_true(eventually(ack_read(&reader, UINT64_MAX) == 1000));
	assert_int_equal(fake.changed, 0);
	pair_close(&pair);
}

static void of_acks_that_wait_the_newest_arrive(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	fake_pause(true);
	for (uint64_t value = 1; value <= 3000; value++) {
		assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, value), 0);
		if (value % 2)
			assert_int_equal(verbs->write_ack(pair.standby, ACK_REPLAYED, value), 0);
	}
	assert_int_equal(fake_waiting(), 256);
	fake_pause(false);
	struct ack_reader received = reader_of(&pair, ACK_RECEIVED),
			  replayed = reader_of(&pair, ACK_REPLAYED);
	assert_true(eventually(ack_read(&received, UINT64_MAX) == 3000));
	assert_true(eventually(ack_read(&replayed, UINT64_MAX) == 2999));
	pair_close(&pair);
}

/* ---- Sounds ---- */

/* Sleeps without a bound that would help. */
static void *sleep_on_bell(void *argument)
{
	struct bell *bell = argument;
	bell_sleep(bell, atomic_load(&bell->rung), LONG_MS * 1000000ull);
	return NULL;
}

static void start_sleeper(struct bell *bell, pthread_t *thread)
{
	/* What came before still rings. */
	for (uint32_t rung = atomic_load(&bell->rung) - 1; rung != atomic_load(&bell->rung);) {
		rung = atomic_load(&bell->rung);
		usleep(5000);
	}
	/* And may do so late, and wake who has only just fallen asleep. */
	for (bool gone = true; gone;) {
		assert_int_equal(pthread_create(thread, NULL, sleep_on_bell, bell), 0);
		assert_true(eventually((gone = pthread_tryjoin_np(*thread, NULL) == 0) ||
				       atomic_load(&bell->sleepers) == 1));
	}
}

static void join_soon(pthread_t thread, uint64_t began)
{
	pthread_join(thread, NULL);
	assert_true(now_ns() - began < LONG_MS / 2 * 1000000ull);
}

static void who_sleeps_is_woken_by_log_and_by_acks(void **state)
{
	(void)state;
	for (int iwarp = 0; iwarp < 2; iwarp++) {
		struct pair pair;
		pthread_t thread;
		fake_device.transport_type = iwarp ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
		pair_open(&pair);
		for (uint64_t i = 0; i < 20; i++) {
			uint64_t began = now_ns();
			start_sleeper(verbs->bell(pair.standby), &thread);
			assert_int_equal(write_source(&pair, i * 64, 0, 64), 0);
			join_soon(thread, began);
			start_sleeper(verbs->bell(pair.primary), &thread);
			assert_int_equal(
				verbs->write_ack(pair.standby, ACK_RECEIVED, i * 64 + 64), 0);
			join_soon(thread, began);
		}
		pair_close(&pair);
	}
}

static void while_nobody_sleeps_writes_are_silent(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	pair_open(&pair);
	uint64_t lsn = fall_silent(&pair);
	unsigned heard = fake.heard, notifications = fake.notifications;
	for (unsigned i = 0; i < 4000; i++, lsn += 64) {
		assert_int_equal(write_source(&pair, lsn, 0, 64), 0);
		assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, lsn), 0);
	}
	assert_int_equal(fake.heard, heard);
	assert_int_equal(fake.notifications, notifications);
	/* Who falls asleep then is woken all the same, on either side. */
	uint64_t began = now_ns();
	start_sleeper(verbs->bell(pair.standby), &thread);
	assert_int_equal(write_source(&pair, lsn, 0, 64), 0);
	join_soon(thread, began);
	start_sleeper(verbs->bell(pair.primary), &thread);
	assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, lsn), 0);
	join_soon(thread, began);
	pair_close(&pair);
}

static void what_was_silent_when_somebody_fell_asleep_is_heard_afterwards(void **state)
{
	(void)state;
	for (unsigned way = 0; way < 2; way++) {
		struct pair pair;
		pthread_t thread;
		pair_open(&pair);
		uint64_t lsn = fall_silent(&pair), began = now_ns();
		/* It is posted without a sound, and arrives when the reader sleeps. */
		fake_pause(true);
		if (way == 0)
			assert_int_equal(write_source(&pair, lsn, 0, 64), 0);
		else
			assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, lsn), 0);
		start_sleeper(verbs->bell(way ? pair.primary : pair.standby), &thread);
		fake_pause(false);
		join_soon(thread, began);
		pair_close(&pair);
	}
}

static void a_word_about_sounds_waits_for_a_slot(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	pair_open(&pair);
	uint64_t lsn = fall_silent(&pair), began = now_ns();
	/* All slots are taken, on both sides, when somebody falls asleep. */
	fake_pause(true);
	for (unsigned i = 0; i < 300; i++, lsn += 64) {
		assert_int_equal(write_source(&pair, lsn, 0, 64), 0);
		assert_int_equal(verbs->write_ack(pair.standby, ACK_RECEIVED, lsn), 0);
	}
	start_sleeper(verbs->bell(pair.standby), &thread);
	usleep(50000);
	fake_pause(false);
	join_soon(thread, began);
	assert_true(eventually(verbs->written(pair.primary) == lsn));
	pair_close(&pair);
}

static void what_has_no_receive_waits_and_nothing_is_lost(void **state)
{
	(void)state;
	struct pair pair;
	fake.max_qp_wr = 32;
	pair_open(&pair);
	for (uint64_t lsn = 0; lsn < 400 * 64; lsn += 64)
		assert_int_equal(write_source(&pair, lsn, lsn, 64), 0);
	assert_true(eventually(verbs->written(pair.primary) == 400 * 64));
	assert_memory_equal(verbs->ring(pair.standby), source, 400 * 64);
	pair_close(&pair);
}

/* ---- Placed ---- */

static void placed_rings_when_a_write_is_finished(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	pair_open(&pair);
	assert_int_equal(verbs->placed(pair.primary), 0);
	for (uint64_t i = 0; i < 20; i++) {
		uint64_t began = now_ns();
		fake_pause(true);
		assert_int_equal(write_source(&pair, i * 64, 0, 64), 0);
		start_sleeper(verbs->bell(pair.primary), &thread);
		assert_int_equal(verbs->written(pair.primary), i * 64);
		fake_pause(false);
		join_soon(thread, began);
		assert_int_equal(verbs->written(pair.primary), i * 64 + 64);
	}
	pair_close(&pair);
}

static void placed_is_refused_over_iwarp(void **state)
{
	(void)state;
	struct pair pair;
	fake_device.transport_type = IBV_TRANSPORT_IWARP;
	pair_open(&pair);
	assert_int_equal(verbs->placed(pair.primary), -EOPNOTSUPP);
	assert_non_null(strstr(fail_message(), "iWARP"));
	/* Its writes make their sound by a message behind them. */
	fake_pause(true);
	assert_int_equal(write_source(&pair, 0, 0, 64), 0);
	const struct fake_request *request =
		((const struct fake_qp *)log_link(pair.primary)->id->qp)->sends;
	assert_int_equal(request->wr.opcode, IBV_WR_RDMA_WRITE);
	assert_int_equal(request->next->wr.opcode, IBV_WR_SEND);
	fake_pause(false);
	pair_close(&pair);
}

/* ---- Guest memory ---- */

static void pages_that_are_neighbours_leave_together(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair);
	fake.requests = 0;
	for (size_t at = 0; at < 128 * 1024; at += 4096)
		assert_int_equal(verbs->write_memory(pair.primary, at, source + at, 4096), 0);
	assert_int_equal(verbs->write_memory(pair.primary, 200 * 1024, source, 4096), 0);
	assert_int_equal(verbs->finish_memory(pair.primary, LONG_MS), 0);
	assert_int_equal(fake.requests, 3);
	assert_memory_equal(pair.guest, source, 128 * 1024);
	assert_memory_equal(pair.guest + 200 * 1024, source, 4096);
	pair_close(&pair);
}

static void a_message_proves_that_what_was_written_before_has_arrived(void **state)
{
	(void)state;
	struct pair pair;
	char text[8];
	size_t length;
	pair_open(&pair);
	assert_int_equal(verbs->write_memory(pair.primary, 5, source, 1000), 0);
	assert_int_equal(verbs->send(pair.primary, "written", 8), 0);
	assert_int_equal(verbs->recv(pair.standby, text, sizeof text, &length, LONG_MS), 0);
	assert_memory_equal(pair.guest + 5, source, 1000);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(both_sides_give_up_a_silent_peer_when_its_heartbeats_do_and_wait_for_a_slow_one),
		TEST(the_keys_cover_what_is_shared_and_end_with_it),
		TEST(what_is_written_after_the_withdrawal_ends_the_connection),
		TEST(a_flush_is_one_chain_split_at_the_gather_limit_and_the_rings_end),
		TEST(a_device_that_gathers_less_gets_smaller_requests),
		TEST(no_byte_of_the_log_is_copied_on_its_way),
		TEST(what_is_small_travels_inside_its_request),
		TEST(memory_that_was_not_registered_is_not_read),
		TEST(slots_are_counted_and_what_finds_none_waits),
		TEST(a_long_chain_asks_for_completions_every_quarter),
		TEST(pieces_beyond_what_can_wait_are_not_taken),
		TEST(a_small_queue_does_as_well),
		TEST(an_entry_that_is_placed_in_pieces_is_seen_only_when_whole),
		TEST(an_ack_is_16_inline_bytes),
		TEST(without_inline_data_acks_have_sources_that_do_not_change),
		TEST(of_acks_that_wait_the_newest_arrive),
		TEST(who_sleeps_is_woken_by_log_and_by_acks),
		TEST(while_nobody_sleeps_writes_are_silent),
		TEST(what_was_silent_when_somebody_fell_asleep_is_heard_afterwards),
		TEST(a_word_about_sounds_waits_for_a_slot),
		TEST(what_has_no_receive_waits_and_nothing_is_lost),
		TEST(placed_rings_when_a_write_is_finished),
		TEST(placed_is_refused_over_iwarp),
		TEST(pages_that_are_neighbours_leave_together),
		TEST(a_message_proves_that_what_was_written_before_has_arrived),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

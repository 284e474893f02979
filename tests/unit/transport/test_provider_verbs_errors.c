/* What the verbs provider does when a device, a network or a peer fails it: the role logic is told,
 * in one line, and nothing hangs or stays behind. */
#include "verbs_pair.h"

#include <sys/resource.h>

static uint8_t answer[MESSAGE_MAX];

/* The message is one line and has these words in it. */
static bool says(const char *words)
{
	const char *message = fail_message();
	if (strstr(message, words) && !strchr(message, '\n'))
		return true;
	fprintf(stderr, "not said: %s, but: %s\n", words, message);
	return false;
}

static int connect_to(const char *place)
{
	struct connection *c;
	return verbs->connect(place, 200, &c);
}

static int listen_on(const char *place)
{
	struct listener *listener;
	return verbs->listen(place, &listener);
}

/* ---- Meeting ---- */

static void impossible_addresses_are_refused(void **state)
{
	(void)state;
	static const char *const places[] = {"", "host", "host:", ":7471", "host:0", "host:65536",
		"host:7x", "host:-1", "::1:7471", "[::1]", "[]:7471", "host:7471:", "a b:"};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		assert_int_equal(listen_on(places[i]), -EINVAL);
		assert_true(says("rdma:HOST:PORT"));
		assert_int_equal(connect_to(places[i]), -EINVAL);
	}
	char longest[200];
	memset(longest, 'x', sizeof longest);
	memcpy(longest + 190, ":7471", 6);
	assert_int_equal(connect_to(longest), -EINVAL);
	assert_int_equal(connect_to("no-such-host.invalid:7471"), -EHOSTUNREACH);
	assert_true(says("no-such-host.invalid"));
}

static void a_host_without_rdma_is_told_what_to_do(void **state)
{
	(void)state;
	assert_int_equal(verbs->check(PLACE), 0);
	fake.devices = 0;
	assert_int_equal(verbs->check("nonsense"), -EINVAL);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(i == 0   ? verbs->check(PLACE)
				 : i == 1 ? listen_on(PLACE)
					  : connect_to(PLACE),
			-ENODEV);
		assert_true(says("/dev/infiniband/rdma_cm"));
		assert_true(says("devices (none)"));
		assert_true(says("rdma link add"));
		assert_true(says("tcp:" PLACE));
	}
}

static void a_place_has_one_listener_at_a_time(void **state)
{
	(void)state;
	struct listener *first;
	assert_int_equal(verbs->listen(PLACE, &first), 0);
	assert_int_equal(listen_on(PLACE), -EADDRINUSE);
	assert_true(says("address rdma:" PLACE " is in use"));
	verbs->listener_close(first);
	fake_fail(FAKE_BIND, 1, EADDRNOTAVAIL);
	assert_int_equal(listen_on(PLACE), -EADDRNOTAVAIL);
	assert_true(says("not one of this host's"));
}

static void whom_nobody_answers_is_told_why(void **state)
{
	(void)state;
	assert_int_equal(connect_to(PLACE), -ECONNREFUSED);
	assert_true(says("no standby waits on rdma:" PLACE));
	fake_fail(FAKE_RESOLVE_ADDR, 1, -ENODEV);
	assert_int_equal(connect_to(PLACE), -ENODEV);
	assert_true(says("rdma:" PLACE));
	fake_fail(FAKE_RESOLVE_ADDR, 1, -ETIMEDOUT);
	assert_int_equal(connect_to(PLACE), -ETIMEDOUT);
	fake_fail(FAKE_RESOLVE_ROUTE, 1, -EHOSTUNREACH);
	assert_int_equal(connect_to(PLACE), -EHOSTUNREACH);
	fake_fail(FAKE_CONNECT, 1, -ETIMEDOUT);
	assert_int_equal(connect_to(PLACE), -ETIMEDOUT);
	struct listener *listener;
	assert_int_equal(verbs->listen(PLACE, &listener), 0);
	fake.deaf = true;
	assert_int_equal(connect_to(PLACE), -ETIMEDOUT);
	assert_true(says("no standby answers"));
	verbs->listener_close(listener);
}

static void a_standby_that_accepts_nobody_refuses_the_fifth(void **state)
{
	(void)state;
	struct listener *listener;
	struct connection *waiting[4], *c;
	assert_int_equal(verbs->listen(PLACE, &listener), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(verbs->connect(PLACE, LONG_MS, &waiting[i]), 0);
	assert_int_equal(connect_to(PLACE), -ECONNREFUSED);
	assert_true(says("nobody just now"));
	/* One that leaves makes room. */
	verbs->close(waiting[0]);
	assert_true(eventually(verbs->connect(PLACE, LONG_MS, &waiting[0]) == 0));
	for (unsigned i = 0; i < 4; i++) {
		assert_true(eventually(verbs->accept(listener, &c) == 0));
		verbs->close(c);
	}
	for (unsigned i = 0; i < 4; i++)
		verbs->close(waiting[i]);
	assert_true(eventually(verbs->accept(listener, &c) == -EAGAIN));
	verbs->listener_close(listener);
}

/* A stranger's request to connect, with what it says of itself. Returns the last event. */
static enum rdma_cm_event_type knock(const void *greeting, uint8_t size)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct rdma_conn_param parameters = {.private_data = greeting, .private_data_len = size};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7471)};
	struct rdma_cm_id *id;
	struct rdma_cm_event *event;
	assert_int_equal(rdma_create_id(channel, &id, NULL, RDMA_PS_TCP), 0);
	rdma_resolve_addr(id, NULL, (struct sockaddr *)&address, 100);
	assert_int_equal(rdma_connect(id, &parameters), 0);
	enum rdma_cm_event_type type = RDMA_CM_EVENT_ADDR_RESOLVED;
	while (type == RDMA_CM_EVENT_ADDR_RESOLVED) {
		assert_true(eventually(rdma_get_cm_event(channel, &event) == 0));
		type = event->event;
		rdma_ack_cm_event(event);
	}
	rdma_destroy_id(id);
	rdma_destroy_event_channel(channel);
	return type;
}

static void strangers_are_refused(void **state)
{
	(void)state;
	struct pair pair;
	pair_connect(&pair);
	struct {
		uint32_t magic;
		uint16_t version, which;
		uint8_t token[16];
	} greeting = {0x6c707044u, 1, VERBS_LOG, {1, 2, 3}};
	/* Nothing, too little, another program, another version, a link to nobody's connection. */
	assert_int_equal(knock(NULL, 0), RDMA_CM_EVENT_REJECTED);
	assert_int_equal(knock("x", 1), RDMA_CM_EVENT_REJECTED);
	assert_int_equal(knock(&greeting, sizeof greeting), RDMA_CM_EVENT_REJECTED);
	memcpy(greeting.token, pair.standby->token, 16);
	assert_int_equal(knock(&greeting, sizeof greeting), RDMA_CM_EVENT_REJECTED);
	greeting.which = VERBS_BULK;
	greeting.version = 2;
	assert_int_equal(knock(&greeting, sizeof greeting), RDMA_CM_EVENT_REJECTED);
	greeting.version = 1;
	greeting.magic++;
	assert_int_equal(knock(&greeting, sizeof greeting), RDMA_CM_EVENT_REJECTED);
	/* Who was there before notices nothing. */
	size_t length;
	assert_int_equal(verbs->send(pair.primary, "hello", 5), 0);
	assert_int_equal(verbs->recv(pair.standby, answer, 5, &length, LONG_MS), 0);
	pair_close(&pair);
}

/* ---- Whatever call fails ---- */

static void *attach_or_fence(void *argument)
{
	struct pair *pair = argument;
	void *failed = pair_attach(pair);
	if (failed)
		verbs->fence(pair->primary);
	return failed;
}

/* Makes a whole connection and uses it a little. Returns whether all of it worked. */
static bool try_everything(void)
{
	struct pair pair = {.memory = memfd_make("test guest", PAIR_MEMORY)};
	pthread_t thread;
	void *failed;
	size_t length;
	bool works = false;
	if (verbs->listen(PLACE, &pair.listener) != 0)
		goto close_memory;
	if (verbs->connect(PLACE, 300, &pair.primary) != 0)
		goto close_listener;
	if (!eventually(verbs->accept(pair.listener, &pair.standby) != -EAGAIN ||
			verbs_fate_is_over(&pair.primary->fate)) ||
		!pair.standby)
		goto close_primary;
	pthread_create(&thread, NULL, attach_or_fence, &pair);
	int error = verbs->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET);
	if (error)
		verbs->fence(pair.standby);
	pthread_join(thread, &failed);
	works = !error && !failed &&
		verbs->register_source(pair.primary, source, sizeof source) == 0 &&
		verbs->write_memory(pair.primary, 0, source, 4096) == 0 &&
		verbs->finish_memory(pair.primary, LONG_MS) == 0 &&
		verbs->send(pair.primary, "x", 1) == 0 &&
		verbs->recv(pair.standby, answer, 1, &length, LONG_MS) == 0 &&
		write_source(&pair, 0, 0, 64) == 0 &&
		eventually(verbs->written(pair.primary) == 64 ||
			   verbs_fate_is_over(&pair.primary->fate)) &&
		verbs->written(pair.primary) == 64 &&
		verbs->write_ack(pair.standby, ACK_RECEIVED, 64) == 0;
	verbs->close(pair.standby);
close_primary:
	verbs->close(pair.primary);
close_listener:
	verbs->listener_close(pair.listener);
close_memory:
	close(pair.memory);
	return works;
}

static void whatever_call_fails_nothing_is_left_behind(void **state)
{
	(void)state;
	int saved = dup(STDERR_FILENO);
	assert_non_null(freopen("/dev/null", "w", stderr));
	assert_true(try_everything());
	static const enum fake_call calls[] = {FAKE_CHANNEL, FAKE_CREATE_ID, FAKE_BIND, FAKE_LISTEN,
		FAKE_RESOLVE_ADDR, FAKE_RESOLVE_ROUTE, FAKE_CONNECT, FAKE_ACCEPT, FAKE_MIGRATE,
		FAKE_QUERY_DEVICE, FAKE_ALLOC_PD, FAKE_COMP_CHANNEL, FAKE_CREATE_CQ, FAKE_REG_MR,
		FAKE_POST_SEND, FAKE_POST_RECV};
	unsigned tried = 0;
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		for (int n = 1; n < 200; n++) {
			fake_fail(calls[i], n, calls[i] == FAKE_POST_SEND ? EIO : ENOMEM);
			bool works = try_everything();
			assert_null(fake.ids);
			assert_null(fake.qps);
			assert_null(fake.mrs);
			/* So often it is not called. */
			if (fake.fail_at[calls[i]] > 0)
				break;
			tried++;
			/* Receives may fail to be posted again behind the last that was needed. */
			assert_true(!works || calls[i] == FAKE_POST_RECV);
		}
		fake_fail(calls[i], 0, 0);
	}
	assert_in_range(tried, 40, 200);
	/* These may fail without harm. */
	static const enum fake_call spared[] = {FAKE_OPTION, FAKE_MODIFY_QP, FAKE_DEREG_MR};
	for (size_t i = 0; i < sizeof spared / sizeof spared[0]; i++) {
		for (int n = 1; n < 10; n++) {
			fake_fail(spared[i], n, EIO);
			assert_true(try_everything());
		}
	}
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
}

static void a_low_locked_memory_limit_is_named_with_the_need(void **state)
{
	(void)state;
	struct pair pair;
	struct rlimit before, low = {.rlim_cur = 64 * 1024};
	pair_connect(&pair);
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
	low.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &low), 0);
	fake_fail(FAKE_REG_MR, 2, ENOMEM);
	assert_int_equal(
		verbs->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-ENOMEM);
	assert_true(says("guest memory"));
	assert_true(says("limit is 64 KiB"));
	assert_true(says("ulimit -l"));
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &before), 0);
	pair_close(&pair);
	pair_connect(&pair);
	fake_fail(FAKE_REG_MR, 1, EFAULT);
	assert_int_equal(
		verbs->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-EFAULT);
	assert_true(says("log ring"));
	pair_close(&pair);
}

/* ---- The end ---- */

static bool is_told(struct connection *c)
{
	size_t length;
	/* What arrived before comes first. */
	while (verbs->recv(c, answer, sizeof answer, &length, LONG_MS) == 0)
		;
	return is_readable(verbs->fd(c)) &&
	       verbs->recv(c, answer, sizeof answer, &length, LONG_MS) == -ECONNRESET &&
	       verbs->send(c, "x", 1) == -ECONNRESET;
}

/* Both sides know, in words, that it is over; their log threads, too; and nobody has a key any
 * more. */
static void assert_over(struct pair *pair, const char *primary_says, const char *standby_says)
{
	assert_true(is_told(pair->primary));
	assert_true(says(primary_says));
	assert_true(is_told(pair->standby));
	assert_true(says(standby_says));
	assert_int_equal(write_source(pair, 0, 0, 64), -ECONNRESET);
	assert_true(says(primary_says));
	assert_int_equal(verbs->write_ack(pair->standby, ACK_BEAT, 1), -ECONNRESET);
	assert_int_equal(verbs->finish_memory(pair->primary, LONG_MS), -ECONNRESET);
	assert_int_equal(verbs->write_memory(pair->primary, 0, source, 8), -ECONNRESET);
	pthread_mutex_lock(&fake.lock);
	unsigned remote = 0;
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		remote += (mr->access & IBV_ACCESS_REMOTE_WRITE) != 0;
	pthread_mutex_unlock(&fake.lock);
	assert_int_equal(remote, 0);
	/* What arrived stays readable. */
	assert_memory_equal(verbs->ring(pair->standby), source, 64);
	pair_close(pair);
}

static void open_and_write(struct pair *pair)
{
	pair_open(pair);
	assert_int_equal(write_source(pair, 0, 0, 64), 0);
	assert_true(eventually(verbs->written(pair->primary) == 64));
}

static void a_write_that_fails_ends_the_connection(void **state)
{
	(void)state;
	static const struct {
		enum ibv_wc_status status;
		const char *words;
	} ways[] = {
		{IBV_WC_RETRY_EXC_ERR, "does not answer"},
		{IBV_WC_RNR_RETRY_EXC_ERR, "takes nothing"},
		{IBV_WC_REM_ACCESS_ERR, "withdrawn"},
		{IBV_WC_LOC_PROT_ERR, "some failure"},
		{IBV_WC_FATAL_ERR, "some failure"},
	};
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		for (int ack = 0; ack < 2; ack++) {
			struct pair pair;
			open_and_write(&pair);
			fake_fail_request(ways[i].status);
			/* The call that posts it may or may not see it already. */
			if (ack)
				(void)!verbs->write_ack(pair.standby, ACK_RECEIVED, 64);
			else
				(void)!write_source(&pair, 64, 64, 64);
			assert_true(is_told(ack ? pair.standby : pair.primary));
			assert_true(says(ways[i].words));
			assert_int_equal(verbs->written(pair.primary), 64);
			assert_over(&pair, "over", "over");
		}
	}
}

static void a_peer_that_vanishes_is_noticed_by_what_it_does_not_answer(void **state)
{
	(void)state;
	struct pair pair;
	open_and_write(&pair);
	fake_pause(true);
	for (uint64_t lsn = 64; lsn < 64 + 600 * 64; lsn += 64)
		assert_int_equal(write_source(&pair, lsn, lsn, 64), 0);
	fake_exhaust();
	assert_true(is_told(pair.primary));
	assert_true(says("does not answer"));
	assert_int_equal(verbs->written(pair.primary), 64);
	assert_over(&pair, "does not answer", "over");
}

static void a_queue_pair_in_error_is_noticed_though_nothing_is_sent(void **state)
{
	(void)state;
	struct pair pair;
	open_and_write(&pair);
	fake_break_all();
	assert_over(&pair, "over", "over");
}

static void a_device_that_is_removed_ends_the_connection_and_the_listener(void **state)
{
	(void)state;
	struct pair pair;
	struct connection *c;
	open_and_write(&pair);
	fake_remove_device();
	assert_true(eventually(is_readable(verbs->listener_fd(pair.listener))));
	assert_int_equal(verbs->accept(pair.listener, &c), -ENODEV);
	assert_true(says("was removed"));
	/* Said once. */
	assert_false(is_readable(verbs->listener_fd(pair.listener)));
	assert_int_equal(verbs->accept(pair.listener, &c), -EAGAIN);
	assert_over(&pair, "removed", "removed");
}

static void a_peer_that_leaves_is_noticed(void **state)
{
	(void)state;
	for (int who = 0; who < 2; who++) {
		struct pair pair;
		open_and_write(&pair);
		if (who)
			verbs->fence(pair.primary);
		else
			verbs->fence(pair.standby);
		assert_over(&pair, who ? "fenced" : "the peer has ended it",
			who ? "the peer has ended it" : "fenced");
	}
}

static void completion_queues_that_fail_end_the_connection(void **state)
{
	(void)state;
	static const enum fake_call calls[] = {
		FAKE_POLL_CQ, FAKE_NOTIFY_CQ, FAKE_POST_SEND, FAKE_POST_RECV};
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
		struct pair pair;
		open_and_write(&pair);
		fake_fail(calls[i], 1, EIO);
		(void)!verbs->send(pair.primary, "x", 1);
		/* Whoever meets it first: one of the two is over, and the other hears of it. */
		for (uint64_t lsn = 64;
			write_source(&pair, lsn, 0, 64) == 0 &&
			verbs->write_ack(pair.standby, ACK_RECEIVED, lsn) == 0 && lsn < 1000000;
			lsn += 64)
			;
		assert_true(eventually(fake.fail_at[calls[i]] == 0));
		assert_over(&pair, "over", "over");
	}
}

static void what_was_sent_before_the_end_is_still_received(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pair_connect(&pair);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(verbs->send(pair.primary, "last words", 10), 0);
	verbs->close(pair.primary);
	pair.primary = NULL;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(
			verbs->recv(pair.standby, answer, sizeof answer, &length, LONG_MS), 0);
		assert_int_equal(length, 10);
	}
	assert_true(is_told(pair.standby));
	pair_close(&pair);
}

static void who_does_not_follow_the_protocol_is_cut_off(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	for (int way = 0; way < 2; way++) {
		pair_connect(&pair);
		if (way == 0)
			assert_int_equal(
				verbs_messages_send(&pair.primary->messages, 99, "x", 1), 0);
		else
			assert_int_equal(
				verbs_messages_send(&pair.primary->messages, 2, answer, 100), 0);
		if (way == 0)
			assert_int_equal(verbs->recv(pair.standby, answer, 8, &length, LONG_MS),
				-ECONNRESET);
		else
			assert_int_equal(
				verbs->attach(pair.standby, PAIR_RING, PAIR_MEMORY, 1), -EMSGSIZE);
		verbs->fence(pair.standby);
		assert_true(is_told(pair.primary));
		pair_close(&pair);
	}
}

static void *attach_larger(void *argument)
{
	struct pair *pair = argument;
	int error = verbs->attach(pair->primary, 2 * PAIR_RING, PAIR_MEMORY, PAIR_SECRET);
	bool is_right = error == -EPROTO && says("than agreed");
	verbs->fence(pair->primary);
	return is_right ? NULL : argument;
}

static void a_standby_that_offers_something_else_is_refused(void **state)
{
	(void)state;
	struct pair pair;
	pthread_t thread;
	void *failed;
	pair_connect(&pair);
	assert_int_equal(pthread_create(&thread, NULL, attach_larger, &pair), 0);
	assert_int_equal(
		verbs->expose(pair.standby, PAIR_RING, pair.memory, PAIR_MEMORY, PAIR_SECRET),
		-ECONNRESET);
	pthread_join(thread, &failed);
	assert_null(failed);
	pair_close(&pair);
}

/* ---- Fencing while others work ---- */

struct hammer {
	struct pair *pair;
	_Atomic uint64_t done;
	bool is_ack;
	uint64_t after;
};

static int strike(struct hammer *hammer, uint64_t value)
{
	if (hammer->is_ack)
		return verbs->write_ack(hammer->pair->standby, ACK_RECEIVED, value);
	return write_source(hammer->pair, value, value % PAIR_RING, 8);
}

static void *hammer_on(void *argument)
{
	struct hammer *hammer = argument;
	uint64_t value = 8;
	for (; strike(hammer, value) == 0; value += 8)
		atomic_store(&hammer->done, value);
	for (int i = 0; i < 100; i++)
		hammer->after += strike(hammer, value) == 0;
	return NULL;
}

static void nothing_leaves_after_the_fence(void **state)
{
	(void)state;
	for (int round = 0; round < 100; round++) {
		struct pair pair;
		pthread_t thread;
		pair_open(&pair);
		struct hammer hammer = {.pair = &pair, .is_ack = round % 2};
		pthread_create(&thread, NULL, hammer_on, &hammer);
		while (atomic_load(&hammer.done) < 8u * (unsigned)(1 + round * 7 % 50))
			sched_yield();
		verbs->fence(hammer.is_ack ? pair.standby : pair.primary);
		const struct ack_cell *cell = &verbs->acks(pair.primary)->cell[ACK_RECEIVED];
		uint64_t value = cell->value, check = cell->check;
		unsigned requests = fake.requests;
		pthread_join(thread, NULL);
		assert_int_equal(hammer.after, 0);
		assert_int_equal(fake.requests, requests);
		assert_int_equal(cell->value, value);
		assert_int_equal(cell->check, check);
		pair_close(&pair);
	}
}

static void *fence_it(void *argument)
{
	verbs->fence(argument);
	return NULL;
}

static void a_fence_wakes_whoever_waits(void **state)
{
	(void)state;
	struct pair pair;
	size_t length;
	pthread_t thread;
	/* For a message, for a message to be taken, for guest memory, for the other side of expose.
	 */
	for (int way = 0; way < 4; way++) {
		if (way == 2)
			pair_open(&pair);
		else
			pair_connect(&pair);
		fake_pause(way > 0);
		struct connection *self = way == 3 ? pair.standby : pair.primary;
		if (way == 2)
			assert_int_equal(verbs->write_memory(self, 0, source, 100000), 0);
		pthread_create(&thread, NULL, fence_it, self);
		if (way == 0)
			assert_int_equal(
				verbs->recv(self, answer, 1, &length, LONG_MS), -ECONNRESET);
		else if (way == 1)
			assert_int_equal(verbs->send(self, "x", 1), -ECONNRESET);
		else if (way == 2)
			assert_int_equal(verbs->finish_memory(self, LONG_MS), -ECONNRESET);
		else
			assert_int_equal(verbs->expose(self, PAIR_RING, pair.memory, PAIR_MEMORY,
						 PAIR_SECRET),
				-ECONNRESET);
		pthread_join(thread, NULL);
		fake_pause(false);
		pair_close(&pair);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(impossible_addresses_are_refused),
		TEST(a_host_without_rdma_is_told_what_to_do),
		TEST(a_place_has_one_listener_at_a_time),
		TEST(whom_nobody_answers_is_told_why),
		TEST(a_standby_that_accepts_nobody_refuses_the_fifth),
		TEST(strangers_are_refused),
		TEST(whatever_call_fails_nothing_is_left_behind),
		TEST(a_low_locked_memory_limit_is_named_with_the_need),
		TEST(a_write_that_fails_ends_the_connection),
		TEST(a_peer_that_vanishes_is_noticed_by_what_it_does_not_answer),
		TEST(a_queue_pair_in_error_is_noticed_though_nothing_is_sent),
		TEST(a_device_that_is_removed_ends_the_connection_and_the_listener),
		TEST(a_peer_that_leaves_is_noticed),
		TEST(completion_queues_that_fail_end_the_connection),
		TEST(what_was_sent_before_the_end_is_still_received),
		TEST(who_does_not_follow_the_protocol_is_cut_off),
		TEST(a_standby_that_offers_something_else_is_refused),
		TEST(nothing_leaves_after_the_fence),
		TEST(a_fence_wakes_whoever_waits),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

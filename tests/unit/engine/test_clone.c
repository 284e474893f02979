/* The clone: what has happened when on the primary, what a failure leaves behind, and what the standby takes. */
#include "tests/unit/engine/tiny_guest.h"

#include "engine/clone.h"

#define NEW_SESSION 9u
#define GENERATION 4u

/* A standby that takes everything, or fails at a step. */
struct connection {
	struct tiny *t;
	uint64_t pages;
	unsigned messages; /* STATE, then COMMIT */
	int memory_error, state_error, commit_error;
	bool withdrawn;
	bool held_at_commit;

	/* What has been sent, and how much of it was received. */
	uint8_t memory[MEMORY];
	uint8_t sent[2][MESSAGE_MAX];
	size_t length[2];
	unsigned received;
};

static int take_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	assert_false(c->withdrawn);
	assert_true(offset <= MEMORY && length <= MEMORY - offset);
	memcpy(c->memory + offset, bytes, length);
	c->pages++;
	return c->memory_error;
}

static int finish(struct connection *c, unsigned timeout_ms)
{
	(void)c, (void)timeout_ms;
	return 0;
}

static void withdraw(struct connection *c)
{
	c->withdrawn = true;
}

static int take_message(struct connection *c, const void *message, size_t length)
{
	assert_true(c->withdrawn);
	assert_true(c->messages < 2 && length <= MESSAGE_MAX);
	memcpy(c->sent[c->messages], message, length);
	c->length[c->messages] = length;
	if (c->messages++ == 0)
		return c->state_error;
	c->held_at_commit = c->t->live.log != NULL && c->t->live.session == NEW_SESSION;
	return c->commit_error;
}

static int give_message(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	(void)timeout_ms;
	assert_true(c->received < c->messages && c->length[c->received] <= capacity);
	*length = c->length[c->received];
	memcpy(message, c->sent[c->received++], *length);
	return 0;
}

static const struct provider fake_provider = {.write_memory = take_memory,
	.finish_memory = finish,
	.withdraw_memory = withdraw,
	.send = take_message,
	.recv = give_message};

static struct connection connection;
static struct session session;
static struct host *host;
static struct tiny *t;

/* clone_send wants a host, of which it uses the machine; here it is the tiny guest's. */
static int set_up(void **state)
{
	(void)state;
	if (!has_kvm())
		return 0;
	t = tiny_busy(10);
	host = calloc(1, sizeof *host);
	assert_non_null(host);
	memcpy(&host->machine, &t->machine, sizeof host->machine);
	pthread_mutex_init(&host->machine.call_lock, NULL);
	assert_int_equal(log_writer_create(&t->writer, &tiny_sink, t, LOG_RING_MIN, SECRET, 0), 0);
	connection = (struct connection){.t = t};
	session = (struct session){.provider = &fake_provider,
		.connection = &connection,
		.id = NEW_SESSION,
		.generation = GENERATION,
		.log = t->writer,
		.live = &t->live};
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	if (!has_kvm())
		return 0;
	free(host);
	tiny_free(t);
	return 0;
}

static void outputs_are_held_before_the_standby_can_know_that_it_may_go_live(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed = false;
	assert_int_equal(clone_send(&session, host, &committed), 0);
	assert_true(committed);
	assert_int_equal(connection.messages, 2);
	assert_true(connection.pages > 0);
	assert_true(connection.held_at_commit);
}

static void assert_as_before(int error, int wanted, bool committed)
{
	assert_int_equal(error, wanted);
	assert_false(committed);
	assert_null(t->live.log);
	assert_int_equal(t->live.session, SESSION_ALONE);
}

static void a_failure_before_the_commit_leaves_the_primary_as_it_was(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed = false;
	connection.memory_error = -ECONNRESET;
	int error = clone_send(&session, host, &committed);
	assert_as_before(error, -ECONNRESET, committed);
	assert_int_equal(connection.messages, 0);
	connection = (struct connection){.t = t, .state_error = -ECONNRESET};
	error = clone_send(&session, host, &committed);
	assert_as_before(error, -ECONNRESET, committed);
	assert_int_equal(connection.messages, 1);
}

static void a_commit_that_may_have_arrived_counts(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed = false;
	connection.commit_error = -ECONNRESET;
	assert_int_equal(clone_send(&session, host, &committed), -ECONNRESET);
	assert_true(committed);
	assert_int_equal(t->live.session, NEW_SESSION);
}

/* O3. The backup will believe that it has left, and keeps nothing of it. */
static void what_was_sent_before_must_have_left(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed = false;
	struct hold *hold = t->machine.hold[OUTPUT_CONSOLE];
	hold_put(hold, "x", 1);
	hold_seal(hold, SESSION_ALONE, 0);
	int error = clone_send(&session, host, &committed);
	assert_as_before(error, -EBUSY, committed);
	tiny_release(t);
	connection = (struct connection){.t = t};
	assert_int_equal(clone_send(&session, host, &committed), 0);
	assert_true(committed);
}

static void a_guest_that_has_ended_is_not_cloned(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed = false;
	machine_end(&host->machine, MACHINE_ENDED, NULL);
	int error = clone_send(&session, host, &committed);
	assert_as_before(error, -ECANCELED, committed);
	assert_int_equal(connection.pages, 0);
}

/* ---- the standby ---- */

/* Takes what was sent, into a machine of its own. */
static int receive(struct tiny **out)
{
	uint64_t time_ns;
	struct tiny *copy = tiny_new();
	struct host *standby = calloc(1, sizeof *standby);
	assert_non_null(standby);
	memcpy(&standby->machine, &copy->machine, sizeof standby->machine);
	memcpy(copy->machine.memory.base, connection.memory, MEMORY);
	connection.received = 0;
	int error = clone_receive(&session, standby, &time_ns);
	memcpy(&copy->machine, &standby->machine, sizeof copy->machine);
	free(standby);
	*out = copy;
	return error;
}

static void the_standby_has_the_same_machine(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed;
	struct tiny *copy;
	t->machine.exits = 12;
	assert_int_equal(clone_send(&session, host, &committed), 0);
	assert_int_equal(receive(&copy), 0);
	assert_memory_equal(copy->machine.memory.base, t->machine.memory.base, MEMORY);
	assert_int_equal(copy->machine.exits, host->machine.exits);
	assert_true(digest_word(&copy->machine.digest) == digest_word(&host->machine.digest));
	tiny_free(copy);
}

static void pages_of_zeros_are_not_sent(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed;
	uint64_t others = 0;
	t->machine.memory.base[MEMORY - 1] = 1; /* touched, and only its last byte is not zero */
	t->machine.memory.base[MEMORY - 8192] = 0;
	for (uint64_t at = 0; at < MEMORY; at += 4096) {
		const uint8_t *page = t->machine.memory.base + at;
		bool is_zero = true;
		for (unsigned i = 0; i < 4096; i++)
			is_zero = is_zero && page[i] == 0;
		others += !is_zero;
	}
	assert_int_equal(clone_send(&session, host, &committed), 0);
	assert_int_equal(connection.pages, others);
	assert_int_equal(session.clone_bytes, others * 4096);
	assert_true(others < MEMORY / 4096);
}

static void a_damaged_clone_is_refused(void **state)
{
	(void)state;
	NEED_KVM();
	bool committed;
	assert_int_equal(clone_send(&session, host, &committed), 0);
	uint8_t *const bytes[] = {connection.memory + ENTRY, connection.sent[0] + 8,
		connection.sent[0] + connection.length[0] - 1, connection.sent[1] + 4,
		connection.sent[1] + connection.length[1] - 1};
	for (unsigned i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
		struct tiny *copy;
		*bytes[i] ^= 1;
		assert_int_equal(receive(&copy), -EPROTO);
		*bytes[i] ^= 1;
		tiny_free(copy);
	}
	/* From another session's primary, which has another secret, or another generation's. */
	struct tiny *copy;
	session.secret ^= 1;
	assert_int_equal(receive(&copy), -EPROTO);
	tiny_free(copy);
	session.secret ^= 1;
	session.generation++;
	assert_int_equal(receive(&copy), -EPROTO);
	tiny_free(copy);
}

#define WITH_GUEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_GUEST(outputs_are_held_before_the_standby_can_know_that_it_may_go_live),
		WITH_GUEST(a_failure_before_the_commit_leaves_the_primary_as_it_was),
		WITH_GUEST(a_commit_that_may_have_arrived_counts),
		WITH_GUEST(what_was_sent_before_must_have_left),
		WITH_GUEST(a_guest_that_has_ended_is_not_cloned),
		WITH_GUEST(the_standby_has_the_same_machine),
		WITH_GUEST(pages_of_zeros_are_not_sent),
		WITH_GUEST(a_damaged_clone_is_refused),
	};
	return !!cmocka_run_group_tests(tests, tiny_set_up, NULL);
}

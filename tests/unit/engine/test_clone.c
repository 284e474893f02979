/* The clone, from the primary's side: what has happened when, and what a failure leaves behind. */
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
};

static int take_memory(struct connection *c, uint64_t offset, const void *bytes, size_t length)
{
	(void)offset, (void)bytes, (void)length;
	assert_false(c->withdrawn);
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
	(void)message, (void)length;
	assert_true(c->withdrawn);
	if (c->messages++ == 0)
		return c->state_error;
	c->held_at_commit = c->t->live.log != NULL && c->t->live.session == NEW_SESSION;
	return c->commit_error;
}

static const struct provider fake_provider = {.write_memory = take_memory,
	.finish_memory = finish,
	.withdraw_memory = withdraw,
	.send = take_message};

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

#define WITH_GUEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_GUEST(outputs_are_held_before_the_standby_can_know_that_it_may_go_live),
		WITH_GUEST(a_failure_before_the_commit_leaves_the_primary_as_it_was),
		WITH_GUEST(a_commit_that_may_have_arrived_counts),
		WITH_GUEST(what_was_sent_before_must_have_left),
		WITH_GUEST(a_guest_that_has_ended_is_not_cloned),
	};
	return !!cmocka_run_group_tests(tests, need_kvm, NULL);
}

/* What may leave, and when, as a process becomes the live one: with a real dataplane, whose console
 * is a socket that the test reads, a real arbiter, and a machine that stands still. */
#include "tests/unit/broken.h"

#include "engine/pair.h"
#include "tests/unit/engine/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SESSION 7u
#define FIRST_LSN 104u
#define SILENCE_MS 30
#define PATIENCE_MS 10000

struct connection {
	unsigned fences;
};

static struct connection connection;

static void fake_fence(struct connection *c)
{
	c->fences++;
}

static void fake_close(struct connection *c)
{
	(void)c;
}

static const struct provider fake_provider = {.fence = fake_fence, .close = fake_close};

static char folder[] = "/tmp/doppel-test-XXXXXX";
static char console[64], arbiter[64], storage[48], elsewhere[48];
static struct config config;
static struct pair *pair;
static struct arbiter *other; /* the other side's */
static int reader;

static void ignore(void *context)
{
	(void)context;
}

static void no_status(void *context, json_t *status)
{
	(void)context, (void)status;
}

static _Atomic uint64_t reached;

static uint64_t say_reached(void *context, enum output_device device)
{
	(void)context;
	return device == OUTPUT_CONSOLE ? reached : 0;
}

static int connect_reader(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path, console + strlen("unix:"), strlen(console) - strlen("unix:"));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	event_base_loop(pair->host.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	return fd;
}

static void put(const char *text, uint64_t lsn)
{
	struct hold *hold = pair->host.hold[OUTPUT_CONSOLE];
	assert_true(hold_has_room(hold, 1, strlen(text)));
	hold_put(hold, text, strlen(text));
	hold_seal(hold, SESSION, lsn);
	dataplane_wake(pair->host.dataplane);
}

/* A process of a pair at generation 1, which the other side holds, or we do. */
static int begin(enum role role, enum heartbeat_side holder)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	static const struct host_events events = {
		.woken = ignore, .leave = ignore, .stop = ignore, .status = no_status};
	alarm(60);
	if (!has_kvm())
		return -1;
	assert_non_null(mkdtemp(folder));
	snprintf(storage, sizeof storage, "%s/storage", folder);
	snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", folder);
	snprintf(arbiter, sizeof arbiter, "dir:%s", storage);
	snprintf(console, sizeof console, "unix:%s/console", folder);
	assert_int_equal(mkdir(storage, 0700), 0);
	setenv("DOPPEL_RUN_DIR", folder, 1);
	config = (struct config){
		.name = "vm", .console = console, .arbiter = arbiter, .timeout_ms = 500};

	pair = calloc(1, sizeof *pair);
	assert_non_null(pair);
	assert_int_equal(host_open(&pair->host, &config, &events), 0);
	assert_int_equal(arbiter_open(&pair->arbiter, arbiter, "vm"), 0);
	assert_int_equal(arbiter_open(&other, arbiter, "vm"), 0);
	assert_int_equal(
		arbiter_take(holder == HEARTBEAT_PRIMARY ? other : pair->arbiter, 1), ARBITER_WON);
	assert_int_equal(host_make_machine(&pair->host, GUEST_MEMORY_MIN, mac), 0);
	pair->generation = 1;
	pair->role = role;
	pair->session = calloc(1, sizeof *pair->session);
	assert_non_null(pair->session);
	pair->session->provider = &fake_provider;
	pair->session->connection = &connection;
	pair->session->id = SESSION;
	pair->session->udp = -1;
	connection = (struct connection){0};
	reached = 0;
	const struct commit commit = {.session = SESSION, .reached = say_reached};
	host_set_commit(&pair->host, &commit, NULL);
	reader = connect_reader();
	return 0;
}

/* A backup that has replayed all there was, and suspects its primary. */
static int begin_backup(void **state)
{
	(void)state;
	if (begin(ROLE_LIVE, HEARTBEAT_PRIMARY) < 0)
		return 0;
	replay_begin(&pair->host.machine, &pair->replay);
	atomic_store(&pair->replay.drained, true);
	return 0;
}

/* A primary that has lost its backup. */
static int begin_primary(void **state)
{
	(void)state;
	if (begin(ROLE_PRIMARY, HEARTBEAT_BACKUP) < 0)
		return 0;
	host_set_live(&pair->host, true);
	pair->host.live.session = SESSION;
	return 0;
}

static int end(void **state)
{
	(void)state;
	if (!pair)
		return 0;
	const struct commit none = {.session = SESSION_ALONE};
	host_set_commit(&pair->host, &none, NULL);
	if (pair->session)
		pair_drop_session(pair);
	close(reader);
	arbiter_close(pair->arbiter);
	arbiter_close(other);
	host_close(&pair->host);
	free(pair);
	pair = NULL;
	char command[128];
	snprintf(command, sizeof command, "rm -r %s", folder);
	assert_int_equal(system(command), 0);
	memcpy(folder + strlen(folder) - 6, "XXXXXX", 6);
	return 0;
}

static void expect_text(const char *text)
{
	char got[64] = "";
	for (size_t length = 0; length < strlen(text);) {
		struct pollfd poller = {.fd = reader, .events = POLLIN};
		assert_int_equal(poll(&poller, 1, PATIENCE_MS), 1);
		ssize_t n = read(reader, got + length, strlen(text) - length);
		assert_true(n > 0);
		length += (size_t)n;
	}
	assert_string_equal(got, text);
}

static void expect_silence(void)
{
	struct pollfd poller = {.fd = reader, .events = POLLIN};
	assert_int_equal(poll(&poller, 1, SILENCE_MS), 0);
}

static bool taken(uint64_t generation)
{
	uint64_t newest;
	assert_int_equal(arbiter_current(other, &newest), 0);
	return newest >= generation;
}

#define NEED_PAIR()                                                                                \
	do {                                                                                       \
		if (!pair)                                                                         \
			skip();                                                                    \
	} while (0)

/* O3: a client may see an output twice, never miss one. */
static void what_a_backup_has_kept_leaves_when_it_goes_live(void **state)
{
	(void)state;
	NEED_PAIR();
	put("a", FIRST_LSN);
	reached = FIRST_LSN; /* it has left elsewhere */
	put("b", FIRST_LSN + 8);
	put("c", FIRST_LSN + 16);
	while (hold_waiting(pair->host.hold[OUTPUT_CONSOLE]) > 2) {
		dataplane_wake(pair->host.dataplane);
		usleep(100);
	}
	expect_silence();
	failover_take_over(pair);
	expect_text("bc");
	assert_int_equal(pair->role, ROLE_SOLO);
	assert_int_equal(pair->generation, 2);
	assert_ptr_equal(pair->host.machine.source, &live_source);
	assert_null(pair->session);
	assert_true(connection.fences > 0);
	/* What it sends from here on leaves at once. */
	const struct output_group group = {.count = 1, .bytes = 1};
	hold_put(pair->host.hold[OUTPUT_CONSOLE], "d", 1);
	pair->host.machine.source->output(&pair->host.machine, OUTPUT_CONSOLE, &group);
	expect_text("d");
}

static void what_it_sends_first_leaves_behind_what_it_has_kept(void **state)
{
	(void)state;
	NEED_PAIR();
	char kept[33] = "";
	for (unsigned i = 0; i < 32; i++) {
		const char text[2] = {(char)('A' + i), '\0'};
		put(text, FIRST_LSN + 8 * i);
		kept[i] = text[0];
	}
	failover_take_over(pair);
	const struct output_group group = {.count = 1, .bytes = 1};
	hold_put(pair->host.hold[OUTPUT_CONSOLE], "!", 1);
	pair->host.machine.source->output(&pair->host.machine, OUTPUT_CONSOLE, &group);
	expect_text(kept);
	expect_text("!");
}

static void who_loses_the_generation_halts_and_sends_nothing(void **state)
{
	(void)state;
	NEED_PAIR();
	put("a", FIRST_LSN);
	assert_int_equal(arbiter_take(other, 2), ARBITER_WON);
	failover_take_over(pair);
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_int_equal(pair->status, STATUS_DEPOSED);
	assert_ptr_equal(pair->host.machine.source, &replay_source);
	expect_silence();
}

/* Its guest may have diverged, and compute for ever. */
static void nor_does_it_wait_for_its_guest_then(void **state)
{
	(void)state;
	NEED_PAIR();
	atomic_store(&pair->replay.drained, false);
	pair_tick(-1, 0, pair);
	assert_int_equal(pair->role, ROLE_LIVE);
	assert_int_equal(arbiter_take(other, 2), ARBITER_WON);
	pair->arbiter_ns = 0;
	pair_tick(-1, 0, pair);
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_int_equal(pair->status, STATUS_DEPOSED);
}

static void nor_when_the_vm_was_stopped_in_order(void **state)
{
	(void)state;
	NEED_PAIR();
	atomic_store(&pair->replay.drained, false);
	pair->session->heard.flags = HEARTBEAT_LEAVING;
	pair_tick(-1, 0, pair);
	assert_int_equal(pair->role, ROLE_LIVE);
	pair->session->heard.flags |= HEARTBEAT_STOP_REQUESTED;
	pair_tick(-1, 0, pair);
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_int_equal(pair->status, STATUS_OK);
	assert_false(taken(2));
}

static void unknown_is_not_won_and_is_asked_again(void **state)
{
	(void)state;
	NEED_PAIR();
	put("a", FIRST_LSN);
	assert_int_equal(rename(storage, elsewhere), 0);
	failover_take_over(pair);
	assert_int_equal(pair->role, ROLE_LIVE);
	assert_int_equal(pair->generation, 1);
	assert_non_null(pair->session);
	expect_silence();
	assert_int_equal(rename(elsewhere, storage), 0);
	failover_take_over(pair);
	assert_int_equal(pair->role, ROLE_SOLO);
	expect_text("a");
}

/* D5. */
static void a_backup_that_diverged_or_failed_does_not_even_ask(void **state)
{
	(void)state;
	NEED_PAIR();
	put("a", FIRST_LSN);
	machine_end(&pair->host.machine, MACHINE_DIVERGED, "on purpose");
	failover_take_over(pair);
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_int_equal(pair->status, STATUS_DIFFERS);
	assert_false(taken(2));
	expect_silence();
}

static void a_backup_whose_guest_has_ended_sends_what_it_has_kept(void **state)
{
	(void)state;
	NEED_PAIR();
	put("bye", FIRST_LSN);
	machine_end(&pair->host.machine, MACHINE_ENDED, NULL);
	failover_take_over(pair);
	expect_text("bye");
	assert_int_equal(pair->role, ROLE_SOLO);
	assert_true(taken(2));
}

static void nor_does_one_go_live_whose_primary_has_left_with_the_guest(void **state)
{
	(void)state;
	NEED_PAIR();
	put("bye", FIRST_LSN);
	pair->session->heard.flags = HEARTBEAT_LEAVING;
	machine_end(&pair->host.machine, MACHINE_ENDED, NULL);
	failover_take_over(pair);
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_false(taken(2));
	expect_silence();
}

/* O2: until the arbiter has decided about them. */
static void a_primary_without_its_backup_holds_what_was_not_acked(void **state)
{
	(void)state;
	NEED_PAIR();
	reached = FIRST_LSN;
	put("a", FIRST_LSN);
	put("b", FIRST_LSN + 8);
	expect_text("a");
	expect_silence();
	assert_int_equal(rename(storage, elsewhere), 0);
	failover_backup_lost(pair, "on purpose");
	assert_true(connection.fences > 0);
	assert_int_equal(pair->role, ROLE_PRIMARY);
	expect_silence();
	assert_int_equal(rename(elsewhere, storage), 0);
	failover_go_alone(pair);
	expect_text("b");
	assert_int_equal(pair->role, ROLE_SOLO);
	assert_int_equal(pair->host.live.session, SESSION_ALONE);
	assert_true(taken(2));
}

static void a_deposed_primary_sends_nothing_more(void **state)
{
	(void)state;
	NEED_PAIR();
	put("b", FIRST_LSN + 8);
	assert_int_equal(arbiter_take(other, 2), ARBITER_WON);
	failover_backup_lost(pair, "on purpose");
	assert_int_equal(pair->role, ROLE_HALTED);
	assert_int_equal(pair->status, STATUS_DEPOSED);
	expect_silence();
}

#define OF_BACKUP(test) cmocka_unit_test_setup_teardown(test, begin_backup, end)
#define OF_PRIMARY(test) cmocka_unit_test_setup_teardown(test, begin_primary, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OF_BACKUP(what_a_backup_has_kept_leaves_when_it_goes_live),
		OF_BACKUP(what_it_sends_first_leaves_behind_what_it_has_kept),
		OF_BACKUP(who_loses_the_generation_halts_and_sends_nothing),
		OF_BACKUP(nor_does_it_wait_for_its_guest_then),
		OF_BACKUP(nor_when_the_vm_was_stopped_in_order),
		OF_BACKUP(unknown_is_not_won_and_is_asked_again),
		OF_BACKUP(a_backup_that_diverged_or_failed_does_not_even_ask),
		OF_BACKUP(a_backup_whose_guest_has_ended_sends_what_it_has_kept),
		OF_BACKUP(nor_does_one_go_live_whose_primary_has_left_with_the_guest),
		OF_PRIMARY(a_primary_without_its_backup_holds_what_was_not_acked),
		OF_PRIMARY(a_deposed_primary_sends_nothing_more),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

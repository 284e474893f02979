#include "dataplane/dataplane.h"
#include "tests/unit/dataplane/child.h"

#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

/*
 * In these tests a sleep has no end: the time limit of every futex wait of base/idle.c is taken
 * away, so that a wake-up that is lost hangs the test instead of costing it some milliseconds.
 */
static _Atomic bool sleeps_end;
static _Atomic uint32_t sleeps;

long syscall(long number, ...)
{
	va_list args;
	va_start(args, number);
	long a = va_arg(args, long), b = va_arg(args, long), c = va_arg(args, long), d = 0, e = 0,
	     f = 0;
	if (number != SYS_sched_setattr) /* has three */
		d = va_arg(args, long);
	if (number == SYS_futex) {
		e = va_arg(args, long);
		f = va_arg(args, long);
	}
	va_end(args);
	if (number == SYS_futex && (b & FUTEX_CMD_MASK) == FUTEX_WAIT && d) {
		atomic_fetch_add(&sleeps, 1);
		if (!atomic_load(&sleeps_end))
			d = 0;
	}
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

struct user {
	_Atomic uint64_t acked; /* of session 1; every other has none */
	_Atomic bool only_net;  /* nothing of the console is */
	_Atomic unsigned room;  /* frames it can still take */
	_Atomic unsigned taken, refused;
	_Atomic size_t console_room;
	_Atomic size_t console_length;
	char console[4096];
	_Atomic bool
		misplaced; /* called from a thread that is not the loop's, or given a wrong frame */
	size_t frame_length; /* of the frames expected */
	bool from_null;      /* frames that are not ours are none of its business */
};

static struct dataplane *dp;
static struct hold *net, *console;
static struct user user;
static pthread_t loop;

static void check_thread(void)
{
	if (!pthread_equal(pthread_self(), loop))
		atomic_store(&user.misplaced, true);
}

static bool may_merge(void *context)
{
	(void)context;
	return true;
}

static bool take_frame(void *context, struct port_frame *frame)
{
	struct user *u = context;
	const uint8_t *bytes = (const uint8_t *)frame->bytes + FRAME_HEADER;
	size_t length = frame->length - FRAME_HEADER;
	check_thread();
	if (!u->from_null && !is_ours(bytes, length)) {
		port_frame_free(frame);
		return true;
	}
	if (atomic_load(&u->room) == 0) {
		atomic_fetch_add(&u->refused, 1);
		return false;
	}
	if (!u->from_null && !is_frame(bytes, length, u->frame_length, atomic_load(&u->taken)))
		atomic_store(&u->misplaced, true);
	atomic_fetch_sub(&u->room, 1);
	port_frame_free(frame);
	atomic_fetch_add(&u->taken, 1);
	return true;
}

static uint64_t acked(void *context, const struct hold *hold, uint32_t session)
{
	struct user *u = context;
	check_thread();
	if (session != 1 || (hold == console && atomic_load(&u->only_net)))
		return 0;
	return atomic_load(&u->acked);
}

static size_t console_out(void *context, const void *bytes, size_t length)
{
	struct user *u = context;
	check_thread();
	size_t room = atomic_load(&u->console_room), n = length < room ? length : room;
	memcpy(u->console + u->console_length, bytes, n);
	atomic_fetch_sub(&u->console_room, n);
	atomic_fetch_add(&u->console_length, n);
	return n;
}

static void note_loop(void *argument)
{
	(void)argument;
	loop = pthread_self();
}

static void live(void *argument)
{
	dataplane_set_live(dp, argument != NULL);
}

static void start(struct port *port)
{
	static const struct dataplane_user calls = {.take_frame = take_frame,
		.may_merge = may_merge,
		.acked = acked,
		.console = console_out,
		.context = &user};
	REQUIRE(hold_create(&net, 65536) == 0);
	REQUIRE(hold_create(&console, 4096) == 0);
	atomic_store(&user.console_room, sizeof user.console);
	REQUIRE(dataplane_start(&dp, port, net, console, &calls) == 0);
	dataplane_call(dp, note_loop, NULL);
}

static void go_live(void)
{
	dataplane_call(dp, live, dp);
}

static void stop(void)
{
	dataplane_stop(dp);
	hold_destroy(net);
	hold_destroy(console);
	REQUIRE(!atomic_load(&user.misplaced));
}

static void output(struct hold *hold, const char *text, uint32_t session, uint64_t lsn)
{
	hold_put(hold, text, strlen(text));
	hold_seal(hold, session, lsn);
}

/* Passes the time until `condition`; the child's alarm ends a wait for what never comes. */
#define UNTIL(condition)                                                                           \
	while (!(condition))                                                                       \
	nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL)

static void until_asleep(void)
{
	uint32_t before = atomic_load(&sleeps);
	dataplane_wake(dp);
	UNTIL(atomic_load(&sleeps) != before);
}

static void release_when_live(void)
{
	start(NULL);
	go_live();
	output(net, "a frame", 1, 100);
	output(console, "hello ", 1, 90);
	output(console, "world", 1, 101);
	until_asleep();
	REQUIRE(hold_waiting(net) == 1 && hold_waiting(console) == 2);
	REQUIRE(atomic_load(&user.console_length) == 0);
	atomic_store(&user.acked, 100);
	dataplane_wake(dp);
	UNTIL(hold_waiting(net) == 0 && hold_waiting(console) == 1);
	REQUIRE(atomic_load(&user.console_length) == 6);
	REQUIRE(hold_released(net, 1) == 100 && hold_released(console, 1) == 90);
	until_asleep();
	REQUIRE(atomic_load(&user.console_length) == 6);
	atomic_store(&user.acked, 101);
	dataplane_wake(dp);
	UNTIL(hold_waiting(console) == 0);
	REQUIRE(memcmp(user.console, "hello world", 11) == 0);
	struct dataplane_counters counters = dataplane_counters(dp);
	REQUIRE(counters.console_bytes == 11 && counters.tx_frames == 0);
	stop();
}

static void outputs_leave_when_acked_and_not_before(void **state)
{
	(void)state;
	run_in_child(release_when_live);
}

static void decide(void *argument)
{
	(void)argument;
	hold_decide(console, 1);
	dataplane_set_live(dp, true);
}

static void keep_as_backup(void)
{
	start(NULL);
	for (uint64_t lsn = 10; lsn <= 50; lsn += 10)
		output(console, (const char *[]){"a", "b", "c", "d", "e"}[lsn / 10 - 1], 1, lsn);
	until_asleep();
	REQUIRE(hold_waiting(console) == 5);
	atomic_store(&user.acked, 35); /* what the primary reports as released */
	dataplane_wake(dp);
	UNTIL(hold_waiting(console) == 2);
	/* What is reported of the one says nothing of the other. */
	output(net, "a frame", 1, 60);
	atomic_store(&user.only_net, true);
	atomic_store(&user.acked, 60);
	dataplane_wake(dp);
	UNTIL(hold_waiting(net) == 0);
	until_asleep();
	REQUIRE(hold_waiting(console) == 2 && atomic_load(&user.console_length) == 0);
	dataplane_call(dp, decide, NULL);
	UNTIL(hold_waiting(console) == 0);
	REQUIRE(atomic_load(&user.console_length) == 2 && memcmp(user.console, "de", 2) == 0);
	REQUIRE(dataplane_counters(dp).console_bytes == 2);
	stop();
}

static void a_backup_sends_nothing_until_it_goes_live_and_then_what_was_not_released(void **state)
{
	(void)state;
	run_in_child(keep_as_backup);
}

static void console_in_parts(void)
{
	start(NULL);
	go_live();
	atomic_store(&user.console_room, 0);
	output(console, "abcdefgh", SESSION_ALONE, 0);
	output(console, "ij", SESSION_ALONE, 0);
	for (size_t n = 1; n <= 10; n++) {
		until_asleep();
		REQUIRE(atomic_load(&user.console_length) == n - 1);
		REQUIRE(hold_waiting(console) == (n <= 8 ? 2 : 1));
		atomic_store(&user.console_room, 1);
		dataplane_wake(dp);
		UNTIL(atomic_load(&user.console_length) == n);
	}
	UNTIL(hold_waiting(console) == 0);
	REQUIRE(memcmp(user.console, "abcdefghij", 10) == 0);
	stop();
}

static void a_console_that_takes_single_bytes_gets_each_once(void **state)
{
	(void)state;
	run_in_child(console_in_parts);
}

#define CALLS 3000u

static unsigned called; /* by the loop's thread only */

static void count_call(void *argument)
{
	unsigned *mine = argument;
	check_thread();
	(*mine)++;
	called++;
}

static void *call_often(void *argument)
{
	(void)argument;
	unsigned mine = 0;
	for (unsigned i = 1; i <= CALLS; i++) {
		dataplane_call(dp, count_call, &mine);
		REQUIRE(mine == i); /* it is done when the call returns */
	}
	return NULL;
}

static void call_from_two(void)
{
	pthread_t threads[2];
	start(NULL);
	for (unsigned i = 0; i < 2; i++)
		REQUIRE(pthread_create(&threads[i], NULL, call_often, NULL) == 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	REQUIRE(called == 2 * CALLS);
	stop();
}

static void calls_from_two_threads_run_one_by_one_on_the_loops_thread(void **state)
{
	(void)state;
	run_in_child(call_from_two);
}

static void wake_often(void)
{
	idle_configure(0, 0); /* asleep as soon as there is nothing to do */
	start(NULL);
	go_live();
	for (uint64_t i = 1; i <= 5000; i++) {
		output(net, "x", 1, i);
		atomic_store(&user.acked, i);
		dataplane_wake(dp);
		while (hold_waiting(net))
			;
		if (i % 64 == 0)
			until_asleep();
	}
	stop();
}

static void no_wake_up_is_lost(void **state)
{
	(void)state;
	run_in_child(wake_often);
}

static struct bell bells[2];

static void set_bell(void *argument)
{
	dataplane_set_bell(dp, argument);
}

static _Atomic bool wakers_stop;

static void *wake_all_the_time(void *argument)
{
	while (!atomic_load(&wakers_stop))
		dataplane_wake(argument);
	return NULL;
}

static void use_bells(void)
{
	idle_configure(0, 0);
	start(NULL);
	go_live();
	output(net, "x", 1, 1);
	until_asleep();
	/* The ack's arrival rings the session's bell, and nobody else wakes the loop. */
	dataplane_call(dp, set_bell, &bells[0]);
	UNTIL(atomic_load(&bells[0].sleepers) == 1);
	atomic_store(&user.acked, 1);
	bell_ring(&bells[0]);
	UNTIL(hold_waiting(net) == 0);
	/* dataplane_wake reaches it whatever bell it sleeps on, and while that changes. */
	pthread_t waker;
	REQUIRE(pthread_create(&waker, NULL, wake_all_the_time, dp) == 0);
	for (unsigned i = 0; i < 300; i++)
		dataplane_call(dp, set_bell, i % 3 ? &bells[i % 2] : NULL);
	atomic_store(&wakers_stop, true);
	pthread_join(waker, NULL);
	for (uint64_t i = 2; i < 100; i++) {
		dataplane_call(dp, set_bell, i % 3 ? &bells[i % 2] : NULL);
		output(net, "x", 1, i);
		atomic_store(&user.acked, i);
		dataplane_wake(dp);
		UNTIL(hold_waiting(net) == 0);
	}
	stop();
}

static void the_loop_sleeps_on_the_bell_it_is_given(void **state)
{
	(void)state;
	run_in_child(use_bells);
}

static void let_go(void *argument)
{
	(void)argument;
	hold_decide(net, 1);
}

static void stop_asleep(void)
{
	idle_configure(0, 0);
	for (unsigned i = 0; i < 50; i++) {
		start(NULL);
		output(net, "x", 1, 1);
		if (i % 2)
			until_asleep();
		dataplane_call(dp, let_go, NULL);
		UNTIL(hold_waiting(net) == 0);
		stop();
	}
	dataplane_stop(NULL);
}

static void a_sleeping_loop_can_be_called_and_stopped(void **state)
{
	(void)state;
	run_in_child(stop_asleep);
}

static void *ask_mask(void *argument)
{
	pthread_sigmask(SIG_SETMASK, NULL, argument);
	return NULL;
}

static void copy_mask(void *argument)
{
	ask_mask(argument);
}

/* Its own fault must end a thread, or be caught in it. */
static bool is_fault(int number)
{
	return number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGSEGV ||
	       number == SIGTRAP;
}

static void signals_with(struct port *port, unsigned expected)
{
	sigset_t before, after, inside;
	ask_mask(&before);
	start(port);
	ask_mask(&after);
	dataplane_call(dp, copy_mask, &inside);
	unsigned open = 0;
	for (int number = 1; number <= SIGRTMAX; number++) {
		if (number == SIGKILL || number == SIGSTOP || (number > 31 && number < SIGRTMIN))
			continue;
		REQUIRE(sigismember(&before, number) == sigismember(&after, number));
		if (is_fault(number))
			REQUIRE(!sigismember(&inside, number));
		else
			open += !sigismember(&inside, number);
	}
	REQUIRE(open == expected);
	stop();
}

static void signals_without_port(void)
{
	signals_with(NULL, 0);
}

static struct port *open_port(const char *device)
{
	struct port *port;
	port_block_signals();
	REQUIRE(port_open(&port, device) == 0);
	return port;
}

static struct port *open_tap(void)
{
	need_dpdk();
	need_file("/dev/net/tun");
	own_network();
	return open_port("net_tap0,iface=dop0");
}

static void signals_with_tap(void)
{
	struct port *port = open_tap();
	signals_with(port, 2); /* the driver's, and what the kernel sends in its place */
	port_close(port);
}

static void the_loops_thread_takes_the_drivers_signals_and_no_others(void **state)
{
	(void)state;
	run_in_child(signals_without_port);
	run_in_child(signals_with_tap);
}

static void wake_by_frames(void)
{
	struct port *port = open_tap();
	int raw = open_raw("dop0");
	idle_configure(0, 0);
	user.frame_length = 60;
	atomic_store(&user.room, UINT32_MAX);
	start(port);
	go_live();
	/* Each frame meets the loop somewhere between looking for work and sleeping for ever. */
	for (uint32_t i = 0; i < 2000; i++) {
		raw_send(raw, i, 60);
		while (atomic_load(&user.taken) != i + 1)
			;
		if (i % 100 == 0)
			usleep(1000);
	}
	struct dataplane_counters counters = dataplane_counters(dp);
	REQUIRE(counters.rx_frames >= 2000 && counters.rx_bytes >= 2000 * 60 &&
		counters.rx_dropped == 0);
	stop();
	port_close(port);
}

static void a_frame_wakes_a_loop_that_sleeps_for_ever(void **state)
{
	(void)state;
	run_in_child(wake_by_frames);
}

static void signals_elsewhere(void)
{
	struct port *port;
	need_dpdk();
	need_file("/dev/net/tun");
	own_network();
	/* main did not block the signals: its thread may take them, and then they ring nothing
	 * there. */
	REQUIRE(port_open(&port, "net_tap0,iface=dop0") == 0);
	atomic_store(&sleeps_end, true);
	int raw = open_raw("dop0");
	user.frame_length = 60;
	atomic_store(&user.room, UINT32_MAX);
	start(port);
	go_live();
	for (uint32_t i = 0; i < 200; i++) {
		raw_send(raw, i, 60);
		UNTIL(atomic_load(&user.taken) == i + 1);
	}
	stop();
	/* Frames that come when the loop has ended do no harm. */
	for (uint32_t i = 0; i < 200; i++)
		raw_send(raw, i, 60);
	port_close(port);
}

static void a_signal_taken_by_another_thread_does_no_harm(void **state)
{
	(void)state;
	run_in_child(signals_elsewhere);
}

static void refuse_and_offer_again(void)
{
	struct port *port = open_tap();
	int raw = open_raw("dop0");
	idle_configure(0, 0);
	user.frame_length = 100;
	start(port);
	go_live();
	for (uint32_t i = 0; i < 200; i++)
		raw_send(raw, i, 100);
	UNTIL(atomic_load(&user.refused) > 0);
	REQUIRE(atomic_load(&user.taken) == 0);
	/* Room for a few at a time; the user wakes the loop for it, as the frames do not any more.
	 */
	for (uint32_t taken = 0; taken < 200;) {
		uint32_t more = taken % 7 + 1 < 200 - taken ? taken % 7 + 1 : 200 - taken;
		atomic_store(&user.room, more);
		dataplane_wake(dp);
		taken += more;
		UNTIL(atomic_load(&user.taken) == taken);
	}
	REQUIRE(dataplane_counters(dp).rx_dropped == 0);
	stop();
	port_close(port);
}

static void frames_refused_are_offered_again_in_order(void **state)
{
	(void)state;
	run_in_child(refuse_and_offer_again);
}

static void throw_away(void)
{
	struct port *port = open_tap();
	int raw = open_raw("dop0");
	idle_configure(0, 0);
	user.frame_length = 60;
	atomic_store(&user.room, UINT32_MAX);
	start(port);
	for (uint32_t i = 0; i < 100; i++)
		raw_send(raw, i, 60);
	UNTIL(dataplane_counters(dp).rx_dropped >= 100);
	REQUIRE(atomic_load(&user.taken) == 0);
	go_live();
	raw_send(raw, 0, 60);
	UNTIL(atomic_load(&user.taken) == 1);
	/* Frames kept for a user without room are thrown away with the others. */
	atomic_store(&user.room, 0);
	raw_send(raw, 1, 60);
	UNTIL(atomic_load(&user.refused) > 0);
	uint64_t dropped = dataplane_counters(dp).rx_dropped;
	dataplane_call(dp, live, NULL);
	UNTIL(dataplane_counters(dp).rx_dropped > dropped);
	stop();
	port_close(port);
}

static void frames_are_thrown_away_while_not_live(void **state)
{
	(void)state;
	run_in_child(throw_away);
}

static uint8_t announcement[60];

static void announce(void *argument)
{
	(void)argument;
	fill_frame(announcement, sizeof announcement, 999);
	dataplane_send(dp, announcement, sizeof announcement);
}

static void send_held(void)
{
	uint8_t bytes[FRAME_HEADER + 2048] = {0}, *frame = bytes + FRAME_HEADER;
	struct port *port = open_tap();
	int raw = open_raw("dop0");
	idle_configure(0, 0);
	start(port);
	go_live();
	for (uint32_t i = 0; i < 30; i++) {
		/* Each third one is too long for the device. */
		fill_frame(frame, i % 3 == 1 ? 1600 : 1514 - i, i);
		hold_put(net, bytes, FRAME_HEADER + (i % 3 == 1 ? 1600 : 1514 - i));
		hold_seal(net, 1, i + 1);
	}
	dataplane_call(dp, announce, NULL); /* ahead of all that waits */
	raw_expect(raw, 999, sizeof announcement);
	for (uint32_t i = 0; i < 30; i++) {
		atomic_store(&user.acked, i + 1);
		dataplane_wake(dp);
		if (i % 3 != 1)
			raw_expect(raw, i, 1514 - i);
		UNTIL(hold_released(net, 1) == i + 1);
	}
	size_t length;
	REQUIRE(!raw_next(raw, 10, frame, &length));
	REQUIRE(port_dropped(port) == 10);
	REQUIRE(dataplane_counters(dp).tx_frames == 31);
	stop();
	port_close(port);
}

static void held_frames_reach_the_wire_as_they_are_acked(void **state)
{
	(void)state;
	run_in_child(send_held);
}

static void use_null(void)
{
	need_dpdk();
	struct port *port = open_port("net_null0"); /* frames without end, and no signal */
	atomic_store(&sleeps_end, true);
	user.from_null = true;
	atomic_store(&user.room, 10000);
	start(port);
	go_live();
	output(net, "a frame of some length", 1, 1);
	atomic_store(&user.acked, 1);
	UNTIL(atomic_load(&user.taken) == 10000 && hold_waiting(net) == 0);
	stop();
	port_close(port);
}

static void a_flood_of_frames_does_not_keep_outputs_from_leaving(void **state)
{
	(void)state;
	run_in_child(use_null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outputs_leave_when_acked_and_not_before),
		cmocka_unit_test(
			a_backup_sends_nothing_until_it_goes_live_and_then_what_was_not_released),
		cmocka_unit_test(a_console_that_takes_single_bytes_gets_each_once),
		cmocka_unit_test(calls_from_two_threads_run_one_by_one_on_the_loops_thread),
		cmocka_unit_test(no_wake_up_is_lost),
		cmocka_unit_test(the_loop_sleeps_on_the_bell_it_is_given),
		cmocka_unit_test(a_sleeping_loop_can_be_called_and_stopped),
		cmocka_unit_test(the_loops_thread_takes_the_drivers_signals_and_no_others),
		cmocka_unit_test(a_frame_wakes_a_loop_that_sleeps_for_ever),
		cmocka_unit_test(a_signal_taken_by_another_thread_does_no_harm),
		cmocka_unit_test(frames_refused_are_offered_again_in_order),
		cmocka_unit_test(frames_are_thrown_away_while_not_live),
		cmocka_unit_test(held_frames_reach_the_wire_as_they_are_acked),
		cmocka_unit_test(a_flood_of_frames_does_not_keep_outputs_from_leaving),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

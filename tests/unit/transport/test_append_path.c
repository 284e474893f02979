/*
 * The append path, from log_writer_append to the ack that is read, allocates nothing and makes no
 * system call but those it must: an allocation is counted, a system call kills. Each end is a process
 * of its own, and the appending thread of one stands under a seccomp filter.
 *
 * What leads to a system call all the same: to wake a peer that sleeps, and, where the provider hands
 * its bytes to the kernel, to post.
 */
#include "pair.h"

#include "transport/ack.h"
#include "transport/log_reader.h"
#include "transport/log_writer.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* In each round an entry that is copied, a frame that is not, a flush, and the wait for the ack. */
#define ROUNDS 200u
#define FRAME 1500u
#define FRAMES 64u
#define CALLS 4

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED "a sanitizer allocates and makes system calls of its own"
#else
#define SANITIZED NULL
#endif

/* ---- Allocations ---- */

/* Atomic, since the compiler believes that it knows what malloc changes. */
static _Thread_local _Atomic bool is_watched;
static _Thread_local _Atomic unsigned allocations;

#ifdef __GLIBC__
/* What is behind glibc's own; of ours the first two are in front of them in all libraries. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *at, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
void *malloc(size_t size)
{
	allocations += is_watched;
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	allocations += is_watched;
	return __libc_calloc(count, size);
}

void *realloc(void *at, size_t size)
{
	allocations += is_watched;
	return __libc_realloc(at, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	allocations += is_watched;
	return __libc_memalign(alignment, size);
}
#endif
#endif

/* ---- System calls ---- */

/* Shared by both ends and the test. */
static struct report {
	_Atomic unsigned rounds;
	_Atomic unsigned allocations;
	_Atomic int refused; /* the system call that was not allowed; -1: none was made */
} * report;

static void on_refusal(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	atomic_store(&report->refused, info->si_syscall);
	_exit(1);
}

/* From here on the calling thread may make those of `allowed` and end its process. */
static void forbid_calls(const int *allowed)
{
	const struct sigaction action = {.sa_sigaction = on_refusal, .sa_flags = SA_SIGINFO};
	REQUIRE(sigaction(SIGSYS, &action, NULL) == 0);
	struct sock_filter filter[3 + 2 * (CALLS + 1)];
	unsigned short length = 0;
	filter[length++] = (struct sock_filter)BPF_STMT(
		BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i <= CALLS; i++) {
		uint32_t number = i < CALLS ? (uint32_t)allowed[i] : SYS_exit_group;
		if (i < CALLS && allowed[i] < 0)
			continue;
		filter[length++] =
			(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
		filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	const struct sock_fprog program = {.len = length, .filter = filter};
	REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	REQUIRE(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* ---- The two ends ---- */

struct trial {
	bool peer_sleeps;
	int allowed[CALLS]; /* -1: no further one */
};

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	return provider->write_log(context, lsn, pieces, count);
}

static uint64_t sink_written(void *context)
{
	return provider->written(context);
}

static struct ack_reader consumed, received;

static uint64_t sink_consumed(void *context, uint64_t head)
{
	(void)context;
	return ack_read(&consumed, head);
}

static const struct log_sink sink = {
	.write = sink_write, .written = sink_written, .consumed = sink_consumed};

static struct connection *dial(void)
{
	struct connection *c;
	uint64_t until = now_ns() + LONG_MS * 1000000ull;
	int error;
	while ((error = provider->connect(where, LONG_MS, &c)) == -ECONNREFUSED && now_ns() < until)
		usleep(200);
	REQUIRE(error == 0);
	REQUIRE(provider->attach(c, PAIR_RING, PAIR_MEMORY, PAIR_SECRET) == 0);
	return c;
}

static void append(struct log_writer *writer, unsigned round, const uint8_t *payload,
	uint32_t length, uint64_t *end)
{
	while (log_writer_append(writer, LOG_NET_RX, round, 0, payload, length, end) == -EAGAIN)
		__builtin_ia32_pause();
}

/* The primary. It may not wait in the kernel, so it spins. */
static void append_all(const struct trial *trial)
{
	static uint8_t pool[FRAMES][FRAME], word[32];
	struct connection *c = dial();
	struct log_writer *writer;
	void *staging;
	size_t size;
	uint64_t end;
	REQUIRE(log_writer_create(&writer, &sink, c, PAIR_RING, PAIR_SECRET, 0) == 0);
	log_writer_staging(writer, &staging, &size);
	REQUIRE(provider->register_source(c, staging, size) == 0);
	REQUIRE(provider->register_source(c, pool, sizeof pool) == 0);
	log_writer_lend(writer, pool, sizeof pool);
	consumed = received = (struct ack_reader){
		.block = provider->acks(c), .secret = PAIR_SECRET, .counter = ACK_CONSUMED};
	received.counter = ACK_RECEIVED;
	forbid_calls(trial->allowed);
	is_watched = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		append(writer, i, word, sizeof word, NULL);
		append(writer, i, pool[i % FRAMES], FRAME, &end);
		while (log_writer_flush(writer) == -EAGAIN)
			__builtin_ia32_pause();
		while (ack_read(&received, end) < end)
			__builtin_ia32_pause();
		atomic_fetch_add(&report->rounds, 1);
		atomic_store(&report->allocations, atomic_load(&allocations));
	}
	_exit(0);
}

static void follow_all(const struct trial *trial, pid_t peer)
{
	struct listener *listener;
	REQUIRE(provider->listen(where, &listener) == 0);
	struct connection *c = pair_accept(listener);
	REQUIRE(c);
	int memory = memfd_make("test guest", PAIR_MEMORY), status;
	REQUIRE(provider->expose(c, PAIR_RING, memory, PAIR_MEMORY, PAIR_SECRET) == 0);
	struct log_reader reader;
	log_reader_ring(&reader, provider->ring(c), PAIR_RING, PAIR_SECRET, 0);
	struct idle idle = {.bell = provider->bell(c), .longest_ns = 1000000};
	/* Sleeps at once, or never. */
	idle_configure(trial->peer_sleeps ? 0 : 1000, trial->peer_sleeps ? 0 : UINT32_MAX - 1000);
	for (unsigned passes = 0;; passes++) {
		struct log_entry entry;
		idle_watch(&idle);
		if (log_reader_peek(&reader, &entry) == LOG_VALID) {
			log_reader_take(&reader, &entry);
			idle_busy(&idle);
			(void)!provider->write_ack(c, ACK_CONSUMED, reader.next);
			(void)!provider->write_ack(c, ACK_RECEIVED, reader.next);
		} else if (passes % 16 == 0 && waitpid(peer, &status, WNOHANG) == peer) {
			break;
		} else {
			idle_pause(&idle);
		}
	}
	provider->close(c);
	provider->listener_close(listener);
}

/* Both ends begin in processes that have not met the provider. */
static void run_trial(const struct trial *trial)
{
	*report = (struct report){.refused = -1};
	pid_t standby = fork();
	assert_true(standby >= 0);
	if (standby == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pid_t primary = fork();
		REQUIRE(primary >= 0);
		if (primary == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			append_all(trial);
		}
		follow_all(trial, primary);
		_exit(0);
	}
	assert_exits_with_0(standby);
}

static void assert_went_well(void)
{
	assert_int_equal(atomic_load(&report->refused), -1);
	assert_int_equal(atomic_load(&report->rounds), ROUNDS);
	assert_int_equal(atomic_load(&report->allocations), 0);
}

/* ---- Tests ---- */

static bool is_skipped(void)
{
	if (SANITIZED)
		printf("skip: the append path: %s\n", SANITIZED ? SANITIZED : "");
	return SANITIZED;
}

/* Where the clock is read without the kernel, as it should be, it needs no permission. */
static int clock_call = -1;

static void read_clock(void *argument)
{
	static const int none[CALLS] = {-1, -1, -1, -1};
	(void)argument;
	forbid_calls(none);
	(void)now_ns();
	_exit(0);
}

static void the_clock_is_read_without_a_system_call(void **state)
{
	(void)state;
	if (is_skipped())
		skip();
	int status = status_in_child(read_clock, NULL);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	clock_call = SYS_clock_gettime;
	printf("skip: this machine's clock cannot be read without a system call\n");
	skip();
}

static void what_is_posted_by_the_kernel_costs_that_call_alone(void **state)
{
	(void)state;
	if (is_skipped())
		skip();
	struct trial trial = {.allowed = {clock_call, -1, -1, -1}};
	if (provider == &provider_tcp)
		trial.allowed[1] = SYS_sendmsg;
	else if (provider == &provider_verbs)
		/* How libibverbs rings the bell of a device without one that a process can reach. */
		trial.allowed[1] = SYS_write;
	/* Where another thread of the provider takes the same lock now and then. */
	if (provider != &provider_shm)
		trial.allowed[2] = SYS_futex;
	run_trial(&trial);
	assert_went_well();
}

static void a_peer_that_sleeps_costs_the_call_that_wakes_it(void **state)
{
	(void)state;
	if (is_skipped())
		skip();
	struct trial trial = {.peer_sleeps = true, .allowed = {clock_call, -1, -1, -1}};
	run_trial(&trial);
	assert_int_equal(atomic_load(&report->refused), SYS_futex);
	trial.allowed[1] = SYS_futex;
	run_trial(&trial);
	assert_went_well();
}

static void allocate(void *argument)
{
	(void)argument;
	is_watched = true;
	/* The compiler knows what these are for, and leaves out what is not. */
	void *volatile at = malloc(1);
	at = realloc(at, 2);
	free(at);
	at = calloc(1, 1);
	free(at);
	at = strdup("a library's");
	free(at);
	is_watched = false;
	_exit((int)atomic_load(&allocations));
}

static void an_allocation_would_be_seen(void **state)
{
	(void)state;
	if (is_skipped())
		skip();
	int status = status_in_child(allocate, NULL);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 4);
}

static int run(const char *group)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_clock_is_read_without_a_system_call),
		cmocka_unit_test(an_allocation_would_be_seen),
		cmocka_unit_test(what_is_posted_by_the_kernel_costs_that_call_alone),
	};
	/* Where no thread of the provider is in between. */
	const struct CMUnitTest shm_tests[] = {
		cmocka_unit_test(a_peer_that_sleeps_costs_the_call_that_wakes_it),
	};
	/* A tool to measure with, whose thread wants a processor too. */
	if (provider == &provider_link)
		return 0;
	int failed = cmocka_run_group_tests_name(group, tests, NULL, NULL);
	if (provider == &provider_shm)
		failed |= cmocka_run_group_tests_name(group, shm_tests, NULL, NULL);
	return failed;
}

int main(int argc, char **argv)
{
	report = mmap(
		NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		return 1;
	return over_each_provider(argc, argv, run);
}

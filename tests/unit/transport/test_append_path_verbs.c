/*
 * Between a guest and the wire nobody enters the kernel or asks for memory: appending, flushing, and
 * asking what is written, consumed and acknowledged, over the verbs provider. The device here is fake,
 * and may do as it likes: what a driver does to post is its own affair.
 *
 * System calls of this thread are caught by the kernel while `trap` says so, allocations by functions
 * of the same name that stand before the C library's. The sanitizers have their own of both.
 */
#include "verbs_pair.h"

#include "transport/log_reader.h"
#include "transport/log_writer.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define ENTRIES 20000u

static _Thread_local volatile char trap = SYSCALL_DISPATCH_FILTER_ALLOW;
static volatile sig_atomic_t calls, allocations, last_call;

static void on_call(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	/* To return from here is a system call. */
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	calls++;
	last_call = info->si_syscall;
}

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *at, size_t size);

static void count_allocation(void)
{
	allocations += trap == SYSCALL_DISPATCH_FILTER_BLOCK;
}

void *malloc(size_t size)
{
	count_allocation();
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	count_allocation();
	return __libc_calloc(count, size);
}

void *realloc(void *at, size_t size)
{
	count_allocation();
	return __libc_realloc(at, size);
}
#endif

/* ---- The driver's part ---- */

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	char before = trap;
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	int error = fake_post_send(qp, wr, bad);
	trap = before;
	return error;
}

static int poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *wc)
{
	char before = trap;
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	int n = fake_poll_cq(cq, count, wc);
	trap = before;
	return n;
}

/* ---- The path ---- */

struct path {
	struct pair pair;
	struct log_writer *writer;
	struct log_reader reader;
	struct ack_reader consumed, received;
};

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	return verbs->write_log(((struct path *)context)->pair.primary, lsn, pieces, count);
}

static uint64_t sink_written(void *context)
{
	return verbs->written(((struct path *)context)->pair.primary);
}

static uint64_t sink_consumed(void *context, uint64_t head)
{
	return ack_read(&((struct path *)context)->consumed, head);
}

static const struct log_sink sink = {
	.write = sink_write, .written = sink_written, .consumed = sink_consumed};

/* The primary's log thread, for one entry. */
static int append_one(struct path *path, uint32_t length, uint64_t *end)
{
	trap = SYSCALL_DISPATCH_FILTER_BLOCK;
	int error = log_writer_append(path->writer, LOG_NET_RX, 1, 0, source, length, end);
	if (!error)
		error = log_writer_flush(path->writer);
	ack_read(&path->received, log_writer_flushed(path->writer));
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	return error;
}

/* The standby's. */
static int take_one(struct path *path)
{
	struct log_entry entry;
	int error = -EAGAIN;
	trap = SYSCALL_DISPATCH_FILTER_BLOCK;
	if (log_reader_peek(&path->reader, &entry) == LOG_VALID) {
		log_reader_take(&path->reader, &entry);
		error = verbs->write_ack(path->pair.standby, ACK_RECEIVED, path->reader.next);
		if (!error)
			error = verbs->write_ack(
				path->pair.standby, ACK_CONSUMED, path->reader.next);
	}
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	return error;
}

static void open_path(struct path *path)
{
	void *staging;
	size_t size;
	pair_open(&path->pair);
	/* The other threads have nothing more to do here. */
	uint64_t start = fall_silent(&path->pair);
	assert_int_equal(
		log_writer_create(&path->writer, &sink, path, PAIR_RING, PAIR_SECRET, start), 0);
	log_writer_staging(path->writer, &staging, &size);
	assert_int_equal(verbs->register_source(path->pair.primary, staging, size), 0);
	log_reader_ring(
		&path->reader, verbs->ring(path->pair.standby), PAIR_RING, PAIR_SECRET, start);
	path->consumed = path->received =
		(struct ack_reader){.block = verbs->acks(path->pair.primary),
			.secret = PAIR_SECRET,
			.counter = ACK_CONSUMED,
			.last = start};
	path->received.counter = ACK_RECEIVED;
}

static void from_append_to_ack_the_only_system_call_is_the_drivers(void **state)
{
	(void)state;
	struct path path = {0};
	uint64_t end = 0;
	struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO}, before;
	if (SANITIZED || prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &trap) != 0)
		skip();
	sigaction(SIGSYS, &action, &before);
	trap = SYSCALL_DISPATCH_FILTER_BLOCK;
	(void)!now_ns();
	trap = SYSCALL_DISPATCH_FILTER_ALLOW;
	/* A clock that the kernel must be asked for is this machine's affair, too. */
	bool has_clock = calls == 0;
	open_path(&path);
	fake_context.ops.post_send = post_send;
	fake_context.ops.poll_cq = poll_cq;
	calls = allocations = 0;
	for (unsigned i = 0; i < ENTRIES && has_clock; i++) {
		/* Small ones and frames. */
		assert_int_equal(append_one(&path, i % 3 ? 32 : 1500, &end), 0);
		assert_int_equal(take_one(&path), 0);
	}
	prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
	fake_context.ops.post_send = fake_post_send;
	fake_context.ops.poll_cq = fake_poll_cq;
	sigaction(SIGSYS, &before, NULL);
	if (calls > 0)
		fprintf(stderr, "%d system calls, the last one %d\n", (int)calls, (int)last_call);
	assert_int_equal(calls, 0);
	assert_int_equal(allocations, 0);
	assert_int_equal(ack_read(&path.received, UINT64_MAX), has_clock ? end : 0);
	pair_close(&path.pair);
	log_writer_destroy(path.writer);
	if (!has_clock)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(from_append_to_ack_the_only_system_call_is_the_drivers),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

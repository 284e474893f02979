#include "dataplane/dataplane.h"

#include "base/check.h"
#include "base/crash_point.h"
#include "base/thread.h"
#include "dataplane/frame.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BURST 32u
#define SEND_TRIES 100u
#define SEND_MAX 1518u

/* The longest sleep: without a port, or with one that wakes us, a bound on the harm of a lost
 * wake-up between hosts; with a port that must be polled, the latency of a frame that finds us
 * asleep. */
#define LONG_NS 5000000u
#define SHORT_NS 200000u

struct call {
	void (*function)(void *argument);
	void *argument;
};

struct dataplane {
	struct port *port;
	struct hold *net, *console;
	struct dataplane_user user;
	pthread_t thread;
	_Atomic bool stopping;

	/* The dataplane thread's own. */
	bool live;
	bool woken_by_port;
	struct idle idle;
	unsigned kept, first_kept; /* frames that the user had no room for */
	struct port_frame frames[BURST];
	const void *partial; /* a console output of which only a part was taken */
	size_t partial_taken;

	struct bell own_bell;
	/* Keeps the bell from being unmapped while somebody rings it. */
	pthread_mutex_t bell_lock;

	pthread_mutex_t callers; /* one call at a time */
	pthread_mutex_t call_lock;
	pthread_cond_t call_done;
	struct call call;
	_Atomic bool called; /* C1: release by the caller; C2: acquire by the loop */

	_Atomic uint64_t rx_frames, rx_bytes, rx_dropped, tx_frames, tx_bytes, console_bytes;
};

/* This thread alone counts; status reads. */
static void count(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, before + n, memory_order_relaxed);
}

static void throw_away_kept(struct dataplane *dp)
{
	count(&dp->rx_dropped, dp->kept);
	while (dp->kept) {
		port_frame_free(&dp->frames[dp->first_kept++]);
		dp->kept--;
	}
}

static bool receive(struct dataplane *dp)
{
	if (!dp->port)
		return false;
	bool received = false;
	if (dp->kept == 0) {
		dp->first_kept = 0;
		dp->kept = port_receive(dp->port, dp->frames, BURST,
			dp->live && dp->user.may_merge(dp->user.context));
		received = dp->kept > 0;
	}
	if (!dp->live) {
		throw_away_kept(dp);
		return received;
	}
	uint64_t frames = 0, bytes = 0;
	while (dp->kept) {
		/* Read before the frame is given away. */
		struct port_frame *frame = &dp->frames[dp->first_kept];
		uint32_t length = frame->length - FRAME_HEADER;
		if (!dp->user.take_frame(dp->user.context, frame))
			break;
		frames++;
		bytes += length;
		dp->first_kept++;
		dp->kept--;
	}
	count(&dp->rx_frames, frames);
	count(&dp->rx_bytes, bytes);
	return received || frames > 0;
}

static uint64_t acked_net(void *context, uint32_t session)
{
	struct dataplane *dp = context;
	return dp->user.acked(dp->user.context, dp->net, session);
}

static uint64_t acked_console(void *context, uint32_t session)
{
	struct dataplane *dp = context;
	return dp->user.acked(dp->user.context, dp->console, session);
}

static unsigned send_frames(void *context, const struct hold_output *outputs, unsigned n)
{
	struct dataplane *dp = context;
	if (!dp->port)
		return n; /* a guest without a network sends into nothing */
	CRASH_POINT("release.before");
	unsigned taken = port_send(dp->port, outputs, n);
	if (taken)
		CRASH_POINT("transmit.after");
	uint64_t bytes = 0;
	for (unsigned i = 0; i < taken; i++)
		bytes += outputs[i].length - FRAME_HEADER;
	count(&dp->tx_frames, taken);
	count(&dp->tx_bytes, bytes);
	return taken;
}

/* An output has left when its last byte has; until then we remember how far it is. */
static unsigned send_console(void *context, const struct hold_output *outputs, unsigned n)
{
	struct dataplane *dp = context;
	for (unsigned i = 0; i < n; i++) {
		size_t done = outputs[i].bytes == dp->partial ? dp->partial_taken : 0;
		size_t length = outputs[i].length - done;
		size_t taken = length ? dp->user.console(dp->user.context,
						(const uint8_t *)outputs[i].bytes + done, length)
				      : 0;
		CHECK(O2, taken <= length, "the console took %zu bytes of %zu", taken, length);
		count(&dp->console_bytes, taken);
		if (taken < length) {
			dp->partial = outputs[i].bytes;
			dp->partial_taken = done + taken;
			return i;
		}
		dp->partial = NULL;
	}
	return n;
}

/* It has left elsewhere (O3). */
static unsigned drop(void *context, const struct hold_output *outputs, unsigned n)
{
	(void)context, (void)outputs;
	return n;
}

static bool release(struct dataplane *dp)
{
	size_t left = hold_release(dp->net, acked_net, dp->live ? send_frames : drop, dp);
	left += hold_release(dp->console, acked_console, dp->live ? send_console : drop, dp);
	return left > 0;
}

static bool serve_call(struct dataplane *dp)
{
	if (!atomic_load_explicit(&dp->called, memory_order_acquire)) /* C2, pairs with C1 */
		return false;
	dp->call.function(dp->call.argument);
	pthread_mutex_lock(&dp->call_lock);
	atomic_store_explicit(&dp->called, false, memory_order_relaxed);
	pthread_cond_signal(&dp->call_done);
	pthread_mutex_unlock(&dp->call_lock);
	return true;
}

static void set_longest_sleep(struct dataplane *dp)
{
	bool polled = dp->live && dp->port && !dp->woken_by_port;
	dp->idle.longest_ns = polled ? SHORT_NS : LONG_NS;
}

static void *run(void *argument)
{
	struct dataplane *dp = argument;
	thread_is_prompt();
	dp->woken_by_port = dp->port && port_wakes(dp->port, &dp->idle.bell);
	set_longest_sleep(dp);
	for (;;) {
		idle_watch(&dp->idle);
		/* S2, pairs with S1 */
		if (atomic_load_explicit(&dp->stopping, memory_order_acquire))
			break;
		/* A call may have changed the bell, and then it is the new one that must be
		 * watched. */
		if (serve_call(dp)) {
			idle_busy(&dp->idle);
			continue;
		}
		bool busy = receive(dp);
		busy |= release(dp);
		if (busy)
			idle_busy(&dp->idle);
		else
			idle_pause(&dp->idle);
	}
	throw_away_kept(dp);
	if (dp->port)
		port_wakes(dp->port, NULL);
	return NULL;
}

int dataplane_start(struct dataplane **out, struct port *port, struct hold *net,
	struct hold *console, const struct dataplane_user *user)
{
	struct dataplane *dp = calloc(1, sizeof *dp);
	if (!dp)
		return fail(ENOMEM, "memory for the dataplane: %s", strerror(ENOMEM));
	dp->port = port;
	dp->net = net;
	dp->console = console;
	dp->user = *user;
	dp->idle.bell = &dp->own_bell;
	pthread_mutex_init(&dp->bell_lock, NULL);
	pthread_mutex_init(&dp->callers, NULL);
	pthread_mutex_init(&dp->call_lock, NULL);
	pthread_cond_init(&dp->call_done, NULL);

	/* It lets in the signals that its port needs. */
	int error = thread_start(&dp->thread, "dataplane", run, dp);
	if (error) {
		free(dp);
		return error;
	}
	*out = dp;
	return 0;
}

void dataplane_set_live(struct dataplane *dp, bool live)
{
	dp->live = live;
	dp->partial = NULL;
	set_longest_sleep(dp);
}

void dataplane_set_bell(struct dataplane *dp, struct bell *bell)
{
	pthread_mutex_lock(&dp->bell_lock);
	dp->idle.bell = bell ? bell : &dp->own_bell;
	pthread_mutex_unlock(&dp->bell_lock);
}

void dataplane_wake(struct dataplane *dp)
{
	pthread_mutex_lock(&dp->bell_lock);
	bell_ring(dp->idle.bell);
	pthread_mutex_unlock(&dp->bell_lock);
}

void dataplane_call(struct dataplane *dp, void (*function)(void *argument), void *argument)
{
	pthread_mutex_lock(&dp->callers);
	dp->call = (struct call){.function = function, .argument = argument};
	atomic_store_explicit(&dp->called, true, memory_order_release); /* C1 */
	dataplane_wake(dp);
	pthread_mutex_lock(&dp->call_lock);
	while (atomic_load_explicit(&dp->called, memory_order_relaxed))
		pthread_cond_wait(&dp->call_done, &dp->call_lock);
	pthread_mutex_unlock(&dp->call_lock);
	pthread_mutex_unlock(&dp->callers);
}

void dataplane_send(struct dataplane *dp, const void *frame, size_t length)
{
	uint8_t bytes[FRAME_HEADER + SEND_MAX] = {0};
	struct hold_output output = {.bytes = bytes, .length = FRAME_HEADER + length};
	CHECK(O4, length <= SEND_MAX, "a frame of %zu bytes ahead of those held", length);
	if (!dp->port)
		return;
	memcpy(bytes + FRAME_HEADER, frame, length);
	for (unsigned i = 0; i < SEND_TRIES; i++) {
		if (send_frames(dp, &output, 1))
			return;
		sched_yield();
	}
}

void dataplane_stop(struct dataplane *dp)
{
	if (!dp)
		return;
	atomic_store_explicit(&dp->stopping, true, memory_order_release); /* S1 */
	dataplane_wake(dp);
	pthread_join(dp->thread, NULL);
	pthread_mutex_destroy(&dp->bell_lock);
	pthread_mutex_destroy(&dp->callers);
	pthread_mutex_destroy(&dp->call_lock);
	pthread_cond_destroy(&dp->call_done);
	free(dp);
}

struct dataplane_counters dataplane_counters(const struct dataplane *dp)
{
	return (struct dataplane_counters){
		.rx_frames = atomic_load_explicit(&dp->rx_frames, memory_order_relaxed),
		.rx_bytes = atomic_load_explicit(&dp->rx_bytes, memory_order_relaxed),
		.rx_dropped = atomic_load_explicit(&dp->rx_dropped, memory_order_relaxed),
		.tx_frames = atomic_load_explicit(&dp->tx_frames, memory_order_relaxed),
		.tx_bytes = atomic_load_explicit(&dp->tx_bytes, memory_order_relaxed),
		.console_bytes = atomic_load_explicit(&dp->console_bytes, memory_order_relaxed),
	};
}

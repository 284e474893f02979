#include "engine/host.h"

#include "engine/boot.h"

#include <errno.h>
#include <event2/thread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HOLD_NET (8u << 20)
#define HOLD_CONSOLE (1u << 20)

static void ring_machine(struct host *host)
{
	if (atomic_load_explicit(&host->bell_ready, memory_order_acquire))
		bell_ring(&host->machine.bell);
}

static bool take_frame(void *context, struct port_frame *frame)
{
	struct host *host = context;
	bool taken = frame_queue_put(&host->live.frames, frame);
	ring_machine(host);
	return taken;
}

static bool may_merge(void *context)
{
	const struct host *host = context;
	return atomic_load_explicit(&host->live.may_merge, memory_order_relaxed);
}

static uint64_t acked(void *context, const struct hold *hold, uint32_t session)
{
	const struct host *host = context;
	/* A session that is over has no acks any more (A3). */
	if (session != host->commit.session || !host->commit.reached)
		return 0;
	return host->commit.reached(host->commit.context,
		hold == host->hold[OUTPUT_NET] ? OUTPUT_NET : OUTPUT_CONSOLE);
}

static size_t to_console(void *context, const void *bytes, size_t length)
{
	struct host *host = context;
	return console_write(host->console, bytes, length);
}

static size_t from_console(void *context, const uint8_t *bytes, size_t count)
{
	struct host *host = context;
	size_t taken = byte_queue_put(&host->live.keys, bytes, count);
	ring_machine(host);
	return taken;
}

static void outputs_wait(void *context)
{
	struct host *host = context;
	dataplane_wake(host->dataplane);
}

static void on_signal(evutil_socket_t number, short what, void *context)
{
	struct host *host = context;
	(void)number, (void)what;
	host->events.leave(host->events.context);
}

static void on_wake(evutil_socket_t number, short what, void *context)
{
	struct host *host = context;
	(void)number, (void)what;
	host->events.woken(host->events.context);
}

void host_wake(struct host *host)
{
	event_active(host->on_wake, EV_TIMEOUT, 0);
}

static void machine_finished(void *context)
{
	host_wake(context);
}

static json_t *status(void *context)
{
	struct host *host = context;
	const struct config *config = host->config;
	/* The moment of all that follows: rates are what lies between two answers. */
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	json_t *answer = json_pack("{s:s, s:i, s:I}", "vm", config->name, "pid", (int)getpid(),
		"time_us", (json_int_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	if (host->has_machine) {
		json_object_set_new(answer, "exits",
			json_integer((json_int_t)atomic_load(&host->machine.exits_shown)));
		json_object_set_new(answer, "interrupts",
			json_integer((json_int_t)atomic_load(&host->machine.interrupts_shown)));
	}
	const struct resync_counters *resyncs = &host->live.resyncs;
	json_object_set_new(answer, "resync",
		json_pack("{s:I, s:I, s:f, s:f, s:f}", "resyncs",
			(json_int_t)atomic_load(&resyncs->count), "pages",
			(json_int_t)atomic_load(&resyncs->pages), "last_stop_ms",
			(double)atomic_load(&resyncs->last_ns) / 1e6, "longest_stop_ms",
			(double)atomic_load(&resyncs->longest_ns) / 1e6, "total_stop_ms",
			(double)atomic_load(&resyncs->total_ns) / 1e6));
	uint64_t held = hold_waiting(host->hold[0]) + hold_waiting(host->hold[1]);
	json_object_set_new(answer, "held_outputs", json_integer((json_int_t)held));
	struct dataplane_counters c = dataplane_counters(host->dataplane);
	json_object_set_new(answer, "network",
		json_pack("{s:I, s:I, s:I, s:I, s:I}", "rx_frames", (json_int_t)c.rx_frames,
			"rx_bytes", (json_int_t)c.rx_bytes, "rx_dropped", (json_int_t)c.rx_dropped,
			"tx_frames", (json_int_t)c.tx_frames, "tx_bytes", (json_int_t)c.tx_bytes));
	host->events.status(host->events.context, answer);
	return answer;
}

static void stop(void *context)
{
	struct host *host = context;
	host->events.stop(host->events.context);
}

/* libevent's own messages repeat what our errors say. */
static void no_log(int severity, const char *message)
{
	(void)severity, (void)message;
}

static int open_events(struct host *host)
{
	event_set_log_callback(no_log);
	evthread_use_pthreads();
	host->base = event_base_new();
	if (!host->base)
		return fail(ENOMEM, "cannot make an event loop");
	host->on_term = evsignal_new(host->base, SIGTERM, on_signal, host);
	host->on_int = evsignal_new(host->base, SIGINT, on_signal, host);
	host->on_wake = event_new(host->base, -1, EV_PERSIST, on_wake, host);
	if (!host->on_term || !host->on_int || !host->on_wake ||
		evsignal_add(host->on_term, NULL) < 0 || evsignal_add(host->on_int, NULL) < 0)
		return fail(ENOMEM, "cannot watch for signals");
	return 0;
}

int host_open(struct host *host, const struct config *config, const struct host_events *events)
{
	memset(host, 0, sizeof *host);
	host->config = config;
	host->events = *events;
	host->live.outputs_wait = outputs_wait;
	host->live.context = host;
	host->live.lag.bound_ns = (uint64_t)config->lag_ms * 1000000u;
	host->live.wait_ns = (uint64_t)config->interrupt_wait_ms * 1000000u;
	port_block_signals();
	signal(SIGPIPE, SIG_IGN);
	int error = open_events(host);
	if (!error)
		error = hold_create(&host->hold[OUTPUT_NET], HOLD_NET);
	if (!error)
		error = hold_create(&host->hold[OUTPUT_CONSOLE], HOLD_CONSOLE);
	if (!error)
		error = console_open(
			&host->console, config->console, host->base, from_console, host);
	if (!error && config->net)
		error = port_open(&host->port, config->net);
	const struct dataplane_user user = {.take_frame = take_frame,
		.may_merge = may_merge,
		.acked = acked,
		.console = to_console,
		.context = host};
	if (!error)
		error = dataplane_start(&host->dataplane, host->port, host->hold[OUTPUT_NET],
			host->hold[OUTPUT_CONSOLE], &user);
	const struct control_user control = {.status = status, .stop = stop, .context = host};
	if (!error)
		error = control_open(&host->control, host->base, config->name, &control);
	if (error)
		host_close(host);
	return error;
}

int host_make_machine(struct host *host, uint64_t memory, const uint8_t mac[6])
{
	int error = machine_create(&host->machine, memory, mac);
	if (error)
		return error;
	host->machine.live = &host->live;
	host->machine.source = &live_source;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		host->machine.hold[i] = host->hold[i];
	host->has_machine = true;
	atomic_store_explicit(&host->bell_ready, true, memory_order_release);
	return 0;
}

int host_boot(struct host *host)
{
	const struct config *config = host->config;
	struct machine *m = &host->machine;
	uint64_t memory = config->memory ? config->memory : MEMORY_DEFAULT;
	uint64_t entry;
	int error = host_make_machine(host, memory, config->mac);
	if (error)
		return error;
	error = boot_load(&m->memory, config->kernel, config->initrd, config->append, &entry);
	/* Not before: to load it can take seconds. */
	cmos_set_time(&m->board.cmos, (uint64_t)time(NULL));
	return error ? error : vcpu_boot(&m->vcpu, entry, memory);
}

void host_drop_machine(struct host *host)
{
	if (!host->has_machine)
		return;
	atomic_store_explicit(&host->bell_ready, false, memory_order_release);
	host->has_machine = false;
	machine_destroy(&host->machine);
}

int host_start_machine(struct host *host)
{
	return machine_start(&host->machine, machine_finished, host);
}

static void drop_frames(struct host *host)
{
	while (frame_queue_peek(&host->live.frames))
		frame_queue_take(&host->live.frames, 0);
	frame_queue_free(&host->live.frames, UINT64_MAX);
}

void host_close(struct host *host)
{
	control_close(host->control);
	if (host->dataplane)
		dataplane_stop(host->dataplane);
	drop_frames(host);
	if (host->port)
		port_close(host->port);
	console_close(host->console);
	host_drop_machine(host);
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++) {
		if (host->hold[i])
			hold_destroy(host->hold[i]);
	}
	struct event *events[] = {host->on_term, host->on_int, host->on_wake};
	for (unsigned i = 0; i < sizeof events / sizeof events[0]; i++) {
		if (events[i])
			event_free(events[i]);
	}
	if (host->base)
		event_base_free(host->base);
	memset(host, 0, sizeof *host);
}

struct change {
	struct host *host;
	const struct commit *commit;
	struct bell *bell;
	uint32_t session;
	bool live;
	struct announce announce;
};

static void set_commit(void *argument)
{
	struct change *change = argument;
	change->host->commit = *change->commit;
	dataplane_set_bell(change->host->dataplane, change->bell);
}

void host_set_commit(struct host *host, const struct commit *commit, struct bell *bell)
{
	struct change change = {.host = host, .commit = commit, .bell = bell};
	dataplane_call(host->dataplane, set_commit, &change);
}

static void set_live(void *argument)
{
	struct change *change = argument;
	dataplane_set_live(change->host->dataplane, change->live);
}

void host_set_live(struct host *host, bool live)
{
	struct change change = {.host = host, .live = live};
	dataplane_call(host->dataplane, set_live, &change);
}

static void decide(void *argument)
{
	struct change *change = argument;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_decide(change->host->hold[i], change->session);
}

void host_decide(struct host *host, uint32_t session)
{
	struct change change = {.host = host, .session = session};
	dataplane_call(host->dataplane, decide, &change);
}

static void forget_outputs(void *argument)
{
	struct change *change = argument;
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++)
		hold_clear(change->host->hold[i]);
}

void host_forget_outputs(struct host *host)
{
	struct change change = {.host = host};
	dataplane_call(host->dataplane, forget_outputs, &change);
}

static void learn_addresses(struct machine *m, void *argument)
{
	struct announce *announce = argument;
	*announce = m->announce;
}

static void send_announcements(void *argument)
{
	struct change *change = argument;
	uint8_t frame[ANNOUNCE_FRAME];
	for (unsigned i = 0; announce_frame(&change->announce, i, frame); i++)
		dataplane_send(change->host->dataplane, frame, sizeof frame);
}

void host_announce(struct host *host)
{
	struct change change = {.host = host};
	if (!host->port)
		return;
	machine_call(&host->machine, MACHINE_ANYWHERE, learn_addresses, &change.announce);
	dataplane_call(host->dataplane, send_announcements, &change);
}

bool host_drain(struct host *host, unsigned longest_ms)
{
	for (unsigned i = 0; i < longest_ms; i++) {
		if (hold_waiting(host->hold[0]) + hold_waiting(host->hold[1]) == 0)
			return true;
		dataplane_wake(host->dataplane);
		usleep(1000);
	}
	return false;
}

int host_verdict(const struct host *host)
{
	const struct machine *m = &host->machine;
	switch (m->verdict) {
	case MACHINE_STOPPED:
		return STATUS_OK;
	case MACHINE_ENDED:
		if (m->end_reason == LOG_END_POWER && m->end_value == 0)
			return STATUS_OK;
		if (m->end_reason == LOG_END_RESTART) {
			say("the guest has ended in order and asks for a restart: run it again");
			return STATUS_OK;
		}
		if (m->end_reason == LOG_END_POWER)
			say("the guest switched its machine off with value %u", m->end_value);
		else if (m->end_reason == LOG_END_SHUTDOWN)
			say("the guest died of a triple fault at rip %#llx",
				(unsigned long long)m->vcpu.run->s.regs.regs.rip);
		else
			say("the guest halted with interrupts off at rip %#llx: nothing can wake "
			    "it",
				(unsigned long long)m->vcpu.run->s.regs.regs.rip);
		return STATUS_GUEST;
	case MACHINE_DIVERGED:
		say("%s", m->message);
		return STATUS_DIFFERS;
	case MACHINE_CUT:
		say("%s", m->message);
		return STATUS_RECORDING;
	default:
		say("%s", m->message);
		return STATUS_HOST;
	}
}

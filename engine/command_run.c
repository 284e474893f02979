#include "engine/commands.h"
#include "engine/host.h"
#include "transport/recording.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define RECORDING_SESSION 1u
#define RECORDING_RING (4u << 20)

struct run {
	struct host host;
	struct recording *recording;
	struct log_writer *log;
};

static void on_woken(void *context)
{
	struct run *run = context;
	if (machine_ended(&run->host.machine))
		event_base_loopbreak(run->host.base);
}

static void stop_machine(struct machine *m, void *argument)
{
	(void)argument;
	live_stop(m);
}

static void on_stop(void *context)
{
	struct run *run = context;
	machine_call(&run->host.machine, MACHINE_ANYWHERE, stop_machine, NULL);
}

static void on_status(void *context, json_t *status)
{
	const struct run *run = context;
	json_object_set_new(status, "role", json_string("run"));
	if (run->log) {
		json_object_set_new(status, "log_bytes",
			json_integer((json_int_t)atomic_load(&run->host.live.flushed)));
		json_object_set_new(status, "log_entries",
			json_integer((json_int_t)atomic_load(&run->host.live.entries)));
	}
}

/* What is handed to the kernel survives this process: then an output may leave. */
static uint64_t recorded(void *context, enum output_device device)
{
	(void)device;
	struct run *run = context;
	return atomic_load_explicit(&run->host.live.flushed, memory_order_acquire);
}

/* A recording that cannot be written ends the run: without it no output may leave. */
static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	struct run *run = context;
	int error = recording_sink.write(run->recording, lsn, pieces, count);
	if (error)
		machine_end(&run->host.machine, MACHINE_FAILED, "%s", fail_message());
	return error;
}

static uint64_t sink_written(void *context)
{
	struct run *run = context;
	return recording_sink.written(run->recording);
}

static uint64_t sink_consumed(void *context, uint64_t head)
{
	struct run *run = context;
	return recording_sink.consumed(run->recording, head);
}

static const struct log_sink run_sink = {
	.write = sink_write,
	.written = sink_written,
	.consumed = sink_consumed,
};

static int begin_recording(struct run *run, const char *path)
{
	struct host *host = &run->host;
	uint64_t secret;
	if (getrandom(&secret, sizeof secret, 0) != sizeof secret)
		return fail(EIO, "the kernel gives no random bytes");
	size_t size = machine_state_size();
	void *state = malloc(size);
	if (!state)
		return fail(ENOMEM, "no memory for the machine's first state");
	int error = machine_save(&host->machine, state);
	if (!error)
		error = recording_create(&run->recording, path,
			&(struct recording_origin){.vm = host->config->name,
				.secret = secret,
				.state = state,
				.state_size = size,
				.memory = host->machine.memory.base,
				.memory_size = host->machine.memory.size});
	if (!error)
		error = log_writer_create(&run->log, &run_sink, run, RECORDING_RING, secret, 0);
	free(state);
	if (error)
		return error;
	const struct commit commit = {
		.session = RECORDING_SESSION, .reached = recorded, .context = run};
	host_set_commit(host, &commit, NULL);
	live_begin_log(&host->machine, run->log, RECORDING_SESSION);
	return 0;
}

static int run_guest(struct run *run, const struct config *config)
{
	struct host *host = &run->host;
	int error = host_boot(host);
	if (!error && config->record)
		error = begin_recording(run, config->record);
	if (error)
		return command_failed(error);
	live_set_time(&host->live, 0, now_ns());
	host_set_live(host, true);
	error = host_start_machine(host);
	if (error)
		return command_failed(error);
	event_base_dispatch(host->base);
	machine_join(&host->machine);
	host_drain(host, 1000);
	return host_verdict(host);
}

int command_run(const struct config *config)
{
	struct run *run = calloc(1, sizeof *run);
	const struct host_events events = {.woken = on_woken,
		.leave = on_stop,
		.stop = on_stop,
		.status = on_status,
		.context = run};
	if (!run)
		return command_failed(fail(ENOMEM, "no memory"));
	int error = host_open(&run->host, config, &events);
	int status = error ? command_failed(error) : run_guest(run, config);
	if (!error)
		host_close(&run->host);
	if (run->log)
		log_writer_destroy(run->log);
	if (run->recording && recording_close(run->recording) < 0)
		status = command_failed(-EIO);
	free(run);
	return status;
}

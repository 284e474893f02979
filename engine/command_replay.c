#include "engine/commands.h"
#include "engine/live.h"
#include "engine/replay.h"
#include "transport/recording.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Offline outputs leave as soon as they are replayed: the console's to standard output, frames
 * nowhere. */
struct offline {
	struct machine machine;
	struct live live;
	struct replay replay;
};

static unsigned to_stdout(void *context, const struct hold_output *outputs, unsigned count)
{
	(void)context;
	for (unsigned i = 0; i < count; i++)
		fwrite(outputs[i].bytes, 1, outputs[i].length, stdout);
	return count;
}

static unsigned to_nowhere(void *context, const struct hold_output *outputs, unsigned count)
{
	(void)context, (void)outputs;
	return count;
}

static uint64_t all(void *context, uint32_t session)
{
	(void)context, (void)session;
	return UINT64_MAX;
}

/* Whatever a recording holds that is not right, the recording is to blame. */
static int unreadable(int error)
{
	int status = command_failed(error);
	return error == -EBADMSG || error == -EPROTO || error == -EINVAL ? STATUS_RECORDING
									 : status;
}

/* On the vCPU thread, which is the only one here: producer and consumer of the holds. */
static void release(void *context)
{
	struct offline *offline = context;
	hold_release(offline->machine.hold[OUTPUT_NET], all, to_nowhere, NULL);
	hold_release(offline->machine.hold[OUTPUT_CONSOLE], all, to_stdout, NULL);
}

static int report(
	const struct offline *offline, const struct recording_view *view, const char *path)
{
	const struct machine *m = &offline->machine;
	fflush(stdout);
	uint64_t left = view->entries.end - offline->replay.reader.next;
	/* A durable log ends where its writer did, which need not be where the guest does. */
	bool is_cut = m->verdict == MACHINE_CUT && view->is_durable && left == 0;
	if (m->verdict == MACHINE_CUT && !is_cut) {
		say("the recording %s is cut short or damaged: %s; use a good copy or record again",
			path, m->message);
		return STATUS_RECORDING;
	}
	if (!is_cut && m->verdict != MACHINE_ENDED && m->verdict != MACHINE_STOPPED) {
		say("%s", m->message);
		return m->verdict == MACHINE_DIVERGED ? STATUS_DIFFERS : STATUS_HOST;
	}
	if (left != 0) {
		say("the recording %s is damaged: %" PRIu64
		    " bytes follow its end; use a good copy or record again",
			path, left);
		return STATUS_RECORDING;
	}
	fprintf(stderr,
		"doppel: replayed %" PRIu64 " entries over %" PRIu64 " exits, %" PRIu64
		" interrupts: every digest matched%s\n",
		offline->replay.entries, m->exits, m->interrupts,
		is_cut ? "; the log ends there, before the guest does" : "");
	return STATUS_OK;
}

static int replay(struct offline *offline, const struct recording_view *view, const char *path)
{
	struct machine *m = &offline->machine;
	m->live = &offline->live;
	offline->replay = (struct replay){.offline = true,
		.reader = view->entries,
		.limit = view->entries.end,
		.ended = true,
		.session = 1,
		.progress = release,
		.context = offline};
	int error = hold_create(&m->hold[OUTPUT_NET], 1u << 20);
	if (!error)
		error = hold_create(&m->hold[OUTPUT_CONSOLE], 1u << 20);
	if (!error)
		error = machine_load(m, view->state, view->state_size);
	int status = STATUS_OK;
	if (!error) {
		recording_load_memory(view, m->memory.base);
		replay_begin(m, &offline->replay);
		error = machine_start(m, NULL, NULL);
	}
	if (error) {
		status = unreadable(error);
	} else {
		machine_join(m);
		release(offline);
		status = report(offline, view, path);
	}
	for (unsigned i = 0; i < OUTPUT_DEVICES; i++) {
		if (m->hold[i])
			hold_destroy(m->hold[i]);
	}
	return status;
}

int command_replay(const struct config *config)
{
	struct recording_view view;
	static const uint8_t no_mac[6];
	struct offline *offline = calloc(1, sizeof *offline);
	if (!offline)
		return command_failed(fail(ENOMEM, "no memory"));
	int status;
	int error = recording_open(&view, config->file);
	if (error) {
		status = unreadable(error);
		goto free_offline;
	}
	if (view.is_dropped) {
		say("%s has dropped its entries before LSN %" PRIu64
		    " to keep the newest: it can be dumped, but not replayed",
			config->file, view.entries.next);
		status = STATUS_RECORDING;
		goto close_view;
	}
	error = machine_create(&offline->machine, view.memory_size, no_mac);
	if (error) {
		status = unreadable(error);
		goto close_view;
	}
	status = replay(offline, &view, config->file);
	machine_destroy(&offline->machine);
close_view:
	recording_view_close(&view);
free_offline:
	free(offline);
	return status;
}

int command_dump(const struct config *config)
{
	struct recording_view view;
	int error = recording_open(&view, config->file);
	if (error)
		return unreadable(error);
	struct log_entry entry;
	char text[256];
	enum log_kind last = 0;
	if (view.is_dropped)
		say("%s has dropped its entries before LSN %" PRIu64 " to keep the newest",
			config->file, view.entries.next);
	while (log_reader_peek(&view.entries, &entry) == LOG_VALID) {
		log_describe(&entry, text, sizeof text);
		if (puts(text) == EOF)
			break;
		log_reader_take(&view.entries, &entry);
		last = entry.kind;
	}
	int status = STATUS_OK;
	uint64_t left = view.entries.end - view.entries.next;
	if (left != 0 || (last != LOG_END && !view.is_durable)) {
		say("the recording %s is cut short or damaged: %" PRIu64
		    " bytes behind LSN %" PRIu64 " are no entry; use a good copy or record again",
			config->file, left, view.entries.next);
		status = STATUS_RECORDING;
	}
	if (fflush(stdout) != 0)
		status = command_failed(
			fail(errno, "cannot write the entries: %s", strerror(errno)));
	recording_view_close(&view);
	return status;
}

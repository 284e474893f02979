#include "engine/commands.h"
#include "engine/live.h"
#include "engine/replay.h"
#include "transport/log_describe.h"
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

	enum { TELL_NOTHING, TELL_LINES, TELL_IN_PLACE } progress;
	uint64_t told_ns;
};

#define LINES_NS 2000000000u
#define IN_PLACE_NS 200000000u

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

/* A line that is written over stands in the way of a console on the same terminal, which shows by itself
 * that something goes on. */
static void choose_progress(struct offline *offline, const struct config *config)
{
	if (isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO))
		offline->progress = TELL_IN_PLACE;
	else if (config->progress)
		offline->progress = TELL_LINES;
}

static void tell_progress(struct offline *offline)
{
	const struct replay *replay = &offline->replay;
	uint64_t now = now_ns(), last = atomic_load(&replay->limit), done = replay->reader.next;
	bool in_place = offline->progress == TELL_IN_PLACE;
	char time[LOG_TIME_TEXT];
	if (now - offline->told_ns < (in_place ? IN_PLACE_NS : LINES_NS))
		return;
	offline->told_ns = now;
	if (replay->has_until && replay->until_lsn < last)
		last = replay->until_lsn;
	fprintf(stderr,
		"%sdoppel: replayed %.0f %%: LSN %" PRIu64 " of %" PRIu64 ", position %" PRIu64
		", guest time %s s%s",
		in_place ? "\r" : "", last ? 100.0 * (double)done / (double)last : 100.0, done,
		last, offline->machine.exits, log_time(replay->time_ns, time),
		in_place ? "\033[K" : "\n");
}

static void end_progress(const struct offline *offline)
{
	if (offline->progress == TELL_IN_PLACE)
		fputs("\r\033[K", stderr);
}

/* On the vCPU thread, which is the only one here: producer and consumer of the holds. */
static void release(void *context)
{
	struct offline *offline = context;
	hold_release(offline->machine.hold[OUTPUT_NET], all, to_nowhere, NULL);
	hold_release(offline->machine.hold[OUTPUT_CONSOLE], all, to_stdout, NULL);
	if (offline->progress != TELL_NOTHING)
		tell_progress(offline);
}

static void report_where(const struct offline *offline)
{
	const struct machine *m = &offline->machine;
	char time[LOG_TIME_TEXT];
	fprintf(stderr,
		"doppel: stopped before LSN %" PRIu64 ", at position %" PRIu64
		", guest time %s s, rip %#llx, digest %08x: %" PRIu64
		" entries replayed, every digest matched\n",
		offline->replay.reader.next, m->exits, log_time(offline->replay.time_ns, time),
		(unsigned long long)m->vcpu.run->s.regs.regs.rip, digest_word(&m->digest),
		offline->replay.entries);
}

static int report(
	const struct offline *offline, const struct recording_view *view, const char *path)
{
	const struct machine *m = &offline->machine;
	if (fflush(stdout) != 0 || ferror(stdout))
		return command_failed(
			fail(EIO, "cannot write the console's output: %s", strerror(errno)));
	if (offline->replay.is_there) {
		report_where(offline);
		return STATUS_OK;
	}
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
	if (offline->replay.has_until)
		say("that is before --until");
	return STATUS_OK;
}

static int replay(
	struct offline *offline, const struct recording_view *view, const struct config *config)
{
	struct machine *m = &offline->machine;
	m->live = &offline->live;
	offline->replay = (struct replay){.offline = true,
		.reader = view->entries,
		.limit = view->entries.end,
		.ended = true,
		.session = 1,
		.has_until = config->has_until,
		.until_lsn = config->until_lsn,
		.until_ns = config->until_ns,
		.time_ns = LOG_NO_TIME,
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
		end_progress(offline);
		status = report(offline, view, config->file);
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
	choose_progress(offline, config);
	status = replay(offline, &view, config);
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
	char text[320];
	uint64_t time_ns = LOG_NO_TIME;
	enum log_kind last = 0;
	if (view.is_dropped)
		say("%s has dropped its entries before LSN %" PRIu64 " to keep the newest",
			config->file, view.entries.next);
	while (log_reader_peek(&view.entries, &entry) == LOG_VALID) {
		(void)log_tells_time(&entry, &time_ns);
		log_describe(&entry, time_ns, text, sizeof text);
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

/*
 * The peer of Bressoud and Schneider (Hypervisor-based Fault Tolerance, 1995): the guest's time is cut into epochs,
 * its interrupts are taken only where one ends, and there the primary stands still until the backup has
 * acknowledged everything. What the guest sends within an epoch need not wait: all that led to it is
 * acknowledged already.
 */
#include "perf/peer.h"

#define EPOCH_NS 1000000u

uint64_t __wrap_session_committed(void *context, enum output_device device);

uint64_t __wrap_session_committed(void *context, enum output_device device)
{
	(void)context, (void)device;
	return UINT64_MAX;
}

static uint64_t epoch_ends; /* the vCPU thread's */

static bool something_waits(struct machine *m)
{
	struct live *live = m->live;
	return pic_pending(&m->board.pic) || frame_queue_peek(&live->frames) ||
	       byte_queue_waits(&live->keys) || machine_must_pause(m) ||
	       pit_deadline(&m->board.pit) != UINT64_MAX;
}

static void end_epoch(struct machine *m)
{
	live_flush(m);
	while (m->live->log && !m->live->broken && !machine_ended(m) && !peer_has_acked(m)) {
		uint32_t watched = machine_watch(m);
		machine_wait(m, watched, 10000);
	}
	epoch_ends = now_ns() + EPOCH_NS;
}

void peer_inputs(struct machine *m)
{
	struct live *live = m->live;
	uint64_t now = now_ns();
	bool waits = m->halted && !pic_pending(&m->board.pic);
	if (live->log && !waits && now < epoch_ends) {
		if (live->output_sealed)
			live_flush(m);
		return;
	}
	/* A guest that is halted comes to the epoch's end all the same. */
	while (live->log && waits && !machine_ended(m) && !machine_must_pause(m)) {
		uint32_t watched = machine_watch(m);
		now = now_ns();
		if (now >= epoch_ends && something_waits(m))
			break;
		if (now >= epoch_ends)
			epoch_ends = now + EPOCH_NS;
		/* Without the beat the backup would take a long idleness for a death. */
		if (live->output_sealed || atomic_load(&live->beat_wanted))
			live_flush(m);
		machine_wait(m, watched, epoch_ends - now);
	}
	__real_live_source.inputs(m);
	if (live->log)
		end_epoch(m);
}

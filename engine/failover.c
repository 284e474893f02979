/*
 * Who is live, and how that changes. The order of the steps is what makes it safe:
 *
 *   backup:   suspect ─▶ fence (acks end, the connection breaks) ─▶ take all that was placed and is
 *             whole ─▶ replay it ─▶ not diverged ─▶ A1 ─▶ kept outputs leave ─▶ announce ─▶ run
 *   primary:  suspect ─▶ fence ─▶ A1 ─▶ held outputs leave ─▶ run
 *
 * Before A1 says won, nothing leaves that the other side may not have received; unknown is not won,
 * and is asked again with every tick.
 */
#include "base/check.h"
#include "base/crash_point.h"
#include "engine/pair.h"

#include <inttypes.h>
#include <string.h>

#define ANNOUNCEMENTS 4u

/* Asks for the generation behind the present one. True: it is ours now. */
static bool won(struct pair *pair)
{
	enum arbiter_verdict verdict = arbiter_take(pair->arbiter, pair->generation + 1);
	switch (verdict) {
	case ARBITER_WON:
		pair->generation++;
		pair->told_unknown = false;
		return true;
	case ARBITER_LOST:
		say("deposed: the other side holds generation %" PRIu64 " of VM %s; halting",
			pair->generation + 1, pair->host.config->name);
		pair_halt(pair, STATUS_DEPOSED);
		return false;
	default:
		if (!pair->told_unknown)
			say("the arbiter does not answer, so nothing may leave yet: %s",
				fail_message());
		pair->told_unknown = true;
		return false;
	}
}

static void no_commit(struct pair *pair)
{
	const struct commit none = {.session = SESSION_ALONE};
	host_set_commit(&pair->host, &none, NULL);
}

static void suspect(struct pair *pair, const char *why, uint64_t heard_ns)
{
	pair->failover.suspected_ns = now_ns();
	pair->failover.heard_ns = heard_ns;
	snprintf(pair->failover.why, sizeof pair->failover.why, "%s", why);
	pair->session->provider->fence(pair->session->connection);
	CRASH_POINT("fence.after");
}

void failover_backup_lost(struct pair *pair, const char *why)
{
	say("the backup is lost (%s)", why);
	suspect(pair, why, pair->session->heard_ns);
	failover_go_alone(pair);
}

static void end_log(struct machine *m, void *argument)
{
	(void)argument;
	/* The session still owns the writer. */
	(void)live_end_log(m);
}

void failover_go_alone(struct pair *pair)
{
	if (!won(pair))
		return;
	uint32_t session = pair->session->id;
	machine_call(&pair->host.machine, MACHINE_ANYWHERE, end_log, NULL);
	no_commit(pair);
	host_decide(&pair->host, session);
	pair_drop_session(pair);
	role_change(&pair->role, ROLE_SOLO);
	say("going on alone as generation %" PRIu64, pair->generation);
}

void failover_suspect(struct pair *pair, const char *why)
{
	say("the primary is suspected (%s): replaying the rest of its log", why);
	role_change(&pair->role, ROLE_LIVE);
	suspect(pair, why, pair->session->heard_ns);
	receiver_finish(&pair->session->receiver);
	host_wake(&pair->host); /* a machine that has ended does not drain */
}

static void go_live(struct machine *m, void *argument)
{
	const struct pair *pair = argument;
	/* A machine that has ended has nothing to go on with; its kept outputs still leave. */
	if (!machine_ended(m))
		replay_go_live(m, atomic_load(&pair->session->receiver.heard_ns));
}

void failover_take_over(struct pair *pair)
{
	struct machine *m = &pair->host.machine;
	const uint32_t stopped = HEARTBEAT_LEAVING | HEARTBEAT_STOP_REQUESTED;
	uint32_t flags = pair->session->heard.flags;
	enum machine_verdict verdict = m->verdict; /* once: it may change meanwhile */
	bool in_order = verdict == MACHINE_ENDED || verdict == MACHINE_STOPPED;
	/* A machine that failed or diverged goes nowhere. One that ended, or was stopped, together with
	 * a primary whose last outputs have left has nothing to go live for. */
	if (verdict != MACHINE_RUNNING && (!in_order || (flags & HEARTBEAT_LEAVING))) {
		pair_halt(pair, host_verdict(&pair->host));
		return;
	}
	if ((flags & stopped) == stopped) {
		pair_halt(pair, STATUS_OK);
		return;
	}
	if (verdict == MACHINE_RUNNING && !atomic_load(&pair->replay.drained))
		return;
	CHECK(D5, verdict != MACHINE_DIVERGED, "a diverged backup asks to go live");
	if (pair->failover.drained_ns < pair->failover.suspected_ns)
		pair->failover.drained_ns = now_ns();
	if (!won(pair))
		return;
	CRASH_POINT("live.before");
	uint32_t session = pair->session->id;
	/* The dataplane is live before anything may leave: one that is not takes what may for what has
	 * left elsewhere, and drops it (O3). */
	no_commit(pair);
	host_set_live(&pair->host, true);
	host_decide(&pair->host, session);
	pair->announcements = ANNOUNCEMENTS;
	host_announce(&pair->host);
	machine_call(m, MACHINE_ANYWHERE, go_live, pair);
	pair->failover.live_ns = now_ns();
	pair->failover.count++;
	pair_drop_session(pair);
	role_change(&pair->role, ROLE_SOLO);
	CRASH_POINT("live.after");
	say("live as generation %" PRIu64
	    ": silence %.1f ms, replay of the rest %.1f ms, arbiter and release %.1f ms",
		pair->generation,
		(double)(pair->failover.suspected_ns - pair->failover.heard_ns) / 1e6,
		(double)(pair->failover.drained_ns - pair->failover.suspected_ns) / 1e6,
		(double)(pair->failover.live_ns - pair->failover.drained_ns) / 1e6);
	host_wake(&pair->host);
}

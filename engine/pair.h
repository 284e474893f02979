/*
 * A process of a pair: its role, its session, and what it does when the other side falls silent.
 *
 *   command_pair.c  the start of a process, and what it tells of itself
 *   pair.c       the event loop's callbacks: ticks, connections, ends; protecting and following
 *   failover.c   what may change who is live: fence, replay, arbiter, release — in this order
 *
 * Everything runs on the control thread.
 */
#pragma once

#include "engine/host.h"
#include "engine/role.h"
#include "engine/session.h"

struct pair {
	struct host host;
	enum role role;
	int status; /* exit status once halted */

	struct auth_key key;
	struct arbiter *arbiter;
	uint64_t generation; /* held, or on a backup the primary's */
	uint64_t arbiter_ns; /* when the arbiter was last asked, alone */

	const struct provider *provider; /* where we listen, as a standby */
	struct listener *listener;
	struct log_file *log; /* of a standby with --log, set aside for its session */
	struct event *on_listener;
	char refused[512]; /* why nobody was accepted, as it was last said */

	struct session *session;
	struct event *on_connection, *on_heartbeat;
	uint32_t sessions; /* how many this process has begun; the newest one's id */
	struct replay replay;
	uint64_t beat_seen, beat_ns; /* the backup's receiver: its last beat, and when it came */
	uint64_t flushed_seen;       /* the primary's log, to see whether it needs a MARK */
	uint64_t quiet_until_ns;     /* no attempt to find a standby before */
	bool stop_wanted, told_unknown;
	_Atomic bool broken; /* the receiver has given the connection up */
	uint64_t divergences; /* of the backup, this process or the other side's */
	uint64_t listen_ns;   /* a standby that does not listen does so again then */

	struct event *on_tick;
	uint64_t tick_ns;
	unsigned announcements; /* still to be made */

	/* The last failover's parts, for status. */
	struct {
		uint64_t heard_ns, suspected_ns, drained_ns, live_ns;
		uint64_t count;
		char why[96];
	} failover;
};

/* failover.c */

/* Primary: the backup is gone or silent. Fences it, and goes on alone if the arbiter agrees. */
void failover_backup_lost(struct pair *pair, const char *why);
/* Primary that has lost its backup: asks the arbiter (again). */
void failover_go_alone(struct pair *pair);
/* Backup: the primary is gone or silent. Fences it and replays the rest. */
void failover_suspect(struct pair *pair, const char *why);
/* Live: once everything is replayed asks the arbiter (again), and goes live if it agrees. */
void failover_take_over(struct pair *pair);

/* pair.c */

/* Standby: waits for a primary at its address. */
int pair_listen(struct pair *pair) MUST_CHECK;
/* Ends this process: nothing more is run or sent. */
void pair_halt(struct pair *pair, int status);
/* Forgets the session, which no other thread uses any more. */
void pair_drop_session(struct pair *pair);
/* Ends the machine and the session, and closes all but the host. */
void pair_close(struct pair *pair);

/* Callbacks of the event loop, and of host.h: `context` is the pair. */
void pair_tick(evutil_socket_t fd, short what, void *context); /* some times a heartbeat timeout */
void pair_answer(
	evutil_socket_t fd, short what, void *context); /* standby: a primary has connected */
void pair_woken(void *context);
void pair_leave(void *context);
void pair_stop(void *context);

/*
 * A session: one connection between a primary and its backup, from the handshake and the clone to the
 * fence. Ring, ack block and secret are new for each (L3); nothing of one session is valid in another.
 *
 * Messages, in order (all fixed structs in session.c, little-endian):
 *
 *     primary                          standby
 *     each proves that it knows the VM's key (auth.h), which makes the session's secret
 *     HELLO  who, what            ──▶  checks that everything fits
 *                                 ◀──  WELCOME, or a refusal with its reason
 *     attach                           expose
 *     the guest stops
 *     pages (one-sided writes)    ══▶  guest memory
 *     STATE                       ──▶  vCPU, devices, and which pages were sent (clone.h)
 *     outputs are held from here
 *     COMMIT  checksums, generation ─▶ from here the standby may attempt A1
 *     the guest goes on; the log starts
 *
 * Until COMMIT is sent a failure leaves the primary as it was; from then on it is alone again only
 * through A1.
 */
#pragma once

#include "engine/arbiter.h"
#include "engine/auth.h"
#include "engine/heartbeat.h"
#include "engine/host.h"
#include "engine/receiver.h"
#include "engine/replay.h"
#include "transport/ack.h"
#include "transport/log_writer.h"
#include "transport/transport.h"

struct session {
	const struct provider *provider;
	struct connection *connection;
	uint32_t id;
	uint64_t secret;
	uint64_t ring;
	uint64_t generation; /* the primary's when it began */
	enum commit_level commit;

	/* Heartbeats; control thread. */
	int udp;
	char peer[80]; /* host of the other side, for status */
	struct heartbeat_peer beat_to;
	struct heartbeat_session beats;
	struct heartbeat heard;
	uint64_t heard_ns;

	/* Primary. Each reader belongs to one thread. */
	struct live *live;
	struct log_writer *log;
	struct ack_reader committed; /* dataplane thread; not used at the level `placed` */
	struct ack_reader
		fallback; /* dataplane thread: `received`, once the backup's durable log is lost */
	struct ack_reader consumed;                          /* vCPU thread */
	struct ack_reader received, replayed, durable, beat; /* control thread */
	uint64_t clone_ns, clone_bytes; /* how long the guest stood still, and what was copied */

	/* Backup. */
	struct durable_thread *log_thread; /* NULL without --log */
	struct receiver receiver;
};

/* Primary: connects, agrees, attaches. -EACCES: one side does not know the other's key; -ECONNREFUSED and -ETIMEDOUT: nobody is there yet, try again;
 * -EPERM: refused, the message has the peer's reason. Blocks for some seconds at most. */
int session_connect(struct session **out, struct host *host, const char *address, uint32_t id,
	struct arbiter *arbiter, const struct auth_key *key, uint64_t generation) MUST_CHECK;

/* Standby: answers one primary, up to its COMMIT; the machine is then loaded and follows `replay`. On
 * failure the host has no machine. -EAGAIN: nobody was there; -EACCES: it does not know the VM's key; -EPERM: it is a primary of this VM, and
 * one of the two sides must be started in another way. `log`: the durable log's file, which the
 * session takes if it succeeds, or NULL. */
int session_accept(struct session **out, struct host *host, const struct provider *provider,
	struct listener *listener, struct arbiter *arbiter, const struct auth_key *key,
	struct log_file **log, struct replay *replay) MUST_CHECK;

/* Receives one message of exactly this size, which begins with `magic`; `what` is for messages. -EPROTO. */
int session_expect(struct session *session, void *message, size_t size, uint32_t magic,
	const char *what, unsigned timeout_ms) MUST_CHECK;

/* Control thread. Sends a heartbeat; takes in what has arrived. */
void session_beat(struct session *session, const struct heartbeat *heartbeat);
void session_hear(struct session *session);

/* How far the backup is, on the primary, control thread. */
uint64_t session_received(struct session *session);
uint64_t session_replayed(struct session *session);
uint64_t session_durable(struct session *session);

/* How far the log has reached the commit level, on the dataplane thread; `context` is the session. */
uint64_t session_committed(void *context, enum output_device device);

/* Primary, control thread: the backup's durable log is lost, and outputs wait for `received` from here
 * on. Nothing is to be done at another commit level. */
void session_forgo_durable(struct session *session, struct host *host);

/* No thread may use the session any more. */
void session_close(struct session *session);

/*
 * Heartbeats: small UDP datagrams between the two sides of a session. Silence is a reason to ask
 * the arbiter, never a proof of death (A2), so any of them may be lost, repeated or overtaken.
 *
 * The datagram, 56 bytes, little-endian:
 *
 *     0  magic       "DPHB"
 *     4  version     1
 *     6  side        who sends: 1 primary, 2 backup
 *     8  flags       HEARTBEAT_*, others 0
 *    12  zero
 *    16  session     derived from the session's secret
 *    24  sequence    from 1, one more for each datagram sent
 *    32  generation  the sender's
 *    40  progress    an LSN: the primary's log end, the backup's replayed
 *    48  checksum    XXH3-64 of bytes 0 to 47, seeded with the session's secret
 *
 * A datagram is taken only when all of this is right, it comes from the other side, and its
 * sequence is newer than all taken before. The secret makes this safe against accidents and against
 * strangers and old sessions, who do not know it. It is no cryptography: whoever can read the
 * network can forge.
 *
 * A flag, once set, stays set in every later datagram: only the newest one counts.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define HEARTBEAT_SIZE 56

#define HEARTBEAT_STOP_REQUESTED 1u /* somebody has asked the sender for an orderly stop */
#define HEARTBEAT_LEAVING 2u        /* the sender ends now, and in order: this is not a failure */
#define HEARTBEAT_LOG_LOST 4u       /* the sender's durable log takes no more */
#define HEARTBEAT_DIVERGED 8u       /* the sender has diverged, and goes no further (D5) */

enum heartbeat_side { HEARTBEAT_PRIMARY = 1, HEARTBEAT_BACKUP = 2 };

struct heartbeat {
	uint64_t generation;
	uint64_t progress;
	uint32_t flags;
};

/* One side's end of a session. One thread at a time. */
struct heartbeat_session {
	uint64_t secret;
	uint64_t id;
	enum heartbeat_side side;
	uint64_t sent;    /* sequence of the last datagram sent */
	uint64_t seen;    /* sequence of the newest datagram taken */
	uint64_t taken;   /* datagrams taken */
	uint64_t ignored; /* datagrams that were not ours, damaged, or late */
};

void heartbeat_begin(struct heartbeat_session *session, uint64_t secret, enum heartbeat_side side);

/* Writes the next datagram. */
void heartbeat_encode(struct heartbeat_session *session, const struct heartbeat *heartbeat,
	uint8_t datagram[HEARTBEAT_SIZE]);

/* Takes a datagram, or leaves `heartbeat` alone and returns false (no fail(): strangers are
 * normal). */
bool heartbeat_decode(struct heartbeat_session *session, const void *datagram, size_t length,
	struct heartbeat *heartbeat) MUST_CHECK;

/* A non-blocking UDP socket bound to a local address (a name or IPv4 or IPv6 address; NULL: every
 * address), at *port, 0 being any; *port becomes the port it got. Returns the descriptor. */
int heartbeat_open(const char *host, uint16_t *port) MUST_CHECK;

struct heartbeat_peer {
	struct sockaddr_storage address;
	socklen_t length;
};

/* Looks the peer up, for a socket that heartbeat_open made: in its address family. May block on
 * DNS. */
int heartbeat_peer(int fd, const char *host, uint16_t port, struct heartbeat_peer *peer) MUST_CHECK;

/* Sends one datagram. Never blocks. An error is a lost datagram and no more: the caller may go on.
 */
int heartbeat_send(int fd, const struct heartbeat_peer *peer, struct heartbeat_session *session,
	const struct heartbeat *heartbeat);

/* Takes in what has arrived, never blocking. 1: *heartbeat is the newest; 0: nothing new. After a
 * bounded number of datagrams it returns with what it has, so that a flood holds nobody. */
int heartbeat_receive(
	int fd, struct heartbeat_session *session, struct heartbeat *heartbeat) MUST_CHECK;

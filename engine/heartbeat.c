#include "engine/heartbeat.h"

#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC 0x42485044u /* "DPHB" */
#define VERSION 1u
#define KNOWN_FLAGS                                                                                \
	(HEARTBEAT_STOP_REQUESTED | HEARTBEAT_LEAVING | HEARTBEAT_LOG_LOST | HEARTBEAT_DIVERGED)
#define RECEIVE_MAX 256 /* datagrams taken in at one call */

struct datagram {
	uint32_t magic;
	uint16_t version;
	uint16_t side;
	uint32_t flags;
	uint32_t zero;
	uint64_t session;
	uint64_t sequence;
	uint64_t generation;
	uint64_t progress;
	uint64_t checksum;
};
_Static_assert(sizeof(struct datagram) == HEARTBEAT_SIZE, "on the wire");
_Static_assert(offsetof(struct datagram, session) == 16, "on the wire");
_Static_assert(offsetof(struct datagram, checksum) == 48, "on the wire");
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "the datagram is written as it lies in memory");

static uint64_t checksum_of(const struct datagram *datagram, uint64_t secret)
{
	return XXH3_64bits_withSeed(datagram, offsetof(struct datagram, checksum), secret);
}

void heartbeat_begin(struct heartbeat_session *session, uint64_t secret, enum heartbeat_side side)
{
	static const char salt[] = "doppel heartbeat session";
	*session = (struct heartbeat_session){
		.secret = secret,
		.id = XXH3_64bits_withSeed(salt, sizeof salt, secret),
		.side = side,
	};
}

void heartbeat_encode(struct heartbeat_session *session, const struct heartbeat *heartbeat,
	uint8_t datagram[HEARTBEAT_SIZE])
{
	struct datagram d = {
		.magic = MAGIC,
		.version = VERSION,
		.side = (uint16_t)session->side,
		.flags = heartbeat->flags,
		.session = session->id,
		.sequence = ++session->sent,
		.generation = heartbeat->generation,
		.progress = heartbeat->progress,
	};
	d.checksum = checksum_of(&d, session->secret);
	memcpy(datagram, &d, sizeof d);
}

bool heartbeat_decode(struct heartbeat_session *session, const void *datagram, size_t length,
	struct heartbeat *heartbeat)
{
	struct datagram d;
	if (length != sizeof d)
		goto ignore;
	memcpy(&d, datagram, sizeof d);
	if (d.magic != MAGIC || d.version != VERSION || d.session != session->id ||
		d.checksum != checksum_of(&d, session->secret))
		goto ignore;
	/* Our own datagram, sent back to us by a network that loops, must not pass for a living
	 * peer. */
	if (d.side != HEARTBEAT_PRIMARY + HEARTBEAT_BACKUP - session->side)
		goto ignore;
	if ((d.flags & ~KNOWN_FLAGS) != 0 || d.zero != 0 || d.sequence <= session->seen)
		goto ignore;
	session->seen = d.sequence;
	session->taken++;
	*heartbeat = (struct heartbeat){
		.generation = d.generation,
		.progress = d.progress,
		.flags = d.flags,
	};
	return true;

ignore:
	session->ignored++;
	return false;
}

/* One address for a host and port, in `family` (AF_UNSPEC: any). */
static int look_up(
	const char *host, uint16_t port, int family, int flags, struct heartbeat_peer *out)
{
	struct addrinfo hints = {
		.ai_family = family,
		.ai_socktype = SOCK_DGRAM,
		.ai_flags = flags | AI_NUMERICSERV,
	};
	struct addrinfo *found;
	char service[8];
	snprintf(service, sizeof service, "%u", port);
	int error = getaddrinfo(host, service, &hints, &found);
	if (error != 0)
		return fail(error == EAI_SYSTEM ? errno : EADDRNOTAVAIL,
			"cannot find the heartbeat address %s: %s; check --heartbeat",
			host ? host : "*",
			error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
	*out = (struct heartbeat_peer){.length = found->ai_addrlen};
	memcpy(&out->address, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

static uint16_t port_of(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
	return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

int heartbeat_open(const char *host, uint16_t *port)
{
	struct heartbeat_peer local;
	int rc = look_up(host, *port, AF_UNSPEC, AI_PASSIVE, &local);
	if (rc < 0)
		return rc;
	int fd = socket(local.address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(errno, "cannot make a UDP socket for heartbeats: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&local.address, local.length) < 0) {
		rc = fail(errno,
			"cannot bind heartbeats to %s, port %u: %s; give an address of this host "
			"with --heartbeat",
			host ? host : "*", *port, strerror(errno));
		goto close_socket;
	}
	local.length = sizeof local.address;
	if (getsockname(fd, (struct sockaddr *)&local.address, &local.length) < 0) {
		rc = fail(errno, "cannot learn the heartbeat port: %s", strerror(errno));
		goto close_socket;
	}
	*port = port_of(&local.address);
	return fd;

close_socket:
	close(fd);
	return rc;
}

int heartbeat_peer(int fd, const char *host, uint16_t port, struct heartbeat_peer *peer)
{
	struct sockaddr_storage local;
	socklen_t length = sizeof local;
	if (getsockname(fd, (struct sockaddr *)&local, &length) < 0)
		return fail(errno, "cannot use the heartbeat socket: %s", strerror(errno));
	return look_up(host, port, local.ss_family, 0, peer);
}

int heartbeat_send(int fd, const struct heartbeat_peer *peer, struct heartbeat_session *session,
	const struct heartbeat *heartbeat)
{
	uint8_t datagram[HEARTBEAT_SIZE];
	heartbeat_encode(session, heartbeat, datagram);
	if (sendto(fd, datagram, sizeof datagram, MSG_DONTWAIT | MSG_NOSIGNAL,
		    (const struct sockaddr *)&peer->address, peer->length) < 0)
		return fail(errno, "cannot send a heartbeat: %s", strerror(errno));
	return 0;
}

int heartbeat_receive(int fd, struct heartbeat_session *session, struct heartbeat *heartbeat)
{
	int taken = 0;
	for (int i = 0; i < RECEIVE_MAX; i++) {
		uint8_t datagram[HEARTBEAT_SIZE +
				 1]; /* one more, so that a longer one is seen to be */
		ssize_t got = recv(fd, datagram, sizeof datagram, MSG_DONTWAIT);
		if (got >= 0) {
			if (heartbeat_decode(session, datagram, (size_t)got, heartbeat))
				taken = 1;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			break;
		} else if (errno != EINTR && errno != ECONNREFUSED) {
			/* What has been taken counts more; the error comes again if it is one that
			 * lasts. */
			return taken ? taken
				     : fail(errno, "cannot receive heartbeats: %s",
					       strerror(errno));
		}
	}
	return taken;
}

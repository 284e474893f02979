/*
 * How the two sides of a verbs connection meet, by librdmacm:
 *
 *   primary                                         standby
 *   bulk link: resolve, connect {token}        ──▶  the listener's thread makes a connection
 *              established                     ◀──  and accepts
 *   log link:  resolve, connect {the token}    ──▶  finds the connection by its token
 *              established                     ◀──  and accepts
 *                                              ◀──  both established: waits for accept, and says so
 *
 * Who connects is not known yet: nothing is shared, what waits is bounded in number and time.
 */
#pragma once

#include "transport/verbs_connection.h"

/* What a request to connect brings along, and what a refusal does. */
#define VERBS_MAGIC 0x6c707044u /* "Dppl" */
#define VERBS_VERSION 1u

struct verbs_greeting {
	uint32_t magic;
	uint16_t version;
	uint16_t which;
	uint8_t token[VERBS_TOKEN];
};
_Static_assert(sizeof(struct verbs_greeting) == 24, "shared between hosts; at most 56 bytes");

enum verbs_refusal { REFUSED_NOT, REFUSED_BUSY, REFUSED_VERSION, REFUSED_FAILED };

struct verbs_answer {
	uint32_t magic;
	uint32_t refusal;
};
_Static_assert(sizeof(struct verbs_answer) == 8, "shared between hosts");

struct listener;

/* As their namesakes in struct provider. */
int verbs_listener_open(const char *where, struct listener **out) MUST_CHECK;
int verbs_listener_fd(const struct listener *listener);
int verbs_listener_accept(struct listener *listener, struct connection **out) MUST_CHECK;
void verbs_listener_close(struct listener *listener);
int verbs_connect(const char *where, unsigned timeout_ms, struct connection **out) MUST_CHECK;

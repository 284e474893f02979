/*
 * Who may connect: both sides prove that they know the VM's key, a file with the same bytes on both
 * hosts, before either says or gives anything else (memory least of all).
 *
 *     primary                                standby
 *     OPEN       32 random bytes       ──▶
 *                                      ◀──  CHALLENGE  32 others
 *     PROOF      MAC of "primary"      ──▶  checks
 *                                      ◀──  ANSWER     MAC of "standby", or a refusal
 *     checks
 *
 * A MAC is HMAC-SHA-256, under the key, of the side's name and both sides' random bytes. The session's
 * secret is made in the same way and never sent. Without a key, on one machine, the key is empty.
 *
 * Control thread. What follows is not encrypted: who can read or change the hosts' traffic can read
 * and change the log.
 */
#pragma once

#include "transport/transport.h"

#define AUTH_KEY_MIN 16u
#define AUTH_KEY_MAX 4096u

struct auth_key {
	size_t size;
	uint8_t bytes[AUTH_KEY_MAX];
};

/* Reads a key's file; NULL makes the empty key. -EINVAL: too short, too long, or others may read it. */
int auth_key_read(struct auth_key *key, const char *path) MUST_CHECK;

/* One for each side. -EACCES: the other one does not know our key, and has been told so. */
int auth_as_primary(const struct auth_key *key, const struct provider *provider,
	struct connection *connection, uint64_t *secret) MUST_CHECK;
int auth_as_standby(const struct auth_key *key, const struct provider *provider,
	struct connection *connection, uint64_t *secret) MUST_CHECK;

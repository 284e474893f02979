/*
 * Who may run live: an atomic test-and-set of a VM's generation on storage that both hosts see
 * (A1).
 *
 * A generation is a file, DIR/<vm>.gen-<N>. It appears whole, by link() of a temporary file that
 * was written and synced before, and it is never removed or changed. It holds one line, for a
 * person to read and for us to check:
 *
 *     doppel generation 7 vm ledger host alpha pid 4711 time 2024-05-01T12:00:00Z tag 0123...cdef
 *
 * The tag is 128 random bits, new for each arbiter_open(). Who reads its own tag in the file of
 * generation N has won N, whatever link() said: over NFS a request can be repeated after it was
 * done and then fails, or be done after we gave up on it. Everything else that is not certainly
 * lost is unknown, and unknown is not won.
 *
 * A holder that dies leaves its generation taken for ever. That is no loss: its successor takes the
 * next one, as in any failover. So does a process that is started again, since its tag is a new
 * one.
 *
 * Works on local disks and NFS, needs hard links, and relies on no lock, no clock and no lease.
 * Both hosts must mean the same directory; arbiter_holder() lets them compare what they see.
 *
 * Threads: one at a time for each object, in the process that opened it (not in its forked child).
 * Every call reaches the storage and may block for as long as that takes: on a hung NFS server for
 * ever, if it is mounted hard. Do not call from a thread that something waits for.
 */
#pragma once

#include "base/fail.h"

#include <stdint.h>

#define ARBITER_NAME_MAX 64

struct arbiter;

enum arbiter_verdict {
	ARBITER_WON,     /* this object holds the generation, durably, and there is no later one */
	ARBITER_LOST,    /* somebody else holds it, or a later one exists: for ever */
	ARBITER_UNKNOWN, /* not won; perhaps held all the same, so ask again until it is known */
};

/* A VM's name is 1 to 64 of A-Z a-z 0-9 . _ - ; -EINVAL says so. */
int arbiter_check_name(const char *vm) MUST_CHECK;

/* `address` is dir:PATH, a directory that exists. Tries out that files can be made and linked
 * there, and removes this VM's temporary files that are more than a day old. */
int arbiter_open(struct arbiter **out, const char *address, const char *vm) MUST_CHECK;

/* The highest generation that exists; 0: none yet. A negative errno: not known. */
int arbiter_current(struct arbiter *arbiter, uint64_t *generation) MUST_CHECK;

/* Tries to become the holder of exactly this generation (from 1), which should be the next one. May
 * be asked again at any time, and then says how it is now. fail_message() says why it is not won.
 */
enum arbiter_verdict arbiter_take(struct arbiter *arbiter, uint64_t generation) MUST_CHECK;

struct arbiter_holder {
	char host[65];
	int pid;
	char time[24]; /* UTC, by the holder's clock */
	char tag[33];
};
/* Who holds a generation; -ENOENT: nobody. Two hosts that see the same tag see the same storage. */
int arbiter_holder(
	struct arbiter *arbiter, uint64_t generation, struct arbiter_holder *holder) MUST_CHECK;

/* Removes the temporary file, if one is left. The generation stays taken. */
void arbiter_close(struct arbiter *arbiter);

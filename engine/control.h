/*
 * The control socket, behind `doppel status` and `doppel stop`.
 *
 * Each process listens on a Unix stream socket RUN_DIR/<vm>.<pid>, where RUN_DIR is $DOPPEL_RUN_DIR
 * or /run/doppel, made with mode 0700 if it is missing; it should be doppel's alone. A client sends
 * one line, "status" or "stop", gets one line of JSON, and the connection ends. {"error":"..."} is
 * the answer to a request that cannot be served. Only root and the process's own user are served.
 *
 * The server never waits for a client: at most 4 are served at a time, each for at most a second in
 * all; more wait in the kernel.
 */
#pragma once

#include "base/fail.h"

#include <jansson.h>

struct event_base;
struct control;

/* Both are called on the event loop's thread, must not block, and must not close the control. */
struct control_user {
	/* A new reference, which control releases. NULL: the client is told that there is none. */
	json_t *(*status)(void *context);
	/* Somebody asks for an orderly stop; may be called several times. Answered by
	 * {"stopping":true}. */
	void (*stop)(void *context);
	void *context;
};

/* Opens this process's socket for `vm` and serves it from `base`. Copies *user. All of the server's
 * calls belong to the event loop's thread, or to any while the loop does not run. */
int control_open(struct control **out, struct event_base *base, const char *vm,
	const struct control_user *user) MUST_CHECK;

/* Drops the clients and removes the socket. NULL is fine. */
void control_close(struct control *control);

/*
 * The client: asks every process of `vm` on this machine (NULL: of every VM), in the order of their
 * names, waiting up to 2 s for each. `each` gets the socket's path and the answer, which it may
 * json_incref() to keep; or NULL when the process did not answer, and fail_message() says why.
 * Sockets of dead processes are removed on the way. Returns how many answered; -ENOENT when no
 * process runs the VM, another negative errno when none answered. Needs no event loop.
 */
int control_query(const char *vm, const char *request,
	void (*each)(void *context, const char *path, json_t *answer), void *context) MUST_CHECK;

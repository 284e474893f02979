/*
 * The clone: copying a whole machine to a standby while its guest stands still. Pages go one-sided, then
 * STATE with the vCPU, the devices and which pages they were, then COMMIT, whose checksums cover all of it
 * and which names the generation (session.h has the order of messages).
 *
 * Pages that are zero are not sent; those that the guest never touched are not even looked at. The
 * standby's memory is new, and zero where nothing was sent.
 */
#pragma once

#include "engine/session.h"

/* Primary: stops the guest, copies it, begins the log, goes on. `committed`: COMMIT was sent, or may
 * have been; only A1 leads back. */
int clone_send(struct session *session, struct host *host, bool *committed) MUST_CHECK;

/* Standby: takes all of it, up to a whole COMMIT, and loads the machine. `time_ns`: the newest that the
 * guest has been told. */
int clone_receive(struct session *session, struct host *host, uint64_t *time_ns) MUST_CHECK;

/*
 * Two other ways to keep a machine alive, to measure beside ours: checkpoints.c (as Remus) and epochs.c (as
 * Bressoud and Schneider). Each is the doppel program with one object more: the linker (--wrap) puts the peer's
 * functions in front of the engine's, so that machine, devices, transport and dataplane are the same, and the
 * engine knows nothing of them. They are for measurements: they never go live.
 */
#pragma once

#include "engine/session.h"

extern const struct source __real_live_source;

/* The live source's `inputs`: a peer's own. */
void peer_inputs(struct machine *m);

/* vCPU thread: whether the backup has acknowledged all that was flushed; false without a session. */
bool peer_has_acked(struct machine *m);

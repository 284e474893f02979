/*
 * The hold: where outputs wait until the log that leads to them is safe.
 *
 * A bounded FIFO of outputs, made by the vCPU thread (producer) and released by the dataplane
 * thread (consumer). Each output knows the session and the LSN of the end of its OUTPUT entry, and
 * leaves only when the commit counter of that session has reached that LSN (O2), or when a decision
 * was made about it by name (hold_decide). There is no flag that opens the gate for all.
 *
 * On a backup the same hold keeps what the guest has produced: what the primary has reported as
 * released is covered there, and goes nowhere (O3). So is what must have left there, since the primary's hold, which is
 * as large, had room for more (hold_yield): its report may be late, and must not be waited for.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The session of outputs that need no ack: made while alone with the generation in hand (A1). */
#define SESSION_ALONE 0u

struct hold;

int hold_create(struct hold **out, size_t bytes) MUST_CHECK;
void hold_destroy(struct hold *hold);

/*
 * Producer. An output operation is a burst: first hold_has_room for all it may make, then hold_put
 * for each, then hold_seal for all of them. What is not sealed cannot be seen by the consumer. The
 * bytes are copied (O4). Each output costs up to 31 bytes of the hold beside its own. A session's
 * seals have growing LSNs, one for each burst (CHECKed): hold_released rests on it.
 */
bool hold_has_room(const struct hold *hold, size_t outputs, size_t bytes);
void hold_put(struct hold *hold, const void *bytes, size_t length); /* CHECKs that there is room */
void hold_seal(struct hold *hold, uint32_t session, uint64_t lsn);

/* Producer, on a backup: as much had room behind the same outputs elsewhere. The oldest here have left there then, as
 * many as keep it from having room. */
void hold_yield(struct hold *hold, size_t outputs, size_t bytes);

/*
 * Consumer. `acked(context, session)` is asked once for each session met. `send` gets runs of
 * outputs and returns how many the device has taken, in order; the rest stays. Returns how many
 * left.
 */
struct hold_output {
	const void *bytes;
	size_t length;
};
size_t hold_release(struct hold *hold, uint64_t (*acked)(void *context, uint32_t session),
	unsigned (*send)(void *context, const struct hold_output *outputs, unsigned count),
	void *context);

/* Every output of `session` that waits now may leave: the verdict of A1. Later ones are not
 * touched. */
void hold_decide(struct hold *hold, uint32_t session);

/* The consumer, while there is no producer: all that is held is gone, and so is what it knew of sessions. */
void hold_clear(struct hold *hold);

/* Any thread. */
uint64_t hold_waiting(const struct hold *hold); /* outputs */
uint64_t hold_waiting_bytes(const struct hold *hold);
/* The LSN of the last output of `session` that the device has taken, 0 if none yet (for RELEASED).
 */
uint64_t hold_released(const struct hold *hold, uint32_t session);

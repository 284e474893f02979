/*
 * The machine: one guest, executed by the vCPU thread, fed by a source of inputs.
 *
 * The loop below is the same on a primary, on a backup and offline; only the source differs. That is
 * what makes the three the same machine:
 *
 *     run the guest to its next sync exit                              vcpu_run
 *     serve it: device access, then the queues the guest kicked        serve; source->clock, ->random, ->output
 *     apply inputs, in log order                                       source->inputs
 *     inject an interrupt if one is pending and can be taken           interrupt
 *     answer calls from other threads                                  machine_call
 *
 * Sources: engine/live.c takes inputs from the outside and appends each to the log before it applies
 * it (D2); engine/replay.c takes them from a log.
 *
 * Threads: everything here belongs to the vCPU thread, except where "any thread" is said.
 */
#pragma once

#include "base/idle.h"
#include "dataplane/announce.h"
#include "dataplane/hold.h"
#include "engine/board.h"
#include "engine/digest.h"
#include "engine/resync.h"
#include "engine/vcpu.h"
#include "transport/log_format.h"

#include <pthread.h>

struct machine;

/* An output operation closes when the exit is served, or at these bounds, so that its size does not
 * depend on the host (D3). */
#define OUTPUT_GROUP_COUNT 32u
#define OUTPUT_GROUP_BYTES 65536u
#define OUTPUT_GROUP_ROOM (OUTPUT_GROUP_BYTES + OUTPUT_MAX)
#define OUTPUT_DEVICES 2u

struct output_group {
	uint32_t count, bytes;
	uint64_t digest; /* XXH3 of the outputs' bytes, each seeded by the one before */
};

/* All on the vCPU thread. A source that cannot go on ends the machine (machine_end). */
struct source {
	/* The guest reads its clock. */
	uint64_t (*clock)(struct machine *m);
	/* The guest asks for 1 to RANDOM_MAX random bytes. */
	void (*random)(struct machine *m, void *bytes, size_t length);
	/* The guest has made `group`: pins its position (O1) and seals it in the hold. */
	void (*output)(
		struct machine *m, enum output_device device, const struct output_group *group);
	/* Applies every input due at this position. While m->halted, waits until the guest can go on or
	 * machine_must_pause() says that somebody calls. */
	void (*inputs)(struct machine *m);
	/* The vCPU is going to wait, in the middle of an exit, for room in the hold of `device`, for one group. */
	void (*held_up)(struct machine *m, enum output_device device);
	/* The vCPU is about to go on. NULL: nothing is to be done. */
	void (*leave)(struct machine *m);
	/* The guest was interrupted between two exits, where nothing may be applied; unless this is true:
	 * then the source has made it a position. */
	bool (*interrupted)(struct machine *m);
	/* The guest has ended by itself. */
	void (*ended)(struct machine *m, enum log_end reason, uint32_t value);
};

enum machine_verdict {
	MACHINE_RUNNING,
	MACHINE_ENDED,    /* the guest ended by itself: end_reason, end_value */
	MACHINE_STOPPED,  /* somebody asked for it */
	MACHINE_DIVERGED, /* D5; the message says where and what */
	MACHINE_CUT,      /* offline: the log ends before the machine does */
	MACHINE_FAILED,   /* the host failed us; the message says how */
};

struct machine_call;

struct machine {
	struct device_env env; /* first: a device's env is its machine */
	struct guest_memory memory;
	struct vcpu vcpu;
	struct board board;
	position exits;
	bool halted;
	bool unfinished; /* the last exit's instruction completes with the next entry */
	bool arrived;    /* at a position without an exit: a first state, or a resync */
	struct digest digest;

	const struct source *source;
	struct live *live;      /* engine/live.h; always there */
	struct replay *replay;  /* engine/replay.h; NULL unless following a log */
	struct staging staging; /* engine/resync.h; of who follows a log */
	struct hold *hold[OUTPUT_DEVICES];
	struct output_group group[OUTPUT_DEVICES];
	struct announce announce; /* the guest's addresses, learned from what it sends */

	/* Any thread reads it. Set last: the three below are whole once it is not RUNNING. */
	_Atomic enum machine_verdict verdict;
	enum log_end end_reason;
	uint32_t end_value;
	char message[384];

	struct bell bell; /* wakes the vCPU thread while it waits */
	pthread_t thread;
	_Atomic bool started;
	_Atomic bool finished;
	_Atomic(struct machine_call *) call;
	struct bell call_done;
	pthread_mutex_t call_lock; /* one caller at a time */
	void (*on_finish)(void *context);
	void *on_finish_context;

	_Atomic uint64_t exits_shown, interrupts_shown; /* for status; any thread reads */
	uint64_t interrupts;
};

/* Makes a machine with empty memory and reset devices. Destroy it in any state but running. */
int machine_create(struct machine *m, uint64_t memory_size, const uint8_t mac[6]) MUST_CHECK;
void machine_destroy(struct machine *m);

/* Starts the vCPU thread. `on_finish` is called on it when the machine has ended. */
int machine_start(struct machine *m, void (*on_finish)(void *context), void *context) MUST_CHECK;
void machine_join(struct machine *m);

/*
 * Runs `function` on the vCPU thread and waits for it; any other thread. MACHINE_PAUSED: between two
 * exits with the last instruction finished, where the machine can be saved; only while it is live and
 * nothing is logged, since finishing moves the position. MACHINE_ANYWHERE: also in the middle of an
 * exit that waits for room or for the log. Without a running thread it runs here.
 */
enum machine_when { MACHINE_ANYWHERE, MACHINE_PAUSED };
void machine_call(struct machine *m, enum machine_when when,
	void (*function)(struct machine *m, void *argument), void *argument);

/* Ends the loop with a verdict; the first one stays. Format may be NULL. */
void machine_end(struct machine *m, enum machine_verdict verdict, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static inline bool machine_ended(const struct machine *m)
{
	/* V2, pairs with V1 in machine_end */
	return atomic_load_explicit(&m->verdict, memory_order_acquire) != MACHINE_RUNNING;
}

/* Any thread: makes the vCPU thread look again, whether it is in the guest or asleep. */
void machine_wake(struct machine *m);

/* For sources: sleeps until the bell rings or `longest_ns` is over, answering MACHINE_ANYWHERE calls.
 * False when the machine has ended meanwhile. Call bell first, look for work, then wait. */
uint32_t machine_watch(const struct machine *m);
bool machine_wait(struct machine *m, uint32_t watched, uint64_t longest_ns);
bool machine_must_pause(const struct machine *m);

/* Completes the last exit's instruction, which may exit again and so move the position. */
void machine_finish(struct machine *m);

/* The digest at this position, stepped if this is its first logged entry. */
uint32_t machine_digest(struct machine *m);

/* Makes the point between two exits at which the machine stands a position, counted as an exit. */
void machine_arrive(struct machine *m);

/* Saving and loading: a blob for clones and recordings, beside memory. Paused, or before the start. */
size_t machine_state_size(void);
int machine_save(struct machine *m, void *blob) MUST_CHECK;
int machine_load(struct machine *m, const void *blob, size_t size) MUST_CHECK;
/* Whether the blob could be this machine's state at its next position. */
int machine_check(const struct machine *m, const void *blob, size_t size) MUST_CHECK;

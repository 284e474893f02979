/*
 * Sounds: how a side that sleeps hears of what the other one writes.
 *
 * A plain RDMA write is silent where it lands. To be heard it ends with a sound, which takes a receive
 * there, and whose completion wakes the connection's thread, which rings the bell: a write with
 * immediate data or, for iWARP, which has none, an empty message behind it. Who spins would pay for
 * each of them and gain nothing. So each side tells the other one whether it wants to be heard:
 *
 *   both begin with sounds
 *   UNHEARD rings in a row have found nobody asleep      SOUND_OFF ──▶  from now on writes are silent
 *   the thread, which now looks each few ms, finds
 *   that somebody sleeps                                 SOUND_ON  ──▶  writes are heard again
 *                                                        ◀── SOUND_RING  and one sound at once
 *
 * No wake-up is lost: whether a write is heard is decided in the hold of the queue's lock in which it is
 * posted (S1), and SOUND_RING is posted under that lock after sounds were switched on (S2). What was silent
 * lies before it in the queue, and so has arrived when it is heard. Who falls asleep while there are no
 * sounds may sleep until the thread looks and SOUND_ON and SOUND_RING have crossed, if that long at all.
 *
 * Over iWARP sounds are never switched off: its messages bring no word.
 */
#pragma once

#include "transport/verbs_queue.h"

/* What a sound's immediate data says; anything else is a ring. */
enum verbs_sound_word { SOUND_RING, SOUND_ON, SOUND_OFF };

/* Rings in a row that nobody heard, until sounds are switched off. */
#define VERBS_UNHEARD 32u

struct verbs_sound {
	struct verbs_queue *queue;
	_Atomic bool is_wanted; /* by the peer */

	/* The rest is the connection's thread's. */
	unsigned unheard;
	bool is_off;               /* the peer was told, or will be, that we want none */
	bool must_tell, must_ring; /* as soon as the queue has room */
};

void verbs_sound_open(struct verbs_sound *sound, struct verbs_queue *queue);

/* How many slots a request's sound takes besides its own; with the queue's lock held. */
unsigned verbs_sound_slots(const struct verbs_sound *sound);

/* Lets the last of `count` requests be heard, if the peer wants to; behind it is one more for that.
 * Returns the new count. With the queue's lock held. */
unsigned verbs_sound_add(
	const struct verbs_sound *sound, struct ibv_send_wr *requests, unsigned count);

/* The following by the connection's thread. */

/* What an arrival in the receive queue says. Returns whether it is a ring. */
bool verbs_sound_take(struct verbs_sound *sound, const struct ibv_wc *arrival);

/* The bell is being rung, and somebody sleeps on it or nobody does. */
void verbs_sound_rang(struct verbs_sound *sound, bool somebody_sleeps);

/* Switches the peer's sounds on or off, if it is time, and says what is to be said. Returns whether the
 * thread must look again by itself before long. */
bool verbs_sound_settle(struct verbs_sound *sound, bool somebody_sleeps);

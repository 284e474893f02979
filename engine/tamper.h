/*
 * How the tests make a backup diverge: in a build with CRASH_POINTS, after the Nth entry that a backup or
 * a replay applies,
 *
 *     DOPPEL_TAMPER=register:N         sets a bit of CR2, which stays 0 otherwise, since no guest of ours
 *                                      faults; again after each entry that follows, for a resync would
 *                                      undo it before any digest has seen it
 *     DOPPEL_TAMPER=memory:N:ADDRESS   flips a bit of guest memory
 *     DOPPEL_TAMPER=refused:N          makes a CR4 with which KVM refuses to run
 *
 * In any other build this is nothing at all.
 */
#pragma once

#ifdef CRASH_POINTS
#include "engine/machine.h"
void tamper_after_entry(struct machine *m, uint64_t entries);
#define TAMPER(m, entries) tamper_after_entry(m, entries)
#else
#define TAMPER(m, entries) ((void)0)
#endif

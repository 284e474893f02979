/*
 * Positions: where in the guest's execution an input was applied.
 *
 * This kind is *exit*: a position is the number of sync exits so far. A sync
 * exit is a return from KVM_RUN that the guest's own instructions caused, so it is the same on every
 * replay. Position n means "after the nth exit was served, before the guest goes on"; several inputs
 * may share one, in log order. A return because of a signal is not an exit and is not counted.
 *
 * The other kind that there is, the checkpoint of a resync, counts as an exit too (engine/resync.h).
 *
 * Whoever adds a kind replaces this type and `position_counts`; logs and clones carry the number as it
 * is and nothing else looks inside it.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

typedef uint64_t position;

static inline bool position_counts(int exit_reason)
{
	switch (exit_reason) {
	case KVM_EXIT_IO:
	case KVM_EXIT_MMIO:
	case KVM_EXIT_HLT:
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_SHUTDOWN:
		return true;
	default:
		return false;
	}
}

/*
 * The one CPU that every guest sees (D4): a 64-bit processor, with SSE up to 4.2 where KVM offers it,
 * without anything whose result could differ between two runs or two hosts. Nothing is negotiated:
 * both sides of a pair compare the digest, and a pair whose models differ is refused.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stdint.h>
#include <linux/kvm.h>

#define CPU_MODEL_LEAVES 32
#define CPU_MODEL_NAME 64

struct cpu_model {
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 leaf[CPU_MODEL_LEAVES];
	} cpuid;
	uint64_t digest;           /* of the leaves, and of the host's vendor, family and model */
	char name[CPU_MODEL_NAME]; /* "AuthenticAMD family 25 model 1", of the host */
};

/* Builds the model from what KVM supports here. -ENOTSUP when the host lacks part of the model. */
int cpu_model_build(struct cpu_model *model, int kvm_fd) MUST_CHECK;

#define MSR_EFER 0xc0000080u

/* The MSRs a guest may touch; every other raises #GP. */
extern const uint32_t cpu_model_msrs[];
extern const unsigned cpu_model_msr_count;

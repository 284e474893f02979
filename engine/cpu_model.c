#include "engine/cpu_model.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <xxhash.h>

/*
 * Leaf 1. Left out on purpose: TSC and TSC-deadline, MONITOR, XSAVE and OSXSAVE with all that needs
 * them (AVX, F16C, FMA), RDRAND, the APIC and x2APIC (there is none), MTRR, hypervisor and performance
 * monitoring bits. See D4.
 */
#define LEAF1_EDX                                                                                  \
	(1u << 0 /* FPU */ | 1u << 3 /* PSE */ | 1u << 5 /* MSR */ | 1u << 6 /* PAE */ |           \
		1u << 8 /* CX8 */ | 1u << 11 /* SEP */ | 1u << 13 /* PGE */ |                      \
		1u << 15 /* CMOV */ | 1u << 16 /* PAT */ | 1u << 17 /* PSE36 */ |                  \
		1u << 19 /* CLFSH */ | 1u << 23 /* MMX */ | 1u << 24 /* FXSR */ |                  \
		1u << 25 /* SSE */ | 1u << 26 /* SSE2 */)
#define LEAF1_ECX                                                                                  \
	(1u << 0 /* SSE3 */ | 1u << 9 /* SSSE3 */ | 1u << 13 /* CX16 */ | 1u << 19 /* SSE4.1 */ |  \
		1u << 20 /* SSE4.2 */ | 1u << 23 /* POPCNT */)
#define EXT1_EDX                                                                                   \
	(LEAF1_EDX & 0x0183f3ffu & ~(1u << 11)) | 1u << 11 /* SYSCALL */ | 1u << 20 /* NX */ |     \
		1u << 29 /* LM */
#define EXT1_ECX (1u << 0 /* LAHF */)

const uint32_t cpu_model_msrs[] = {
	0x00000174, 0x00000175, 0x00000176,                       /* SYSENTER */
	0x00000277,                                               /* PAT */
	MSR_EFER, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, /* STAR, LSTAR, CSTAR, FMASK */
	0xc0000100, 0xc0000101, 0xc0000102,                       /* FS, GS and kernel GS base */
};
const unsigned cpu_model_msr_count = sizeof cpu_model_msrs / sizeof cpu_model_msrs[0];

static struct kvm_cpuid_entry2 *add(struct cpu_model *model, uint32_t function)
{
	struct kvm_cpuid_entry2 *leaf = &model->cpuid.leaf[model->cpuid.head.nent++];
	*leaf = (struct kvm_cpuid_entry2){.function = function};
	return leaf;
}

/* What every 64-bit system takes for granted cannot be left out. */
static int require(const char *what, uint32_t wanted, uint32_t supported)
{
	if ((wanted & ~supported) == 0)
		return 0;
	return fail(ENOTSUP,
		"this host's KVM lacks part of the CPU model (%s bits %#x); Doppel needs an x86-64 "
		"CPU",
		what, wanted & ~supported);
}

static int supported_leaves(
	int kvm_fd, struct kvm_cpuid_entry2 *one, struct kvm_cpuid_entry2 *extended)
{
	const unsigned room = 256;
	struct kvm_cpuid2 *all = calloc(1, sizeof *all + room * sizeof all->entries[0]);
	if (!all)
		return fail(ENOMEM, "no memory to read the CPU's features");
	all->nent = room;
	int error = 0;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, all) < 0) {
		error = fail(errno, "KVM does not tell the CPU features it supports: %s",
			strerror(errno));
		goto out;
	}
	for (unsigned i = 0; i < all->nent; i++) {
		if (all->entries[i].function == 1)
			*one = all->entries[i];
		if (all->entries[i].function == 0x80000001)
			*extended = all->entries[i];
	}
out:
	free(all);
	return error;
}

int cpu_model_build(struct cpu_model *model, int kvm_fd)
{
	struct kvm_cpuid_entry2 one = {0}, extended = {0};
	int error = supported_leaves(kvm_fd, &one, &extended);
	if (!error)
		error = require("leaf 1 EDX", LEAF1_EDX, one.edx);
	if (!error)
		error = require("extended EDX", EXT1_EDX, extended.edx);
	if (error)
		return error;

	uint32_t eax, ebx, ecx, edx, signature = 0;
	uint32_t vendor[3];
	__cpuid(0, eax, ebx, ecx, edx);
	vendor[0] = ebx, vendor[1] = edx, vendor[2] = ecx;
	__cpuid(1, eax, ebx, ecx, edx);
	signature = eax & 0x0fff0ff0u; /* family and model; the stepping may differ within a pair */

	memset(model, 0, sizeof *model);
	struct kvm_cpuid_entry2 *leaf = add(model, 0);
	leaf->eax = 7;
	leaf->ebx = vendor[0], leaf->edx = vendor[1], leaf->ecx = vendor[2];
	leaf = add(model, 1);
	leaf->eax = signature;
	leaf->ebx = 8u << 8;             /* CLFLUSH: 64 bytes */
	leaf->ecx = LEAF1_ECX & one.ecx; /* a KVM in software may have less; the digest tells */
	leaf->edx = LEAF1_EDX;
	leaf = add(model, 7);
	leaf->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	leaf = add(model, 0x80000000u);
	leaf->eax = 0x80000008u;
	leaf->ebx = vendor[0], leaf->edx = vendor[1], leaf->ecx = vendor[2];
	leaf = add(model, 0x80000001u);
	leaf->eax = signature;
	leaf->ecx = EXT1_ECX;
	leaf->edx = EXT1_EDX;
	static const char brand[48] = "Doppel deterministic virtual CPU";
	for (uint32_t i = 0; i < 3; i++) {
		leaf = add(model, 0x80000002u + i);
		memcpy(&leaf->eax, brand + 16 * i, 4);
		memcpy(&leaf->ebx, brand + 16 * i + 4, 4);
		memcpy(&leaf->ecx, brand + 16 * i + 8, 4);
		memcpy(&leaf->edx, brand + 16 * i + 12, 4);
	}
	leaf = add(model, 0x80000008u);
	leaf->eax = 48u << 8 | 40u; /* linear and physical address bits */

	unsigned family = (signature >> 8) & 15u, number = (signature >> 4) & 15u;
	if (family == 15)
		family += (signature >> 20) & 255u;
	number |= (signature >> 12) & 0xf0u;
	snprintf(model->name, sizeof model->name, "%.12s family %u model %u", (const char *)vendor,
		family, number);
	model->digest = XXH3_64bits(&model->cpuid, sizeof model->cpuid);
	return 0;
}

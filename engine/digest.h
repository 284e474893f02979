/*
 * The rolling digest of a machine (D5): of its registers, and of a sweep through its memory, a piece at
 * each logged position. Both sides step it at the same positions, so both have the same value until
 * they diverge, and never again afterwards.
 */
#pragma once

#include "engine/memory.h"
#include "engine/position.h"

#define DIGEST_SWEEP 4096u /* bytes of memory a step */

struct digest {
	uint64_t registers, memory;
	uint64_t swept; /* guest address where the next piece begins */
	position at;    /* the last position stepped */
};

/* Steps to position `at`, with the registers of the exit there. */
void digest_step(struct digest *digest, position at, const struct kvm_sync_regs *registers,
	const struct guest_memory *memory);

/* What entries carry: 16 bits of the registers' digest in the low half, 16 of the memory's above. */
static inline uint32_t digest_word(const struct digest *digest)
{
	return (uint32_t)(digest->registers & 0xffffu) | (uint32_t)(digest->memory & 0xffffu) << 16;
}

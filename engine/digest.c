#include "engine/digest.h"

#include <string.h>
#include <xxhash.h>

/* Accessed and dirty bits of page tables, which processors may set by speculation. */
#define SPECULATIVE_BITS 0x60ull

/* Only what is the guest's: no padding, no interrupt bitmap, nothing that KVM keeps for itself. */
static uint64_t hash_registers(uint64_t seed, const struct kvm_sync_regs *r)
{
	const struct kvm_sregs *s = &r->sregs;
	const struct kvm_segment *segments[] = {
		&s->cs, &s->ds, &s->es, &s->fs, &s->gs, &s->ss, &s->tr, &s->ldt};
	uint64_t words[10 + 8 * 2];
	unsigned n = 0;
	words[n++] = s->cr0;
	words[n++] = s->cr2;
	words[n++] = s->cr3;
	words[n++] = s->cr4;
	words[n++] = s->cr8;
	words[n++] = s->efer;
	words[n++] = s->gdt.base;
	words[n++] = s->gdt.limit;
	words[n++] = s->idt.base;
	words[n++] = s->idt.limit;
	for (unsigned i = 0; i < 8; i++) {
		words[n++] = segments[i]->base;
		words[n++] = (uint64_t)segments[i]->limit << 16 | segments[i]->selector;
	}
	seed = XXH3_64bits_withSeed(&r->regs, sizeof r->regs, seed);
	return XXH3_64bits_withSeed(words, sizeof words, seed);
}

void digest_step(struct digest *digest, position at, const struct kvm_sync_regs *registers,
	const struct guest_memory *memory)
{
	uint64_t piece[DIGEST_SWEEP / 8] = {0};
	digest->registers = hash_registers(digest->registers, registers);
	/* What nobody has touched stays so: it is zero, and a page of the host's only if it is looked at. */
	if (memory_is_touched(memory, digest->swept))
		memcpy(piece, memory->base + digest->swept, sizeof piece);
	for (unsigned i = 0; i < DIGEST_SWEEP / 8; i++)
		piece[i] &= ~SPECULATIVE_BITS;
	digest->memory = XXH3_64bits_withSeed(piece, sizeof piece, digest->memory);
	digest->swept += DIGEST_SWEEP;
	if (digest->swept >= memory->size)
		digest->swept = 0;
	digest->at = at;
}

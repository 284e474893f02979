/*
 * The time stamp counter, which no guest has (D4), and which is read all the same: whatever CPUID says,
 * Linux mixes it into its random numbers at each interrupt, and a program that is loaded by ld.so looks at
 * it once. No KVM lets the instruction exit. So a kernel is changed where it is loaded:
 *
 * - Each RDTSC in its own code becomes an instruction of the same two bytes that does exit: IN EAX, PORT_TSC.
 * - Its handler of #GP begins with OUT PORT_TSC, AL, where it had NOPs. Where that is so, CR4.TSD is set at
 *   each position that finds it clear, and RDTSC in a program is a #GP: rdtsc_serve looks at what the program
 *   was about to do, and if it was RDTSC, an IRET comes next, behind it, and the kernel has never heard of it.
 *
 * Both are answered with EDX:EAX = tsc_at(position), which is the same on every replay and needs no entry in
 * the log. It is no measure of time.
 *
 * What stays: RDTSC in a module, in a kernel that another one has started, or under no Linux; or in the moment
 * between Linux's writing CR4 and its next exit or resync; or on a host that ignores CR4.TSD, as KVM in software may. D5
 * finds these.
 */
#pragma once

#include "engine/position.h"
#include "engine/vcpu.h"

#include <stddef.h>

#define PORT_TSC 0xe0u

static inline uint64_t tsc_at(position at)
{
	return at << 10;
}

/* Replaces every RDTSC in `length` bytes of 64-bit code that begin with an instruction; how many. */
unsigned rdtsc_replace(uint8_t *code, size_t length);

/* The address of the handler of #GP, if these bytes of a Linux have the list from which it makes its table of
 * interrupts; otherwise 0. */
uint64_t rdtsc_find_handler(const uint8_t *data, size_t length);

/* Makes this handler exit first. False: it does not begin as it should, and has not been changed. */
bool rdtsc_trap(uint8_t *handler, size_t length);

/* Sets CR4.TSD if it is clear and the handler of #GP exits. At each sync exit, on both sides, and at a resync, whose
 * state carries it; vCPU thread. */
int rdtsc_keep_trapped(struct vcpu *vcpu, struct guest_memory *memory) MUST_CHECK;

/* An exit by what has been put in place of RDTSC, or at the beginning of the handler. */
static inline bool rdtsc_is_exit(const struct kvm_run *run)
{
	return run->io.port == PORT_TSC && run->io.count == 1 &&
	       run->io.size == (run->io.direction == KVM_EXIT_IO_IN ? 4 : 1);
}

/* Serves it. vCPU thread. */
void rdtsc_serve(struct vcpu *vcpu, struct guest_memory *memory, uint64_t tsc);

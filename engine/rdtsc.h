/*
 * The time stamp counter, which no guest has (D4), and which Linux reads all the same: whatever CPUID
 * says, each interrupt mixes it into the kernel's random numbers. No KVM lets the instruction exit.
 *
 * So when a kernel is loaded each RDTSC in its code is replaced by an instruction of the same two bytes
 * that does exit: IN EAX, PORT_TSC. The machine answers with EDX:EAX = tsc_at(position), which is the
 * same on every replay and needs no entry in the log. It is no measure of time.
 *
 * What stays: RDTSC in a program that has not looked at CPUID, or in a module. D5 finds these.
 */
#pragma once

#include "engine/position.h"

#include <stddef.h>

#define PORT_TSC 0xe0u

static inline uint64_t tsc_at(position at)
{
	return at << 10;
}

/* Replaces every RDTSC in `length` bytes of 64-bit code that begin with an instruction; how many. */
unsigned rdtsc_replace(uint8_t *code, size_t length);

/*
 * The KVM machine: one vCPU, guest memory, no device inside the kernel.
 *
 * All calls come from the vCPU thread, or before it is started; vcpu_kick comes from any. No KVM structure but `struct kvm_run` leaves
 * this file's callers: a saved state is struct vcpu_state, whose bytes go into a clone or a recording.
 */
#pragma once

#include "engine/cpu_model.h"
#include "engine/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct vcpu {
	int kvm_fd, vm_fd, fd;
	struct kvm_userspace_memory_region region; /* the guest's memory */
	uint64_t *changed;                         /* see vcpu_changes: a bit for each page */
	struct kvm_run *run; /* exit reason and data; registers as of the last exit (SYNC_REGS) */
	size_t run_size;
	struct cpu_model model;
	_Atomic bool kicked;
	timer_t timer;
	bool has_timer;
};

#define VCPU_MSRS 16 /* more than the model has */
#define VCPU_FPU 416 /* what FXSAVE writes: x87, MXCSR and XMM registers, all that the model has */

/* Of `changed`, for so many bytes of guest memory. */
static inline size_t vcpu_words(uint64_t memory)
{
	return (size_t)((memory / 4096 + 63) / 64);
}

struct vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint8_t fpu[VCPU_FPU];
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	uint64_t msrs[VCPU_MSRS];
	uint8_t if_flag, ready, pad[6]; /* of struct kvm_run */
};

/* -ENOENT, -EACCES, … with a message when /dev/kvm cannot be used or lacks something. */
int vcpu_create(struct vcpu *vcpu, const struct guest_memory *memory) MUST_CHECK;
void vcpu_destroy(struct vcpu *vcpu);

/* Binds the vCPU to the calling thread, which then takes kicks, and unbinds it. Once, around all runs. */
int vcpu_bind(struct vcpu *vcpu) MUST_CHECK;
void vcpu_unbind(struct vcpu *vcpu);
#define VCPU_KICK_SIGNAL SIGUSR1

/* Sets the state described in engine/boot.h. */
int vcpu_boot(struct vcpu *vcpu, uint64_t entry, uint64_t memory_size) MUST_CHECK;

/* Runs the guest until an exit. Returns its KVM_EXIT_ reason, -EINTR after a kick or another signal,
 * or another negative errno with a message.
 * With run->request_interrupt_window it also returns KVM_EXIT_IRQ_WINDOW_OPEN, which is no sync exit,
 * when an interrupt could be taken; the wish holds for one call. */
int vcpu_run(struct vcpu *vcpu) MUST_CHECK;

/* One round of finishing the instruction of the last exit, without running the guest further: returns
 * the reason of a further exit of that instruction, or -EINTR when it is complete. */
int vcpu_finish(struct vcpu *vcpu) MUST_CHECK;

/* Queues an external interrupt. Only when run->if_flag and run->ready_for_interrupt_injection are set
 * and the last instruction is finished. */
int vcpu_inject(struct vcpu *vcpu, uint8_t vector) MUST_CHECK;

/* Only when the last instruction is finished. */
int vcpu_save(struct vcpu *vcpu, struct vcpu_state *state) MUST_CHECK;
int vcpu_load(struct vcpu *vcpu, const struct vcpu_state *state) MUST_CHECK;

/* vcpu_run returns -EINTR at this time of now_ns(), or soon behind it; 0: at none. One at a time. */
void vcpu_alarm(struct vcpu *vcpu, uint64_t at_ns);

/* What the calling thread, and the guest in it, have had of a processor. */
uint64_t vcpu_ran_ns(void);

/*
 * From now on, or no more, the pages that the guest changes are noted. vcpu_changes puts them into
 * `changed`, and begins anew. What devices write is not among them.
 */
int vcpu_track(struct vcpu *vcpu, bool on) MUST_CHECK;
int vcpu_changes(struct vcpu *vcpu) MUST_CHECK;

/* The guest's CR4, at once: also where its last instruction is not finished. */
int vcpu_set_cr4(struct vcpu *vcpu, uint64_t cr4) MUST_CHECK;

/* Where this address of the guest's own is, by the page tables that it uses now. False: nowhere. */
bool vcpu_translate(const struct vcpu *vcpu, uint64_t linear, gpa *physical) MUST_CHECK;

/* Guest memory was changed behind the back of a guest that has run: nothing that KVM or the processor
 * have learned from its page tables is used any more. */
int vcpu_forget(struct vcpu *vcpu) MUST_CHECK;

/* Makes vcpu_run return -EINTR soon, or its next call do so at once. Any thread. */
void vcpu_kick(struct vcpu *vcpu, pthread_t thread);

/*
 * The memory of user_kvm's guest: the engine's pages mapped once more, at the addresses that they have for the guest, and
 * which of them the guest has changed. The engine's own mapping is not looked at. vCPU thread.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

/* Between the library's own files: it is loaded in front of every other one. */
#pragma GCC visibility push(hidden)

/* KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG: 0, or -1 with errno. */
int memory_place(const struct kvm_userspace_memory_region *wanted);
int memory_tell_changes(const struct kvm_dirty_log *log);

/* NULL where any of these bytes is no memory of the guest's. */
const void *memory_at(uint64_t at, uint64_t size);
/* Up to 8 bytes; 0 where there is no memory. */
uint64_t memory_read(uint64_t at, uint32_t size);
/* In the guest's name: counts as changed by it. */
void memory_write(uint64_t at, uint64_t value);

/* Whether a write there was a signal only because it is the first; and lets it and the next ones be. */
bool memory_is_protected(uint64_t at);
int memory_unprotect(uint64_t at);

#pragma GCC visibility pop

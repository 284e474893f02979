/*
 * Memory that can be handed to another process: memfds that cannot shrink, and their mappings. A
 * memfd from a peer is mapped only after memfd_check, since touching what lies behind the end of a
 * file kills the process.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>

/* A new memfd of `size` zero bytes that can neither shrink nor grow. Returns it, or a negative
 * errno. */
int memfd_make(const char *name, size_t size) MUST_CHECK;

/* Whether `fd` is a memfd that has, and will keep, at least `size` bytes. `what` is for the
 * message. */
int memfd_check(int fd, size_t size, const char *what) MUST_CHECK;

/* Maps `size` bytes of it, shared. `twice`: mapped again directly behind, so that what wraps around
 * its end is contiguous. Unmap with the same arguments. */
int memfd_map(void **out, int fd, size_t size, int protection, bool twice) MUST_CHECK;

/* New zero bytes of our own, mapped twice in a row for reading and writing. */
int memfd_ring(void **out, const char *name, size_t size) MUST_CHECK;

void memfd_unmap(void *base, size_t size, bool twice);

/*
 * Copying into memory that another processor reads next, and this one never does.
 *
 * A plain copy fetches each line of the target, from the cache of the processor that has read it on
 * the last lap; that costs more than the copy. So large copies write around the caches: log into a
 * ring of 16 MiB, followed by a reader on another processor, twice as fast. Small ones are plain,
 * since the reader then finds them in a cache, and sooner.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* All of it is visible before anything that the caller writes afterwards. */
void copy_for_reader(uint8_t *to, const uint8_t *from, size_t length);

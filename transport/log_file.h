/*
 * The file below a durable log: mapped bytes of a set size, and how they become persistent. durable.c
 * says what is written, and in which order; this says what it takes to make it stay.
 *
 * A new file is made and set aside beside PATH, as PATH.new, and takes PATH's place only when it is
 * published, so that what PATH held before is there until then. While it is open its lock keeps other
 * processes from doing the same. Room for all of it is there from the beginning, so it cannot run out of
 * that; an error of the storage is an error here. Who truncates the file takes away what was durable, and
 * is noticed by the next copy.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct log_file;

/* One thread at a time. Offsets and lengths lie within the size. */
struct log_file_kind {
	const char *name;
	/* Copies `length` bytes to offset `at`. Any part of them, and nothing else, may become persistent
	 * from here on, in any order. An error is for good, as below. */
	int (*copy)(struct log_file *file, uint64_t at, const void *from, size_t length);
	/* All that was copied to this range is persistent when it returns. An error is for good: what was
	 * copied may never become persistent, and a later success would not mean that it has. */
	int (*settle)(struct log_file *file, uint64_t at, uint64_t length);
	/* The file is found under its path from here on, after a crash as well. */
	int (*publish)(struct log_file *file);
	/* Removes a file that was never published. */
	void (*close)(struct log_file *file);
};

struct log_file {
	const struct log_file_kind *kind;
	const char *path; /* for messages */
	uint64_t size;
};

/* Whether a log of VM `vm` may be written at `path`: nothing is there, or a log of that VM and of this
 * size that nobody writes. -EINVAL: another size, another VM's, damaged, or no log at all; -EBUSY:
 * another process writes it. */
int log_file_check(const char *path, uint64_t size, const char *vm) MUST_CHECK;

/* Checks, and makes a file of `size` zero bytes for which all room is set aside: -ENOSPC now and not
 * later. On persistent memory it is written by cache lines, elsewhere by pages. */
int log_file_make(
	struct log_file **out, const char *path, uint64_t size, const char *vm) MUST_CHECK;

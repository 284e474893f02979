/*
 * A log file on storage that keeps its promises and not one more. What is copied lies in a cache;
 * any 8-byte words of it, in any order, may have reached the storage when the host dies, and
 * nothing is sure to have until it is settled. The image of the storage is a real file, so that a
 * reader can be let loose on whatever a crash would have left.
 */
#pragma once

#include "support.h"

#include "transport/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

struct crash_file {
	struct log_file base;
	char path[128];
	uint64_t *cached,
		*stored; /* all words: as the process sees them; as the storage has them */
	bool *is_dirty;
	uint64_t *dirty; /* indexes of words that were copied and not settled */
	size_t dirty_count;
	uint64_t random;
	bool by_pages; /* settle means the pages of its range, and not all there is */
	bool published;
	long steps;    /* copies, settlings and publishings so far */
	long fails_at; /* what this step does fails; 0: nothing does */
	bool is_closed;
	/* Looks at the image after a crash; called only once the file has its name. */
	void (*look)(void *context, const char *path);
	void *context;
};

static inline void crash_file_store(struct crash_file *file, size_t i)
{
	uint64_t word = file->dirty[i];
	file->stored[word] = file->cached[word];
	file->is_dirty[word] = false;
	file->dirty[i] = file->dirty[--file->dirty_count];
}

enum { NO_WORDS, ALL_WORDS, SOME_WORDS, MOST_WORDS, SOME_LINES, CRASHES };

static inline bool crash_keeps(struct crash_file *file, int crash, uint64_t word, uint64_t salt)
{
	uint64_t line = (word / 8 + salt) * 0x9e3779b97f4a7c15u;
	switch (crash) {
	case NO_WORDS:
		return false;
	case ALL_WORDS:
		return true;
	case SOME_WORDS:
		return next_random(&file->random) >> 63;
	case MOST_WORDS:
		return next_random(&file->random) % 64 != 0;
	default:
		return line >> 63;
	}
}

/* The host dies here, in several ways. */
static inline void crash_file_crash(struct crash_file *file)
{
	if (!file->published || !file->look)
		return;
	uint64_t *before = malloc((file->dirty_count + 1) * sizeof *before);
	/* With nothing in the cache they are all the same. */
	for (int crash = 0; crash < (file->dirty_count ? CRASHES : 1); crash++) {
		uint64_t salt = next_random(&file->random);
		for (size_t i = 0; i < file->dirty_count; i++) {
			uint64_t word = file->dirty[i];
			before[i] = file->stored[word];
			if (crash_keeps(file, crash, word, salt))
				file->stored[word] = file->cached[word];
		}
		file->look(file->context, file->path);
		for (size_t i = 0; i < file->dirty_count; i++)
			file->stored[file->dirty[i]] = before[i];
	}
	free(before);
}

static inline int crash_file_copy(
	struct log_file *base, uint64_t at, const void *from, size_t length)
{
	struct crash_file *file = (struct crash_file *)base;
	assert_true(!file->is_closed && length > 0 && at + length <= base->size);
	if (++file->steps == file->fails_at)
		return fail(EIO, "the storage has failed");
	memcpy((uint8_t *)file->cached + at, from, length);
	for (uint64_t word = at / 8; word <= (at + length - 1) / 8; word++) {
		if (!file->is_dirty[word])
			file->dirty[file->dirty_count++] = word;
		file->is_dirty[word] = true;
	}
	crash_file_crash(file);
	return 0;
}

static inline int crash_file_settle(struct log_file *base, uint64_t at, uint64_t length)
{
	struct crash_file *file = (struct crash_file *)base;
	assert_true(!file->is_closed && length > 0 && at + length <= base->size);
	if (++file->steps == file->fails_at)
		return fail(EIO, "the storage has failed");
	uint64_t first = at / 4096 * 512, behind = (at + length + 4095) / 4096 * 512;
	for (size_t i = 0; i < file->dirty_count;) {
		if (!file->by_pages || (file->dirty[i] >= first && file->dirty[i] < behind))
			crash_file_store(file, i);
		else
			i++;
	}
	crash_file_crash(file);
	return 0;
}

static inline int crash_file_publish(struct log_file *base)
{
	struct crash_file *file = (struct crash_file *)base;
	file->steps++;
	file->published = true;
	crash_file_crash(file);
	return 0;
}

static inline void crash_file_close(struct log_file *base)
{
	struct crash_file *file = (struct crash_file *)base;
	assert_false(file->is_closed);
	file->is_closed = true;
}

static const struct log_file_kind crash_file_kind = {
	.name = "a storage that keeps its promises",
	.copy = crash_file_copy,
	.settle = crash_file_settle,
	.publish = crash_file_publish,
	.close = crash_file_close,
};

static inline struct crash_file *crash_file_new(const char *folder, uint64_t size)
{
	struct crash_file *file = calloc(1, sizeof *file);
	file->base = (struct log_file){.kind = &crash_file_kind, .path = file->path, .size = size};
	file->random = 99;
	snprintf(file->path, sizeof file->path, "%s/image", folder);
	int fd = open(file->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	file->stored = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(file->stored, MAP_FAILED);
	close(fd);
	file->cached = calloc(1, size);
	file->is_dirty = calloc(size / 8, sizeof *file->is_dirty);
	file->dirty = calloc(size / 8, sizeof *file->dirty);
	return file;
}

static inline void crash_file_free(struct crash_file *file)
{
	munmap(file->stored, file->base.size);
	unlink(file->path);
	free(file->cached);
	free(file->is_dirty);
	free(file->dirty);
	free(file);
}

/*
 * An arbiter whose tests stand at its crash points and between it and the storage: a server that repeats, delays or
 * swallows a request cannot be had otherwise. So this includes the file under test, and one file a program this.
 */
#pragma once

#ifndef CRASH_POINTS
#define CRASH_POINTS
#endif
#include "base/crash_point.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int test_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags);
static int test_fsync(int fd);
static struct dirent *test_readdir(DIR *listing);
#define linkat test_linkat
#define readdir test_readdir
#define fsync test_fsync
#include "engine/arbiter.c"
#undef linkat
#undef fsync
#undef readdir
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

/* ---- what stands between the arbiter and the storage ---- */

static void (*at_point)(const char *name);

void crash_point_passed(const char *name)
{
	if (at_point)
		at_point(name);
}

static enum {
	LINK_WORKS,
	LINK_REFUSED, /* not done, EPERM */
	LINK_TWICE,   /* done, the repeated request is answered */
	LINK_SILENT,  /* done, answered by EIO */
	LINK_LIES,    /* not done, answered by 0 */
	LINK_DELAYED, /* answered by EIO, done when arrive() is called */
} link_does;

static int test_linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	switch (link_does) {
	case LINK_REFUSED:
		errno = EPERM;
		return -1;
	case LINK_TWICE:
		linkat(from_dir, from, to_dir, to, flags);
		break;
	case LINK_SILENT:
		linkat(from_dir, from, to_dir, to, flags);
		errno = EIO;
		return -1;
	case LINK_LIES:
		return 0;
	case LINK_DELAYED:
		linkat(from_dir, from, to_dir, "on-its-way", flags);
		errno = EIO;
		return -1;
	case LINK_WORKS:
		break;
	}
	return linkat(from_dir, from, to_dir, to, flags);
}

static int syncs_until_failure = -1;

static int test_fsync(int fd)
{
	if (syncs_until_failure >= 0 && syncs_until_failure-- == 0) {
		errno = EIO;
		return -1;
	}
	return fsync(fd);
}

/* A listing may miss a name while others change the directory. */
static const char *missed_name;

static struct dirent *test_readdir(DIR *listing)
{
	struct dirent *entry = readdir(listing);
	while (entry && missed_name && strcmp(entry->d_name, missed_name) == 0)
		entry = readdir(listing);
	return entry;
}

/* ---- a directory for each test ---- */

static char dir[64], address[80];

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static inline void make_dir(const char *where)
{
	snprintf(dir, sizeof dir, "%s/doppel-arbiter-XXXXXX", where);
	assert_non_null(mkdtemp(dir));
	snprintf(address, sizeof address, "dir:%s", dir);
}

static inline int set_up(void **state)
{
	(void)state;
	make_dir("/tmp");
	at_point = NULL;
	link_does = LINK_WORKS;
	syncs_until_failure = -1;
	missed_name = NULL;
	return 0;
}

static inline int tear_down(void **state)
{
	(void)state;
	at_point = NULL;
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return 0;
}

static inline struct arbiter *opened(const char *vm)
{
	struct arbiter *arbiter = NULL;
	if (arbiter_open(&arbiter, address, vm) < 0)
		fail_msg("%s", fail_message());
	return arbiter;
}

static inline const char *path_of(const char *name)
{
	static char path[256];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static inline void put_file(const char *name, const char *bytes, size_t length)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, length), length);
	close(fd);
}

/* A line that would make `arbiter` the holder. */
static inline size_t write_line(char line[LINE_SIZE], const struct arbiter *arbiter, uint64_t generation)
{
	return (size_t)snprintf(line, LINE_SIZE,
		"doppel generation %" PRIu64
		" vm %s host h pid 1 time 2024-05-01T12:00:00Z tag %s\n",
		generation, arbiter->vm, arbiter->tag);
}

static inline uint64_t current(struct arbiter *arbiter)
{
	uint64_t generation = 0;
	if (arbiter_current(arbiter, &generation) < 0)
		fail_msg("%s", fail_message());
	return generation;
}

static inline int names_in_dir(void)
{
	int count = 0;
	DIR *listing = opendir(dir);
	assert_non_null(listing);
	for (const struct dirent *entry; (entry = readdir(listing));)
		count += entry->d_name[0] != '.';
	closedir(listing);
	return count;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

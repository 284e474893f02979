/* What the tests of transport/ share. */
#pragma once

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

#include "transport/checksum.h"
#include "transport/log_format.h"
#include "transport/recording.h"

/* A reproducible sequence (xorshift64*); `state` starts with anything but 0. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1du;
}

static inline void fill_random(uint8_t *bytes, size_t length, uint64_t seed)
{
	uint64_t state = seed * 2 + 1;
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(next_random(&state) >> 56);
}

/* Runs `function` in a child with its standard error closed; the child's wait status. */
static inline int status_in_child(void (*function)(void *argument), void *argument)
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (!freopen("/dev/null", "w", stderr))
			_exit(99);
		signal(SIGABRT, SIG_DFL);
		function(argument);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

#define assert_aborts(function, argument)                                                          \
	do {                                                                                       \
		int status_ = status_in_child(function, argument);                                 \
		assert_true(WIFSIGNALED(status_) && WTERMSIG(status_) == SIGABRT);                 \
	} while (0)

/* In a child a failed assertion of cmocka would go unseen: print it and leave. */
#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__,            \
				#condition, fail_message());                                       \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static inline int count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static int fds_before __attribute__((unused));

/* Set-up and tear-down: no test leaves a descriptor behind, whatever it has provoked. */
static inline int remember_fds(void **state)
{
	(void)state;
	fds_before = count_fds();
	return 0;
}

static inline int compare_fds(void **state)
{
	(void)state;
	return count_fds() == fds_before ? 0 : -1;
}

/* Reads a recording to its end, which must be where its entries end; the LSN. */
static inline uint64_t end_of_recording(const char *path, bool *is_dropped)
{
	struct recording_view view;
	struct log_entry entry;
	int error = recording_open(&view, path);
	if (error)
		print_error("%s\n", fail_message());
	assert_int_equal(error, 0);
	while (log_reader_peek(&view.entries, &entry) == LOG_VALID)
		log_reader_take(&view.entries, &entry);
	uint64_t next = view.entries.next;
	assert_int_equal(next, view.entries.end);
	*is_dropped = view.is_dropped;
	recording_view_close(&view);
	return next;
}

static inline void assert_exits_with_0(pid_t child)
{
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

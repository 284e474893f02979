/* How tests provoke a CHECK: in a child, whose death and whose last words are examined. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail /* ours is in base/fail.h */

/* Runs `function` in a child; what it wrote to standard error is in `said`. Its wait status. */
static inline int run_in_child(
	void (*function)(void *argument), void *argument, char *said, size_t size)
{
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		signal(SIGSEGV, SIG_DFL);
		alarm(20);
		function(argument);
		_exit(0);
	}
	close(ends[1]);
	size_t length = 0;
	ssize_t n;
	while (length + 1 < size && (n = read(ends[0], said + length, size - 1 - length)) > 0)
		length += (size_t)n;
	said[length] = '\0';
	close(ends[0]);
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	return status;
}

static inline void expect_broken(
	const char *invariant, void (*function)(void *argument), void *argument)
{
	char said[4096], words[64];
	int status = run_in_child(function, argument, said, sizeof said);
	snprintf(words, sizeof words, "invariant %s is broken", invariant);
	if (!strstr(said, words))
		print_error("expected that %s; status %#x, and it said: %s\n", words,
			(unsigned)status, said);
	assert_non_null(strstr(said, words));
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

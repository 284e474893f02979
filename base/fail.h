/*
 * Errors: a function that can fail returns 0 or a negative errno, and says why in one line through
 * fail(). The line names what was tried, with what, and what to do about it. It is kept for the
 * calling thread until the next failure; only a command's main prints it.
 */
#pragma once

#define MUST_CHECK __attribute__((warn_unused_result))

/* Keeps the message and returns -error. `error` is a positive errno. Any thread. */
int fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The calling thread's last message, "" when there was none. Valid until its next fail(). */
const char *fail_message(void);

/*
 * One line to standard error, "doppel: " in front, at once: for what a person should know while the
 * process goes on. Any thread; lines are never mixed.
 */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Always-on checks for the invariants (ARCHITECTURE.md says what each is).
 *
 * CHECK(D2, condition, "format", ...) names the invariant it guards. When the condition is false the
 * process prints one line and aborts at once: nothing leaves a process that has broken an invariant,
 * and the other side takes over or goes on alone. A check is for what only a defect of Doppel can
 * cause; whatever a guest, a peer, a file or a person can cause is an error, and is reported as one
 * (base/fail.h).
 */
#pragma once

#define CHECK(invariant, condition, ...)                                                           \
	do {                                                                                       \
		if (__builtin_expect(!(condition), 0))                                             \
			check_failed(#invariant, #condition, __FILE__, __LINE__, __VA_ARGS__);     \
	} while (0)

_Noreturn void check_failed(const char *invariant, const char *condition, const char *file,
	int line, const char *format, ...) __attribute__((format(printf, 5, 6), cold));

/* What hammer's parts share. operations.c does things to the machine; hammer.c sums up what comes
 * back. */
#pragma once

#include <stdint.h>

/* Folds a value into the digest. Not for interrupts, which have a digest of their own. */
void see(uint64_t value);

/* Starts the sequence of choices, which depends on nothing else. */
void operations_start(uint64_t seed);

/* Does something, chosen by the sequence: from a few instructions to some thousands, most of the
 * time with exits. Interrupts are on before and after. */
void operation_run(void);

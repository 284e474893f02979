/*
 * Mapped files whose storage fails: where a read(2) would say EIO, the kernel sends SIGBUS to the thread
 * that touches the page. It does so too where somebody has truncated the file, and on persistent
 * memory for what the memory cannot give back.
 */
#pragma once

#include "base/fail.h"

#include <stdbool.h>

/* From here on SIGBUS is caught where it is guarded, and kills the process elsewhere, as it did. */
int bus_error_catch(void) MUST_CHECK;

/* Calls `function`, which may be left at any access to memory: it may hold nothing. False if it was. */
bool bus_error_guard(void (*function)(void *argument), void *argument) MUST_CHECK;

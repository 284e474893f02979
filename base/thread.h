/* Starting a thread. */
#pragma once

#include "base/fail.h"

#include <pthread.h>

/* `name` is what ps and a debugger show, of up to 15 bytes. The thread takes no signals but those of its own
 * faults: the others are the control thread's, unless the thread itself lets one in. */
int thread_start(pthread_t *out, const char *name, void *(*run)(void *argument),
	void *argument) MUST_CHECK;

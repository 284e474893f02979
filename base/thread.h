/* Starting a thread, and what it asks of the scheduler. */
#pragma once

#include "base/fail.h"

#include <pthread.h>

/* `name` is what ps and a debugger show, of up to 15 bytes. The thread takes no signals but those of its own
 * faults: the others are the control thread's, unless the thread itself lets one in. */
int thread_start(
	pthread_t *out, const char *name, void *(*run)(void *argument), void *argument) MUST_CHECK;

/* The calling thread does little at a time, and somebody waits for it: when it is woken it goes before threads that
 * compute, which guests' vCPUs are. It asks for short slices of the processor, and gets no larger share of it (Linux
 * 6.12; older ones take no notice). */
void thread_is_prompt(void);

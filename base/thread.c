#include "base/thread.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* sched(7)'s struct sched_attr, of which not every libc has a declaration that goes with pthread.h. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};
_Static_assert(sizeof(struct attributes) == 48, "its first version");

#define SHORT_SLICE_NS 100000u /* the least that the kernel takes */

int thread_start(pthread_t *out, const char *name, void *(*run)(void *argument), void *argument)
{
	static const int faults[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
	sigset_t others, before;
	sigfillset(&others);
	for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++)
		sigdelset(&others, faults[i]);
	/* The thread inherits the mask. */
	pthread_sigmask(SIG_SETMASK, &others, &before);
	int error = pthread_create(out, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return fail(error, "cannot start the thread \"%s\": %s", name, strerror(error));
	pthread_setname_np(*out, name);
	return 0;
}

void thread_is_prompt(void)
{
	struct attributes attributes = {.size = sizeof attributes};
	if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0)
		return;
	attributes.runtime = SHORT_SLICE_NS;
	(void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

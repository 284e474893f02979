#include "base/thread.h"

#include <signal.h>
#include <string.h>

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

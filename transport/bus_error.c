#include "transport/bus_error.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

/* Where the thread goes on. The signal comes to the thread that has caused it, and while it does. */
static _Thread_local sigjmp_buf *guard;

static void on_bus_error(int number)
{
	if (guard)
		siglongjmp(*guard, 1);
	/* The same access again, and this time it kills. */
	signal(number, SIG_DFL);
}

int bus_error_catch(void)
{
	struct sigaction action = {.sa_handler = on_bus_error};
	if (sigaction(SIGBUS, &action, NULL) < 0)
		return fail(errno, "cannot catch SIGBUS: %s", strerror(errno));
	return 0;
}

bool bus_error_guard(void (*function)(void *argument), void *argument)
{
	sigjmp_buf here;
	/* With the signal mask: the handler, in which SIGBUS is blocked, may never return. */
	if (sigsetjmp(here, 1) != 0) {
		guard = NULL;
		return false;
	}
	guard = &here;
	function(argument);
	guard = NULL;
	return true;
}

#include "base/crash_point.h"

#ifdef CRASH_POINTS
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct trap {
	const char *variable;
	int signal;
	char name[64];
	_Atomic long left;
	unsigned linger_ms;
};

static struct trap traps[] = {
	{.variable = "DOPPEL_CRASH", .signal = SIGKILL},
	{.variable = "DOPPEL_FREEZE", .signal = SIGSTOP},
};

__attribute__((constructor)) static void read_traps(void)
{
	for (unsigned i = 0; i < sizeof traps / sizeof traps[0]; i++) {
		const char *text = getenv(traps[i].variable);
		const char *colon = text ? strchr(text, ':') : NULL;
		if (!colon || (size_t)(colon - text) >= sizeof traps[i].name)
			continue;
		memcpy(traps[i].name, text, (size_t)(colon - text));
		char *end;
		traps[i].left = strtol(colon + 1, &end, 10);
		if (*end == ':')
			traps[i].linger_ms = (unsigned)strtoul(end + 1, NULL, 10);
	}
}

void crash_point_passed(const char *name)
{
	for (unsigned i = 0; i < sizeof traps / sizeof traps[0]; i++) {
		if (strcmp(name, traps[i].name) != 0 || atomic_fetch_sub(&traps[i].left, 1) != 1)
			continue;
		usleep(traps[i].linger_ms * 1000);
		/* To this thread: another one that took SIGSTOP would let it go on for a while. */
		pthread_kill(pthread_self(), traps[i].signal);
	}
}
#endif

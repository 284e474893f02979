#include "base/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Thread_local char message[512];

int fail(int error, const char *format, ...)
{
	/* A caller may quote the previous message in its own, so the new one is built beside it. */
	char text[sizeof message];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	memcpy(message, text, sizeof message);
	return -error;
}

const char *fail_message(void)
{
	return message;
}

void say(const char *format, ...)
{
	char line[640] = "doppel: ";
	size_t used = strlen(line);
	va_list args;
	va_start(args, format);
	int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
	va_end(args);
	if (n > 0)
		used += (size_t)n < sizeof line - used - 1 ? (size_t)n : sizeof line - used - 2;
	line[used++] = '\n';
	/* One write, so that lines of several threads and processes do not mix. */
	if (write(STDERR_FILENO, line, used) < 0)
		return;
}

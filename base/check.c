#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

_Noreturn void check_failed(const char *invariant, const char *condition, const char *file,
	int line, const char *format, ...)
{
	char detail[256];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof detail, format, args);
	va_end(args);
	fprintf(stderr,
		"doppel: invariant %s is broken: %s (%s) at %s:%d; stopping before anything "
		"leaves\n",
		invariant, detail, condition, file, line);
	abort();
}

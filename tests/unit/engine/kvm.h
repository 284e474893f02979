/* What a test does that needs a KVM, where there is none. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Says it once when there is none; tests/run_unit.sh looks for the line. */
static inline bool has_kvm(void)
{
	static bool told;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	else if (!told)
		printf("skip: /dev/kvm cannot be opened: %s\n", strerror(errno));
	told = fd < 0;
	return fd >= 0;
}

#define NEED_KVM()                                                                                 \
	do {                                                                                       \
		if (!has_kvm())                                                                    \
			skip();                                                                    \
	} while (0)

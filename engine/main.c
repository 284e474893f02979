#include "engine/commands.h"

#include <errno.h>

int command_failed(int error)
{
	say("%s", fail_message());
	switch (-error) {
	/* What was asked for cannot be: another command line will do. */
	case EINVAL:
	case ENOEXEC:
	case E2BIG:
	case ENODEV:
	case ENOENT:
	case ENOTDIR:
	case EISDIR:
	case ENAMETOOLONG:
	case EEXIST:
	case EBUSY:
	case EADDRINUSE:
	case EADDRNOTAVAIL:
		return STATUS_USAGE;
	case EALREADY: /* no system call that we use says so */
		return STATUS_REFUSED;
	/* The host does not let us, or does not do its part. */
	default:
		return STATUS_HOST;
	}
}

int main(int argc, char **argv)
{
	struct config config;
	int status = config_parse(&config, argc, argv);
	if (status >= 0)
		return status;
	switch (config.command) {
	case COMMAND_RUN:
		return command_run(&config);
	case COMMAND_PRIMARY:
	case COMMAND_STANDBY:
		return command_pair(&config);
	case COMMAND_REPLAY:
		return command_replay(&config);
	case COMMAND_DUMP:
		return command_dump(&config);
	case COMMAND_STATUS:
		return command_status(&config);
	default:
		return command_stop(&config);
	}
}

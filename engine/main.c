#include "engine/commands.h"

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

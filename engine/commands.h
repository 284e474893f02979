/* The commands of `doppel`. Each returns an exit status (engine/config.h). */
#pragma once

#include "engine/config.h"

int command_run(const struct config *config);    /* command_run.c */
int command_replay(const struct config *config); /* command_replay.c */
int command_dump(const struct config *config);   /* command_replay.c */
int command_pair(const struct config *config);   /* command_pair.c: primary and standby */
int command_status(const struct config *config); /* command_status.c */
int command_stop(const struct config *config);   /* command_status.c */

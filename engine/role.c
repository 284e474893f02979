#include "engine/role.h"

#include "base/check.h"

static const char *const names[ROLES] = {
	[ROLE_SOLO] = "solo",
	[ROLE_CLONING] = "cloning",
	[ROLE_PRIMARY] = "primary",
	[ROLE_STANDBY] = "standby",
	[ROLE_RECEIVING] = "receiving",
	[ROLE_BACKUP] = "backup",
	[ROLE_LIVE] = "live",
	[ROLE_HALTED] = "halted",
};

#define TO(role) (1u << (role))

static const unsigned allowed[ROLES] = {
	[ROLE_SOLO] = TO(ROLE_CLONING) | TO(ROLE_HALTED),
	[ROLE_CLONING] = TO(ROLE_SOLO) | TO(ROLE_PRIMARY) | TO(ROLE_HALTED),
	[ROLE_PRIMARY] = TO(ROLE_SOLO) | TO(ROLE_HALTED),
	[ROLE_STANDBY] = TO(ROLE_RECEIVING) | TO(ROLE_HALTED),
	[ROLE_RECEIVING] = TO(ROLE_STANDBY) | TO(ROLE_BACKUP) | TO(ROLE_HALTED),
	[ROLE_BACKUP] = TO(ROLE_LIVE) | TO(ROLE_STANDBY) | TO(ROLE_HALTED),
	[ROLE_LIVE] = TO(ROLE_SOLO) | TO(ROLE_HALTED),
	[ROLE_HALTED] = 0,
};

const char *role_name(enum role role)
{
	return names[role];
}

void role_change(enum role *role, enum role to)
{
	CHECK(A1, allowed[*role] & TO(to), "a role change from %s to %s", names[*role], names[to]);
	*role = to;
}

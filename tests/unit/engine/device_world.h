/* What a device asks of its machine, in a test: a clock that stands where it is put, and one line whose rises are
 * counted. Include it after cmocka.h. */
#pragma once

#include "engine/device.h"

struct world {
	struct device_env env; /* first: the calls get it */
	uint64_t now;
	unsigned asked; /* how often for the time */
	unsigned irq;   /* the line that the device may set */
	unsigned rises;
	bool line;
};

static uint64_t world_clock(struct device_env *env)
{
	struct world *world = (struct world *)env;
	world->asked++;
	return world->now;
}

static void world_irq(struct device_env *env, unsigned line, bool level)
{
	struct world *world = (struct world *)env;
	assert_int_equal(line, world->irq);
	world->rises += level && !world->line;
	world->line = level;
}

static inline struct world world_with(unsigned irq)
{
	return (struct world){.env = {.clock = world_clock, .irq = world_irq}, .irq = irq};
}

/*
 * The 8254 interval timer: channel 0 drives line 0, channel 2 the speaker's gate (port 0x61).
 *
 * It never looks at a clock by itself. A guest's access that depends on time asks env->clock (a CLOCK
 * input). Expirations of channel 0 come as TICK inputs: whoever is live asks pit_deadline() and, when
 * the guest's time has passed it, applies pit_tick() with the number of expirations.
 */
#pragma once

#include "engine/device.h"

struct pit_channel {
	uint64_t start_ns;  /* guest time at which the count was loaded */
	uint64_t ticked;    /* expirations applied since then (channel 0) */
	uint32_t reload;    /* 1 to 65,536; 0: not programmed */
	uint16_t latched;
	uint8_t latch_bytes; /* bytes of a latched count still to be read */
	uint8_t status, status_latched;
	uint8_t access, mode, bcd, write_high, write_low, read_high, gate, done;
};
struct pit {
	struct pit_channel channel[3];
	uint32_t backlog; /* expirations of channel 0 that wait for their interrupt, one at a time */
	uint8_t speaker;  /* port 0x61 bits 0 and 1 */
	uint8_t pad[3];
};

#define PIT_NO_DEADLINE UINT64_MAX

void pit_reset(struct pit *pit);
uint8_t pit_read(struct pit *pit, struct device_env *env, uint16_t port); /* 0x40-0x43, 0x61 */
void pit_write(struct pit *pit, struct device_env *env, uint16_t port, uint8_t value);

/* Guest time of channel 0's next expiration; exact, without drift. */
uint64_t pit_deadline(const struct pit *pit);
/* How many expirations lie at or before `now`: what a TICK's count should be, at most 2^20. */
uint32_t pit_due(const struct pit *pit, uint64_t now);
/* Applies expirations: the first raises line 0, the others follow one at a time. */
void pit_tick(struct pit *pit, struct device_env *env, uint32_t count);
/* To be called when the CPU has acknowledged line 0: raises it again while there is a backlog. */
void pit_acknowledged(struct pit *pit, struct device_env *env);

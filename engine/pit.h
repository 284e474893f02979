/*
 * The 8254 interval timer: channel 0 drives line 0, channel 2 the speaker's gate (port 0x61).
 *
 * It never looks at a clock by itself. A guest's access that depends on time asks env->clock (a
 * CLOCK input). Expirations of channel 0 come as TICK inputs: whoever is live asks pit_deadline()
 * and, when the guest's time has passed it, applies pit_tick() with the number of expirations.
 *
 * A periodic channel 0 loses nothing: expirations that find an interrupt still waiting to be taken
 * become the backlog, and each acknowledge brings the next one. A one-shot's merge, as on a real
 * board. Reprogramming channel 0 forgets the backlog. A new count takes effect at once in every
 * mode.
 */
#pragma once

#include "engine/device.h"

struct pit_channel {
	/* Guest time at which counting began. While the gate stops the count (it cannot in modes 1
	 * and 5): the nanoseconds counted so far. */
	uint64_t start_ns;
	uint64_t ticked; /* expirations applied since then (channel 0) */
	uint32_t reload; /* 1 to 65,536; 0: not programmed */
	uint16_t latched;
	uint8_t count_latched, status_latched, status;
	uint8_t access, mode, bcd;
	/* In access mode 3: which byte is next, and the first one written. */
	uint8_t write_high, read_high, write_low;
	uint8_t gate, running; /* running: a count was loaded, or triggered */
	uint8_t pad[7];
};
_Static_assert(sizeof(struct pit_channel) == 40, "saved as it is");

struct pit {
	struct pit_channel channel[3];
	uint32_t backlog; /* expirations of channel 0 that wait for an interrupt of their own */
	uint8_t speaker;  /* port 0x61 bits 0 and 1 */
	uint8_t raised;   /* line 0 was raised and has not been acknowledged since */
	uint8_t pad[2];
};
_Static_assert(sizeof(struct pit) == 128, "saved as it is");

#define PIT_HZ 1193182u
#define PIT_NO_DEADLINE UINT64_MAX
#define PIT_BACKLOG_MAX (1u << 20)

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

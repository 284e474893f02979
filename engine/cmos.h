/*
 * The MC146818 real-time clock and the bytes that its battery keeps, behind ports 0x70 and 0x71.
 *
 * Its time of day is the wall clock's time at which the machine was made, which is part of the first
 * state, plus the guest's own time. A guest may set it: with register B's SET bit the time stands, and it
 * goes on half a second past what was written when SET is cleared, as on the chip, whose divider starts
 * then. Hours are always 0 to 23; dates may be BCD or binary. UIP is never set: an update takes no time.
 *
 * Line 8 rises for the alarm and for the update-ended interrupt, once a second, if register B enables
 * them. Like channel 0 of the PIT they come as TICK inputs. What is missed merges. Not there are the
 * periodic interrupt, which Linux no longer uses, the square wave and daylight saving; flags of register
 * C are set only for interrupts that are enabled.
 */
#pragma once

#include "engine/device.h"

#define CMOS_BYTES 128
#define CMOS_NO_DEADLINE UINT64_MAX

struct cmos {
	uint64_t base_ns;  /* the wall clock's ns since 1970 at the guest's time 0, modulo 2^64 */
	uint64_t alarm_ns; /* guest times of the next interrupts, or CMOS_NO_DEADLINE */
	uint64_t update_ns;
	uint8_t index, pad[7];
	uint8_t bytes[CMOS_BYTES]; /* those of time and date are valid while SET stops the clock */
};
_Static_assert(sizeof(struct cmos) == 32 + CMOS_BYTES, "saved as it is");

void cmos_reset(struct cmos *cmos);
/* Before the first run: the time of day at which the guest's time is 0, in seconds since 1970. */
void cmos_set_time(struct cmos *cmos, uint64_t seconds);

uint8_t cmos_read(struct cmos *cmos, struct device_env *env, uint16_t port); /* 0x70, 0x71 */
void cmos_write(struct cmos *cmos, struct device_env *env, uint16_t port, uint8_t value);

/* Guest time of the next interrupt, at which a TICK is due; cmos_tick applies it. */
uint64_t cmos_deadline(const struct cmos *cmos);
void cmos_tick(struct cmos *cmos, struct device_env *env, uint64_t now);

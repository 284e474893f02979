#include "engine/cmos.h"

#include <string.h>

#define NS_PER_S 1000000000u
#define SECONDS_PER_DAY 86400u

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	DAY_OF_WEEK, /* 1: Sunday */
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	CENTURY = 0x32, /* as the FADT says */
};
enum { A_WRITABLE = 0x7f, A_DEFAULT = 0x26 /* 32,768 Hz, 1,024 interrupts/s */ };
enum {
	B_SET = 0x80,
	B_PERIODIC = 0x40,
	B_ALARM = 0x20,
	B_UPDATE = 0x10,
	B_BINARY = 0x04,
	B_24_HOURS = 0x02,
	B_DAYLIGHT = 0x01,
};
enum { C_REQUEST = 0x80, C_ALARM = B_ALARM, C_UPDATE = B_UPDATE };
enum { D_VALID = 0x80 };
enum { ANY = 0xc0 }; /* an alarm's byte from here on matches everything */

static uint8_t encode(const struct cmos *cmos, unsigned value)
{
	return (uint8_t)(cmos->bytes[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct cmos *cmos, uint8_t byte)
{
	return cmos->bytes[REG_B] & B_BINARY ? byte : (byte >> 4) * 10u + (byte & 15u);
}

/* Days since 1970-01-01, for any month and day of years from 0; months count from 1. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
	/* Years begin in March, so that the odd day is a year's last. */
	int64_t months = year * 12 + month - 3;
	if (months < 0)
		return 0;
	year = months / 12;
	return year * 365 + year / 4 - year / 100 + year / 400 + (months % 12 * 153 + 2) / 5 + day -
	       1 - 719468;
}

static uint64_t wall_ns(const struct cmos *cmos, uint64_t now)
{
	return cmos->base_ns + now;
}

/* Writes the time of day into the bytes. A wall clock of 64 bits ends in 2554. */
static void show(struct cmos *cmos, uint64_t now)
{
	uint64_t seconds = wall_ns(cmos, now) / NS_PER_S;
	unsigned of_day = (unsigned)(seconds % SECONDS_PER_DAY);
	int64_t days = (int64_t)(seconds / SECONDS_PER_DAY);
	int64_t year = 1970 + days / 366, month = 1;
	while (days_of(year + 1, 1, 1) <= days)
		year++;
	while (month < 12 && days_of(year, month + 1, 1) <= days)
		month++;
	uint8_t *bytes = cmos->bytes;
	bytes[SECONDS] = encode(cmos, of_day % 60);
	bytes[MINUTES] = encode(cmos, of_day / 60 % 60);
	bytes[HOURS] = encode(cmos, of_day / 3600);
	bytes[DAY_OF_WEEK] = encode(cmos, (unsigned)((days + 4) % 7) + 1);
	bytes[DAY] = encode(cmos, (unsigned)(days - days_of(year, month, 1)) + 1);
	bytes[MONTH] = encode(cmos, (unsigned)month);
	bytes[YEAR] = encode(cmos, (unsigned)(year % 100));
	bytes[CENTURY] = encode(cmos, (unsigned)(year / 100));
}

/* The time in the bytes is now the time of day, plus `fraction`. What is no date counts on from one. */
static void take(struct cmos *cmos, uint64_t now, uint64_t fraction)
{
	const uint8_t *bytes = cmos->bytes;
	int64_t days = days_of(decode(cmos, bytes[CENTURY]) * 100 + decode(cmos, bytes[YEAR]),
		decode(cmos, bytes[MONTH]), decode(cmos, bytes[DAY]));
	uint64_t seconds = (uint64_t)days * SECONDS_PER_DAY + decode(cmos, bytes[HOURS]) * 3600u +
			   decode(cmos, bytes[MINUTES]) * 60u + decode(cmos, bytes[SECONDS]);
	cmos->base_ns = seconds * NS_PER_S + fraction - now;
}

static bool matches(const struct cmos *cmos, unsigned reg, unsigned value)
{
	return cmos->bytes[reg] >= ANY || decode(cmos, cmos->bytes[reg]) == value;
}

/* Seconds from `of_day` to the next time that the alarm names, at least 1; 0: it names none. */
static unsigned until_alarm(const struct cmos *cmos, unsigned of_day)
{
	unsigned ahead = 1;
	while (ahead <= SECONDS_PER_DAY) {
		unsigned at = (of_day + ahead) % SECONDS_PER_DAY;
		if (!matches(cmos, HOURS_ALARM, at / 3600))
			ahead += 3600 - at % 3600;
		else if (!matches(cmos, MINUTES_ALARM, at / 60 % 60))
			ahead += 60 - at % 60;
		else if (!matches(cmos, SECONDS_ALARM, at % 60))
			ahead++;
		else
			return ahead;
	}
	return 0;
}

/* Finds when the enabled interrupts are due, strictly after `now`. */
static void arm(struct cmos *cmos, uint64_t now)
{
	uint8_t b = cmos->bytes[REG_B];
	cmos->alarm_ns = cmos->update_ns = CMOS_NO_DEADLINE;
	if (b & B_SET)
		return;
	uint64_t wall = wall_ns(cmos, now), next = now + (NS_PER_S - wall % NS_PER_S);
	unsigned alarm = until_alarm(cmos, (unsigned)(wall / NS_PER_S % SECONDS_PER_DAY));
	if (b & B_UPDATE)
		cmos->update_ns = next;
	if ((b & B_ALARM) && alarm)
		cmos->alarm_ns = next + (alarm - 1ull) * NS_PER_S;
}

static void update_line(struct cmos *cmos, struct device_env *env)
{
	uint8_t wanted = cmos->bytes[REG_B] & cmos->bytes[REG_C] & (C_ALARM | C_UPDATE);
	cmos->bytes[REG_C] &= C_ALARM | C_UPDATE;
	cmos->bytes[REG_C] |= wanted ? C_REQUEST : 0;
	env->irq(env, IRQ_CMOS, wanted != 0);
}

void cmos_reset(struct cmos *cmos)
{
	memset(cmos, 0, sizeof *cmos);
	cmos->bytes[REG_A] = A_DEFAULT;
	cmos->bytes[REG_B] = B_24_HOURS;
	cmos->bytes[REG_D] = D_VALID;
	cmos->alarm_ns = cmos->update_ns = CMOS_NO_DEADLINE;
}

void cmos_set_time(struct cmos *cmos, uint64_t seconds)
{
	cmos->base_ns = seconds * NS_PER_S;
}

static bool is_time(unsigned reg)
{
	return reg == SECONDS || reg == MINUTES || reg == HOURS ||
	       (reg >= DAY_OF_WEEK && reg <= YEAR) || reg == CENTURY;
}

static void write_b(struct cmos *cmos, struct device_env *env, uint8_t value)
{
	uint8_t before = cmos->bytes[REG_B];
	value = (uint8_t)((value & ~(B_PERIODIC | B_DAYLIGHT)) | B_24_HOURS);
	if ((before ^ value) & (B_SET | B_ALARM | B_UPDATE | B_BINARY)) {
		uint64_t now = env->clock(env);
		if (value & ~before & B_SET)
			show(cmos, now);
		cmos->bytes[REG_B] = value;
		if (before & ~value & B_SET)
			take(cmos, now, NS_PER_S / 2);
		arm(cmos, now);
	}
	cmos->bytes[REG_B] = value;
	update_line(cmos, env);
}

/* A byte of the time, while the clock goes: the others stay as they are at this moment. */
static void write_time(struct cmos *cmos, struct device_env *env, unsigned reg, uint8_t value)
{
	uint64_t now = env->clock(env), fraction = wall_ns(cmos, now) % NS_PER_S;
	show(cmos, now);
	cmos->bytes[reg] = value;
	take(cmos, now, fraction);
	arm(cmos, now);
}

static void write_register(struct cmos *cmos, struct device_env *env, unsigned reg, uint8_t value)
{
	bool goes = !(cmos->bytes[REG_B] & B_SET);
	switch (reg) {
	case REG_A:
		cmos->bytes[reg] = value & A_WRITABLE;
		return;
	case REG_B:
		write_b(cmos, env, value);
		return;
	case REG_C:
	case REG_D: /* these tell only */
		return;
	default:
		break;
	}
	if (goes && is_time(reg)) {
		write_time(cmos, env, reg, value);
		return;
	}
	cmos->bytes[reg] = value;
	if (goes && reg <= HOURS_ALARM && (cmos->bytes[REG_B] & B_ALARM))
		arm(cmos, env->clock(env));
}

uint8_t cmos_read(struct cmos *cmos, struct device_env *env, uint16_t port)
{
	unsigned reg = cmos->index % CMOS_BYTES;
	if (port == 0x70) /* cannot be read */
		return 0xff;
	if (is_time(reg) && !(cmos->bytes[REG_B] & B_SET))
		show(cmos, env->clock(env));
	uint8_t value = cmos->bytes[reg];
	if (reg == REG_C) {
		cmos->bytes[REG_C] = 0;
		update_line(cmos, env);
	}
	return value;
}

void cmos_write(struct cmos *cmos, struct device_env *env, uint16_t port, uint8_t value)
{
	if (port == 0x70) /* bit 7 masks NMIs, of which there are none */
		cmos->index = value;
	else
		write_register(cmos, env, cmos->index % CMOS_BYTES, value);
}

uint64_t cmos_deadline(const struct cmos *cmos)
{
	return cmos->alarm_ns < cmos->update_ns ? cmos->alarm_ns : cmos->update_ns;
}

void cmos_tick(struct cmos *cmos, struct device_env *env, uint64_t now)
{
	if (cmos->alarm_ns <= now)
		cmos->bytes[REG_C] |= C_ALARM;
	if (cmos->update_ns <= now)
		cmos->bytes[REG_C] |= C_UPDATE;
	arm(cmos, now);
	update_line(cmos, env);
}

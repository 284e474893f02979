#include "engine/pit.h"

#include <string.h>

#define NS_PER_S 1000000000u
typedef unsigned __int128 u128;

enum { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };
enum {
	MODE_TERMINAL_COUNT, /* rises once, at the end */
	MODE_ONE_SHOT,       /* low from the gate's edge to the end */
	MODE_RATE,           /* low for the last clock of each period */
	MODE_SQUARE,
	MODE_STROBE,      /* low for one clock at the end */
	MODE_GATE_STROBE, /* the same, from the gate's edge */
};
enum { READ_BACK = 3, READ_BACK_NO_COUNT = 0x20, READ_BACK_NO_STATUS = 0x10 };
enum { STATUS_OUT = 0x80, STATUS_NULL_COUNT = 0x40 };
enum { SPEAKER_BITS = 0x03, SPEAKER_GATE = 0x01, SPEAKER_OUT = 0x20 };

static bool repeats(const struct pit_channel *channel)
{
	return channel->mode == MODE_RATE || channel->mode == MODE_SQUARE;
}

static bool starts_at_gate(const struct pit_channel *channel)
{
	return channel->mode == MODE_ONE_SHOT || channel->mode == MODE_GATE_STROBE;
}

static bool frozen(const struct pit_channel *channel)
{
	return !channel->gate && !starts_at_gate(channel);
}

static uint64_t elapsed_ns(const struct pit_channel *channel, uint64_t now)
{
	if (frozen(channel))
		return channel->start_ns;
	return now > channel->start_ns ? now - channel->start_ns : 0;
}

/* Clocks counted by `now`; below 2^55 whatever the state. */
static uint64_t clocks_gone(const struct pit_channel *channel, uint64_t now)
{
	if (!channel->running || !channel->reload)
		return 0;
	return (uint64_t)((u128)elapsed_ns(channel, now) * PIT_HZ / NS_PER_S);
}

static uint16_t to_bcd(uint32_t value)
{
	return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
			  value % 10);
}

static uint32_t from_bcd(uint16_t value)
{
	return (value >> 12 & 15u) * 1000 + (value >> 8 & 15u) * 100 + (value >> 4 & 15u) * 10 +
	       (value & 15u);
}

static uint32_t modulus_of(const struct pit_channel *channel)
{
	return channel->bcd ? 10000 : 65536;
}

/* The counter as a read shows it. */
static uint16_t counter_at(const struct pit_channel *channel, uint64_t now)
{
	uint64_t gone = clocks_gone(channel, now), reload = channel->reload, count;
	if (!reload)
		return 0;
	if (channel->mode == MODE_RATE) {
		count = reload - gone % reload;
	} else if (channel->mode == MODE_SQUARE) {
		/* Two at a time, once through for each half of the wave; the high half has the odd
		 * clock. */
		uint64_t high = (reload + 1) / 2, phase = gone % reload;
		count = (reload & ~1ull) - 2 * (phase < high ? phase : phase - high);
	} else {
		/* Having expired it counts on from the top. */
		uint64_t modulus = modulus_of(channel);
		count = reload + modulus - gone % modulus;
	}
	uint32_t shown = (uint32_t)(count % modulus_of(channel));
	return channel->bcd ? to_bcd(shown) : (uint16_t)shown;
}

static bool out_at(const struct pit_channel *channel, uint64_t now)
{
	if (!channel->running || !channel->reload)
		return channel->mode != MODE_TERMINAL_COUNT;
	uint64_t gone = clocks_gone(channel, now), reload = channel->reload;
	switch (channel->mode) {
	case MODE_TERMINAL_COUNT:
	case MODE_ONE_SHOT:
		return gone >= reload;
	case MODE_RATE:
		return !channel->gate || gone % reload != reload - 1;
	case MODE_SQUARE:
		return !channel->gate || gone % reload < (reload + 1) / 2;
	default:
		return gone != reload;
	}
}

void pit_reset(struct pit *pit)
{
	memset(pit, 0, sizeof *pit);
	for (unsigned i = 0; i < 3; i++)
		pit->channel[i].access = ACCESS_BOTH;
	pit->channel[0].gate = pit->channel[1].gate = 1; /* tied high on the board */
	/* Firmware has used channel 0, and no kernel expects it to stand: it counts on, having expired. */
	pit->channel[0].reload = 65536;
	pit->channel[0].running = 1;
	pit->channel[0].ticked = 1;
}

static void pulse(struct pit *pit, struct device_env *env)
{
	pit->raised = 1;
	env->irq(env, IRQ_PIT, false);
	env->irq(env, IRQ_PIT, true);
}

/* Channel 0 holds its output low until a terminal count: what it had asked for is taken back. */
static void lower(struct pit *pit, struct device_env *env)
{
	pit->raised = 0;
	env->irq(env, IRQ_PIT, false);
}

static void load_count(
	struct pit *pit, struct device_env *env, struct pit_channel *channel, uint16_t value)
{
	uint32_t count = channel->bcd ? from_bcd(value) : value;
	channel->reload = count ? count : modulus_of(channel);
	channel->ticked = 0;
	if (starts_at_gate(channel))
		return;
	channel->running = 1;
	channel->start_ns = frozen(channel) ? 0 : env->clock(env);
	if (channel == &pit->channel[0] && channel->mode == MODE_TERMINAL_COUNT)
		lower(pit, env);
}

static void write_count(
	struct pit *pit, struct device_env *env, struct pit_channel *channel, uint8_t value)
{
	switch (channel->access) {
	case ACCESS_LOW:
		load_count(pit, env, channel, value);
		break;
	case ACCESS_HIGH:
		load_count(pit, env, channel, (uint16_t)(value << 8));
		break;
	default:
		channel->write_high ^= 1;
		if (channel->write_high) {
			channel->write_low = value;
			/* The first byte stops it, the second starts it. */
			if (channel->mode == MODE_TERMINAL_COUNT)
				channel->running = 0;
		} else {
			load_count(pit, env, channel, (uint16_t)(value << 8 | channel->write_low));
		}
	}
}

static uint8_t read_count(struct device_env *env, struct pit_channel *channel)
{
	if (channel->status_latched) {
		channel->status_latched = 0;
		return channel->status;
	}
	uint16_t count = channel->latched;
	if (!channel->count_latched)
		count = counter_at(channel, channel->running ? env->clock(env) : 0);
	bool high = channel->access == ACCESS_HIGH;
	if (channel->access == ACCESS_BOTH) {
		high = channel->read_high;
		channel->read_high = !high;
	}
	if (!channel->read_high)
		channel->count_latched = 0;
	return (uint8_t)(high ? count >> 8 : count);
}

static void latch_count(struct pit_channel *channel, uint64_t now)
{
	if (channel->count_latched)
		return;
	channel->latched = counter_at(channel, now);
	channel->count_latched = 1;
}

static void latch_status(struct pit_channel *channel, uint64_t now)
{
	if (channel->status_latched)
		return;
	channel->status = (uint8_t)((out_at(channel, now) ? STATUS_OUT : 0) |
				    (channel->running ? 0 : STATUS_NULL_COUNT) |
				    channel->access << 4 | channel->mode << 1 | channel->bcd);
	channel->status_latched = 1;
}

static void write_control(struct pit *pit, struct device_env *env, uint8_t value)
{
	unsigned select = value >> 6, access = value >> 4 & 3u;
	if (select == READ_BACK) {
		uint64_t now = env->clock(env);
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & 2u << i))
				continue;
			if (!(value & READ_BACK_NO_STATUS))
				latch_status(&pit->channel[i], now);
			if (!(value & READ_BACK_NO_COUNT))
				latch_count(&pit->channel[i], now);
		}
		return;
	}
	struct pit_channel *channel = &pit->channel[select];
	if (access == ACCESS_LATCH) {
		latch_count(channel, channel->running ? env->clock(env) : 0);
		return;
	}
	uint8_t mode = value >> 1 & 7u, gate = channel->gate;
	memset(channel, 0, sizeof *channel);
	channel->gate = gate;
	channel->access = (uint8_t)access;
	channel->mode = mode > MODE_GATE_STROBE ? mode & 3u : mode;
	channel->bcd = value & 1u;
	if (select == 0) {
		pit->backlog = 0;
		if (channel->mode == MODE_TERMINAL_COUNT)
			lower(pit, env);
	}
}

static void set_gate(struct device_env *env, struct pit_channel *channel, bool gate)
{
	if (gate == channel->gate)
		return;
	if (starts_at_gate(channel)) {
		if (gate && channel->reload) {
			channel->start_ns = env->clock(env);
			channel->running = 1;
		}
	} else if (channel->running) {
		uint64_t now = env->clock(env);
		if (!gate)
			channel->start_ns = elapsed_ns(channel, now);
		else
			channel->start_ns = repeats(channel) ? now : now - channel->start_ns;
	}
	channel->gate = gate;
}

uint8_t pit_read(struct pit *pit, struct device_env *env, uint16_t port)
{
	struct pit_channel *speaker = &pit->channel[2];
	switch (port) {
	case 0x40:
	case 0x41:
	case 0x42:
		return read_count(env, &pit->channel[port - 0x40]);
	case 0x61:
		return pit->speaker |
		       (out_at(speaker, speaker->running ? env->clock(env) : 0) ? SPEAKER_OUT : 0);
	default: /* the control word cannot be read */
		return 0xff;
	}
}

void pit_write(struct pit *pit, struct device_env *env, uint16_t port, uint8_t value)
{
	switch (port) {
	case 0x40:
	case 0x41:
	case 0x42:
		write_count(pit, env, &pit->channel[port - 0x40], value);
		break;
	case 0x43:
		write_control(pit, env, value);
		break;
	case 0x61:
		pit->speaker = value & SPEAKER_BITS;
		set_gate(env, &pit->channel[2], value & SPEAKER_GATE);
		break;
	default:
		break;
	}
}

uint64_t pit_deadline(const struct pit *pit)
{
	const struct pit_channel *channel = &pit->channel[0];
	if (!channel->running || !channel->reload || frozen(channel) ||
		(!repeats(channel) && channel->ticked))
		return PIT_NO_DEADLINE;
	/* Rounded up: the first nanosecond at which the clocks are complete, as clocks_gone counts
	 * them. */
	u128 clocks = ((u128)channel->ticked + 1) * channel->reload;
	u128 deadline = channel->start_ns + (clocks * NS_PER_S + PIT_HZ - 1) / PIT_HZ;
	return deadline < PIT_NO_DEADLINE ? (uint64_t)deadline : PIT_NO_DEADLINE;
}

uint32_t pit_due(const struct pit *pit, uint64_t now)
{
	const struct pit_channel *channel = &pit->channel[0];
	if (now < pit_deadline(pit) || pit_deadline(pit) == PIT_NO_DEADLINE)
		return 0;
	if (!repeats(channel))
		return 1;
	uint64_t due = clocks_gone(channel, now) / channel->reload - channel->ticked;
	return due < PIT_BACKLOG_MAX ? (uint32_t)due : PIT_BACKLOG_MAX;
}

void pit_tick(struct pit *pit, struct device_env *env, uint32_t count)
{
	if (!count)
		return;
	pit->channel[0].ticked += count;
	if (repeats(&pit->channel[0])) {
		uint64_t backlog = (uint64_t)pit->backlog + count - !pit->raised;
		pit->backlog = backlog < PIT_BACKLOG_MAX ? (uint32_t)backlog : PIT_BACKLOG_MAX;
	}
	/* Also when it is raised already: a guest that has just set up its PIC has lost the first
	 * edge. */
	pulse(pit, env);
}

void pit_acknowledged(struct pit *pit, struct device_env *env)
{
	pit->raised = 0;
	if (!pit->backlog)
		return;
	pit->backlog--;
	pulse(pit, env);
}

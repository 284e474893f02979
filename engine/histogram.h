/* Durations, counted in buckets of a quarter octave: one thread adds, any thread reads. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 256u

struct histogram {
	_Atomic uint64_t count[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_bucket(uint64_t ns)
{
	if (ns < 4)
		return (unsigned)ns;
	unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
	return octave * 4u + (unsigned)((ns >> (octave - 2)) & 3u);
}

static inline void histogram_add(struct histogram *histogram, uint64_t ns)
{
	atomic_fetch_add_explicit(&histogram->count[histogram_bucket(ns)], 1, memory_order_relaxed);
}

/* An upper bound of the duration that `share` (0 to 1) of all do not exceed; 0 when there are none. */
static inline uint64_t histogram_quantile(const struct histogram *histogram, double share)
{
	uint64_t all = 0, seen = 0;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		all += atomic_load_explicit(&histogram->count[i], memory_order_relaxed);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS && all > 0; i++) {
		seen += atomic_load_explicit(&histogram->count[i], memory_order_relaxed);
		if ((double)seen >= share * (double)all)
			return i < 8 ? i : (4ull + i % 4u + 1u) << (i / 4u - 2u);
	}
	return 0;
}

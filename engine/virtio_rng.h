/*
 * virtio-rng over virtio-mmio. Queue 0: the guest offers buffers, the device fills them.
 *
 * Random bytes are an input (env->random): the log has them. So that a guest cannot fill the log with
 * one access a buffer gets RANDOM_MAX bytes at most, which the device is free to do; who wants more
 * offers it again.
 */
#pragma once

#include "engine/virtio_mmio.h"

struct virtio_rng {
	struct virtio_mmio mmio;
	uint64_t bytes; /* given since the machine was made */
};
_Static_assert(sizeof(struct virtio_rng) == 128, "saved as it is");

extern const struct virtio_kind virtio_rng_kind;

void virtio_rng_reset(struct virtio_rng *rng);

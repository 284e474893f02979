#include "engine/virtio_rng.h"

#include <string.h>

static uint64_t fill(
	struct virtio_mmio *mmio, struct device_env *env, const struct virtqueue_chains *chain)
{
	struct virtio_rng *rng = (struct virtio_rng *)mmio;
	uint8_t bytes[RANDOM_MAX];
	size_t length = chain->bytes < sizeof bytes ? chain->bytes : sizeof bytes;
	if (length) {
		env->random(env, bytes, length);
		virtqueue_copy_in(chain, 0, bytes, length);
	}
	rng->bytes += length;
	return length;
}

const struct virtio_kind virtio_rng_kind = {
	.id = 4, .line = IRQ_RNG, .queues = 1, .is_written = true, .serve = fill};

void virtio_rng_reset(struct virtio_rng *rng)
{
	memset(rng, 0, sizeof *rng);
	virtio_mmio_reset(&rng->mmio, NULL, 0);
}

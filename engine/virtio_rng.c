#include "engine/virtio_rng.h"

#include <string.h>

static void fill(
	struct virtio_rng *rng, struct device_env *env, const struct virtqueue_chains *chain)
{
	uint8_t bytes[RANDOM_MAX];
	size_t length = chain->bytes < sizeof bytes ? chain->bytes : sizeof bytes;
	if (length) {
		env->random(env, bytes, length);
		virtqueue_copy_in(chain, 0, bytes, length);
	}
	rng->bytes += length;
}

static int notify(struct virtio_mmio *mmio, struct device_env *env, uint32_t index)
{
	struct virtqueue *queue = &mmio->queue[index];
	struct virtqueue_chains chain;
	uint16_t used = queue->used;
	/* No more than one ring can hold, though what is written may look like further buffers. */
	for (uint32_t i = 0; i < VIRTQUEUE_MAX; i++) {
		int error = virtqueue_look(queue, env->memory, true, 1, UINT64_MAX, &chain);
		if (error)
			return error;
		if (!chain.count)
			break;
		fill((struct virtio_rng *)mmio, env, &chain);
		virtqueue_return(queue, env->memory, &chain, RANDOM_MAX);
	}
	virtio_mmio_finish(mmio, &virtio_rng_kind, env, queue, used);
	return 0;
}

const struct virtio_kind virtio_rng_kind = {
	.id = 4, .line = IRQ_RNG, .queues = 1, .notify = notify};

void virtio_rng_reset(struct virtio_rng *rng)
{
	memset(rng, 0, sizeof *rng);
	virtio_mmio_reset(&rng->mmio, NULL, 0);
}

#include "transport/verbs_sound.h"

#include <arpa/inet.h>

void verbs_sound_open(struct verbs_sound *sound, struct verbs_queue *queue)
{
	*sound = (struct verbs_sound){.queue = queue};
	atomic_init(&sound->is_wanted, true);
}

unsigned verbs_sound_slots(const struct verbs_sound *sound)
{
	return sound->queue->link->is_iwarp ? 1 : 0;
}

unsigned verbs_sound_add(
	const struct verbs_sound *sound, struct ibv_send_wr *requests, unsigned count)
{
	struct ibv_send_wr *last = &requests[count - 1];
	if (sound->queue->link->is_iwarp) {
		requests[count] = (struct ibv_send_wr){.wr_id = last->wr_id, .opcode = IBV_WR_SEND};
		return count + 1;
	}
	/* S1: the lock orders it with S2. */
	if (atomic_load_explicit(&sound->is_wanted, memory_order_relaxed)) {
		last->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
		last->imm_data = htonl(SOUND_RING);
	}
	return count;
}

bool verbs_sound_take(struct verbs_sound *sound, const struct ibv_wc *arrival)
{
	uint32_t word = arrival->wc_flags & IBV_WC_WITH_IMM ? ntohl(arrival->imm_data) : SOUND_RING;
	if (word != SOUND_ON && word != SOUND_OFF)
		return true;
	/* S2: before the lock is taken to ring; whoever has it until then either sees this, or has
	 * posted before the ring. */
	atomic_store_explicit(&sound->is_wanted, word == SOUND_ON, memory_order_relaxed);
	if (word == SOUND_ON)
		sound->must_ring = true;
	return false;
}

void verbs_sound_rang(struct verbs_sound *sound, bool somebody_sleeps)
{
	if (somebody_sleeps)
		sound->unheard = 0;
	else if (sound->unheard < VERBS_UNHEARD)
		sound->unheard++;
}

/* Whether the word could be posted. */
static bool tell(struct verbs_sound *sound, enum verbs_sound_word word)
{
	struct verbs_queue *queue = sound->queue;
	struct ibv_send_wr request = {.opcode = IBV_WR_SEND_WITH_IMM, .imm_data = htonl(word)};
	bool is_said = true;
	pthread_mutex_lock(&queue->lock);
	verbs_queue_reap(queue);
	request.wr_id = verbs_queue_newest(queue);
	if (verbs_queue_room(queue) == 0)
		is_said = false;
	else
		/* An error is the connection's end, which its thread takes note of. */
		(void)!verbs_queue_post(queue, &request, 1, false);
	pthread_mutex_unlock(&queue->lock);
	return is_said;
}

bool verbs_sound_settle(struct verbs_sound *sound, bool somebody_sleeps)
{
	bool off = sound->is_off ? !somebody_sleeps : sound->unheard == VERBS_UNHEARD;
	if (off != sound->is_off && !sound->queue->link->is_iwarp) {
		sound->is_off = off;
		sound->unheard = 0;
		sound->must_tell = true;
	}
	if (sound->must_tell)
		sound->must_tell = !tell(sound, sound->is_off ? SOUND_OFF : SOUND_ON);
	if (sound->must_ring)
		sound->must_ring = !tell(sound, SOUND_RING);
	return sound->is_off || sound->must_tell || sound->must_ring;
}

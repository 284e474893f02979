#include "transport/verbs_queue.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

#define REAP 16
/* How long a sleep for a completion may last: every wake-up comes by the bell. */
#define SLEEP_NS 10000000u

void verbs_queue_open(struct verbs_queue *queue, struct verbs_link *link, struct verbs_fate *fate)
{
	*queue = (struct verbs_queue){.link = link, .fate = fate};
	pthread_mutex_init(&queue->lock, NULL);
}

void verbs_queue_close(struct verbs_queue *queue)
{
	pthread_mutex_destroy(&queue->lock);
}

int verbs_queue_post(
	struct verbs_queue *queue, struct ibv_send_wr *requests, unsigned count, bool signal_last)
{
	struct ibv_send_wr *bad;
	if (verbs_fate_is_over(queue->fate))
		return verbs_fate_error(queue->fate);
	CHECK(L3, count > 0 && count <= verbs_queue_room(queue), "%u requests into %u free slots",
		count, verbs_queue_room(queue));
	for (unsigned i = 0; i < count; i++) {
		uint64_t slot = queue->posted + i;
		queue->tags[slot % VERBS_QUEUE_DEPTH] = requests[i].wr_id;
		requests[i].wr_id = slot;
		requests[i].next = i + 1 < count ? &requests[i + 1] : NULL;
		queue->unsignalled++;
		if ((signal_last && i + 1 == count) ||
			queue->unsignalled >= queue->link->sends / 4) {
			requests[i].send_flags |= IBV_SEND_SIGNALED;
			queue->unsignalled = 0;
		}
	}
	int error = ibv_post_send(queue->link->id->qp, requests, &bad);
	/* Our count says that there was room: what the device refuses, it will refuse again. */
	if (error) {
		verbs_fate_end(
			queue->fate, "the RDMA device takes no requests: %s", strerror(error));
		return verbs_fate_error(queue->fate);
	}
	queue->posted += count;
	return 0;
}

void verbs_queue_reap(struct verbs_queue *queue)
{
	struct ibv_wc done[REAP];
	int n;
	do {
		n = ibv_poll_cq(queue->link->send_cq, REAP, done);
		if (n < 0) {
			verbs_fate_end(queue->fate, "its completion queue cannot be read");
			return;
		}
		for (int i = 0; i < n; i++) {
			if (done[i].status != IBV_WC_SUCCESS) {
				verbs_fate_end(
					queue->fate, "%s", verbs_link_status(done[i].status));
				return;
			}
			uint64_t slot = done[i].wr_id;
			CHECK(L3, slot >= queue->retired && slot < queue->posted,
				"a completion of slot %llu, and %llu to %llu are in use",
				(unsigned long long)slot, (unsigned long long)queue->retired,
				(unsigned long long)queue->posted);
			queue->retired = slot + 1;
			/* Q1: what the device has read may be changed from here on; pairs with the
			 * loads of `done`. */
			atomic_store_explicit(&queue->done, queue->tags[slot % VERBS_QUEUE_DEPTH],
				memory_order_release);
		}
	} while (n == REAP);
}

void verbs_queue_arm(struct verbs_queue *queue)
{
	if (queue->is_armed)
		return;
	queue->is_armed = true;
	if (ibv_req_notify_cq(queue->link->send_cq, 0))
		verbs_fate_end(queue->fate, "its completion queue cannot be watched");
}

void verbs_queue_heard(struct verbs_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->is_armed = false;
	pthread_mutex_unlock(&queue->lock);
}

int verbs_queue_wait(
	struct verbs_queue *queue, uint64_t tag, struct bell *bell, unsigned timeout_ms)
{
	struct idle idle = {.bell = bell, .longest_ns = SLEEP_NS};
	uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
	bool armed = false;
	for (;;) {
		idle_watch(&idle);
		uint64_t before = atomic_load_explicit(&queue->done, memory_order_relaxed);
		pthread_mutex_lock(&queue->lock);
		verbs_queue_reap(queue);
		pthread_mutex_unlock(&queue->lock);
		uint64_t done = atomic_load_explicit(&queue->done, memory_order_acquire);
		if (done >= tag)
			return 0;
		if (verbs_fate_is_over(queue->fate))
			return verbs_fate_error(queue->fate);
		if (done != before) {
			armed = false;
			idle_busy(&idle);
		} else if (!armed) {
			/* What came before this is seen in the next pass. */
			pthread_mutex_lock(&queue->lock);
			verbs_queue_arm(queue);
			pthread_mutex_unlock(&queue->lock);
			armed = true;
		} else if (now_ns() >= deadline) {
			return -ETIMEDOUT;
		} else {
			idle_pause(&idle);
		}
	}
}

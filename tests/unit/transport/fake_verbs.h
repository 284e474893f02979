/*
 * An RDMA device that is not there: librdmacm's and libibverbs' functions, as far as the verbs
 * provider calls them, between two ends in one process. It moves bytes as a device would, checks
 * what a device would not (that slots are not overrun, that sources do not change while they are
 * read), and fails on request.
 *
 * Requests of a queue pair are carried out in order and complete in order. While fake.paused is set
 * they wait, and fake_place() places bytes of the oldest ones in any order, as a network may.
 *
 * To be included by one test's only source file: these definitions take the place of the
 * libraries'.
 */
#pragma once

#include "fake_cm.h"
#include "fake_device.h"
#include "fake_queues.h"

static struct ibv_context fake_context = {
	.device = &fake_device,
	.ops = {.poll_cq = fake_poll_cq,
		.req_notify_cq = fake_req_notify_cq,
		.post_send = fake_post_send,
		.post_recv = fake_post_recv},
};

/* Nothing is carried out any more, until it is switched on again. */
static inline void fake_pause(bool paused)
{
	pthread_mutex_lock(&fake.lock);
	fake.paused = paused;
	fake_carry_out();
	pthread_mutex_unlock(&fake.lock);
}

/* Carries out `count` requests in spite of a pause. */
static inline void fake_proceed(unsigned count)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		while (count > 0 && qp->sends && fake_step(qp))
			count--;
	}
	pthread_mutex_unlock(&fake.lock);
}

/* Places one word of one write that waits, any of them; false: all are placed. */
static inline bool fake_place(void)
{
	struct fake_request *found = NULL;
	size_t found_word = 0, seen = 0;
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		for (struct fake_request *request = qp->sends; request; request = request->next) {
			for (size_t i = 0; fake_is_write(request) && i * 8 < request->length; i++) {
				if (request->placed[i] || next_random(&fake.random) % ++seen != 0)
					continue;
				found = request;
				found_word = i;
			}
		}
	}
	if (found)
		fake_place_word(found, found_word);
	pthread_mutex_unlock(&fake.lock);
	return found != NULL;
}

/* The next request ends so. */
static inline void fake_fail_request(enum ibv_wc_status status)
{
	pthread_mutex_lock(&fake.lock);
	fake.fail_request = status;
	pthread_mutex_unlock(&fake.lock);
}

/* What happens when a peer is silent for all retries: what waits fails. */
static inline void fake_exhaust(void)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next) {
		if (qp->sends) {
			fake_finish(qp, IBV_WC_RETRY_EXC_ERR);
			fake_break(qp);
		}
	}
	pthread_mutex_unlock(&fake.lock);
}

/* All queue pairs fall into error, without a request that could tell. */
static inline void fake_break_all(void)
{
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next)
		fake_break(qp);
	pthread_mutex_unlock(&fake.lock);
}

static inline unsigned fake_waiting(void)
{
	unsigned count = 0;
	pthread_mutex_lock(&fake.lock);
	for (struct fake_qp *qp = fake.qps; qp; qp = qp->next)
		count += qp->send_count;
	pthread_mutex_unlock(&fake.lock);
	return count;
}

#include "transport/verbs_connection.h"

#include "base/thread.h"
#include "transport/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Receives for arrivals that ring. So many may come while the thread does not run. */
#define BELLS 1024u

/* While sounds are off the thread looks whether somebody sleeps again: soon at first, and less and less
 * often at those who seem to spin for good. */
#define LOOK_MS 1
#define LOOK_MAX_MS 16

static const struct verbs_link_size sizes[VERBS_LINKS] = {
	[VERBS_BULK] = {.sends = VERBS_BULK_SENDS, .receives = VERBS_RECEIVES, .gather = 1},
	[VERBS_LOG] = {.sends = VERBS_QUEUE_DEPTH,
		.receives = BELLS,
		.gather = VERBS_GATHER,
		.inline_bytes = VERBS_INLINE},
};

/* ---- Making ---- */

int verbs_connection_make(struct connection **out, const char *where, bool is_standby)
{
	struct connection *c = calloc(1, sizeof *c);
	if (!c)
		return fail(ENOMEM, "no memory for a connection on rdma:%s", where);
	int error = verbs_fate_open(&c->fate, where);
	if (error) {
		free(c);
		return error;
	}
	c->is_standby = is_standby;
	c->began_ns = now_ns();
	pthread_mutex_init(&c->cutting, NULL);
	pthread_mutex_init(&c->keys, NULL);
	for (unsigned i = 0; i < VERBS_LINKS; i++)
		verbs_queue_open(&c->queues[i], &c->links[i], &c->fate);
	verbs_sound_open(&c->sound, &c->queues[VERBS_LOG]);
	c->log.queue = &c->queues[VERBS_LOG];
	c->log.sound = &c->sound;
	*out = c;
	return 0;
}

int verbs_connection_channel(struct rdma_event_channel **out, const char *where, const char *what)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	if (!channel)
		return verbs_device_refused(where, what, errno);
	if (fcntl(channel->fd, F_SETFL, O_NONBLOCK) < 0) {
		int error = fail(errno, "cannot poll an event channel: %s", strerror(errno));
		rdma_destroy_event_channel(channel);
		return error;
	}
	*out = channel;
	return 0;
}

static int open_device(struct connection *c, struct rdma_cm_id *id)
{
	const char *where = c->fate.where;
	c->pd = ibv_alloc_pd(id->verbs);
	if (!c->pd)
		return verbs_device_refused(where, "make a protection domain for", errno);
	c->completions = ibv_create_comp_channel(id->verbs);
	if (!c->completions)
		return verbs_device_refused(where, "make a completion channel for", errno);
	if (fcntl(c->completions->fd, F_SETFL, O_NONBLOCK) < 0)
		return fail(errno, "cannot poll a completion channel: %s", strerror(errno));
	return 0;
}

int verbs_connection_add(struct connection *c, enum verbs_which which, struct rdma_cm_id *id)
{
	struct verbs_link *link = &c->links[which];
	int error = c->pd ? 0 : open_device(c, id);
	if (!error && c->pd->context != id->verbs)
		error = fail(
			EXDEV, "the two links of rdma:%s use different devices", c->fate.where);
	if (error) {
		rdma_destroy_id(id);
		return error;
	}
	error = verbs_link_open(link, id, c->pd, c->completions, &sizes[which], c->fate.where);
	if (error)
		return error;
	id->context = c;
	if (which == VERBS_BULK)
		return verbs_messages_open(&c->messages, &c->queues[VERBS_BULK], c->pd);
	error = verbs_acks_open(&c->acks_out, &c->queues[VERBS_LOG], &c->sound, c->pd);
	return error ? error : verbs_link_post_bells(link, link->receives);
}

/* ---- The keys ---- */

int verbs_connection_share(
	struct connection *c, struct ibv_mr **mr, void *base, size_t size, const char *what)
{
	int error;
	pthread_mutex_lock(&c->keys);
	if (verbs_fate_is_over(&c->fate))
		error = verbs_fate_error(&c->fate);
	else
		error = verbs_device_register(mr, c->pd, base, size,
			IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, what);
	pthread_mutex_unlock(&c->keys);
	return error;
}

void verbs_connection_unshare(struct connection *c, struct ibv_mr **mr)
{
	pthread_mutex_lock(&c->keys);
	verbs_device_release(mr);
	pthread_mutex_unlock(&c->keys);
}

/* ---- The end ---- */

void verbs_connection_cut(struct connection *c, const char *why)
{
	if (why)
		verbs_fate_end(&c->fate, "%s", why);
	pthread_mutex_lock(&c->cutting);
	if (!c->is_cut) {
		c->is_cut = true;
		for (unsigned i = 0; i < VERBS_LINKS; i++) {
			pthread_mutex_lock(&c->queues[i].lock);
			pthread_mutex_unlock(&c->queues[i].lock);
		}
		for (unsigned i = 0; i < VERBS_LINKS; i++)
			verbs_link_break(&c->links[i]);
		verbs_connection_unshare(c, &c->ring_mr);
		verbs_connection_unshare(c, &c->memory_mr);
		verbs_connection_unshare(c, &c->acks_mr);
		verbs_messages_end(&c->messages);
		bell_ring(&c->bell);
	}
	pthread_mutex_unlock(&c->cutting);
}

void verbs_connection_close(struct connection *c)
{
	verbs_connection_cut(c, "it is closed");
	if (c->has_thread) {
		atomic_store_explicit(&c->stopping, true, memory_order_release);
		eventfd_write(c->fate.wake, 1);
		pthread_join(c->thread, NULL);
	}
	for (unsigned i = 0; i < VERBS_LINKS; i++) {
		verbs_link_close(&c->links[i]);
		verbs_queue_close(&c->queues[i]);
	}
	verbs_messages_close(&c->messages);
	verbs_acks_close(&c->acks_out);
	verbs_log_close(&c->log);
	if (c->completions)
		(void)!ibv_destroy_comp_channel(c->completions);
	if (c->pd)
		(void)!ibv_dealloc_pd(c->pd);
	if (c->events)
		rdma_destroy_event_channel(c->events);
	memfd_unmap(c->ring, c->ring_size, true);
	memfd_unmap(c->memory, c->memory_size, false);
	if (c->acks)
		munmap(c->acks, sizeof *c->acks);
	verbs_fate_close(&c->fate);
	pthread_mutex_destroy(&c->cutting);
	pthread_mutex_destroy(&c->keys);
	free(c);
}

/* ---- The thread ---- */

/* Takes note of the end. What has failed first is the better reason: the rest follows from it. */
static void end(struct connection *c, const char *why)
{
	for (unsigned i = 0; i < VERBS_LINKS; i++) {
		pthread_mutex_lock(&c->queues[i].lock);
		verbs_queue_reap(&c->queues[i]);
		pthread_mutex_unlock(&c->queues[i].lock);
	}
	verbs_fate_end(&c->fate, "%s", why);
}

static void take_events(struct connection *c)
{
	struct rdma_cm_event *event;
	while (rdma_get_cm_event(c->events, &event) == 0) {
		enum rdma_cm_event_type type = event->event;
		rdma_ack_cm_event(event);
		switch (type) {
		case RDMA_CM_EVENT_DISCONNECTED:
			end(c, "the peer has ended it");
			break;
		case RDMA_CM_EVENT_DEVICE_REMOVAL:
			end(c, "its RDMA device was removed");
			break;
		case RDMA_CM_EVENT_ESTABLISHED:
		case RDMA_CM_EVENT_ADDR_CHANGE:
		case RDMA_CM_EVENT_TIMEWAIT_EXIT:
			break;
		default:
			end(c, rdma_event_str(type));
			break;
		}
	}
}

/* Takes in sounds, and makes room for as many more. Returns whether one was a ring. */
static bool take_bells(struct connection *c)
{
	struct ibv_wc done[64];
	struct verbs_link *link = &c->links[VERBS_LOG];
	bool any = false;
	int n;
	do {
		n = ibv_poll_cq(link->recv_cq, 64, done);
		for (int i = 0; i < n; i++) {
			if (done[i].status != IBV_WC_SUCCESS) {
				end(c, verbs_link_status(done[i].status));
				return any;
			}
			any |= verbs_sound_take(&c->sound, &done[i]);
		}
		if (n < 0)
			end(c, "its completion queue cannot be read");
		if (n > 0 && verbs_link_post_bells(link, (unsigned)n) < 0)
			end(c, fail_message());
	} while (n == 64);
	return any;
}

/* Whether writes have finished that somebody may wait for. */
static bool take_written(struct connection *c)
{
	if (!atomic_load_explicit(&c->is_placed, memory_order_relaxed))
		return false;
	uint64_t written = verbs_log_written(&c->log);
	bool moved = written != c->written_seen;
	c->written_seen = written;
	return moved;
}

static bool somebody_sleeps(struct connection *c)
{
	return atomic_load_explicit(&c->bell.sleepers, memory_order_seq_cst) != 0;
}

static void ring_for_arrivals(struct connection *c)
{
	bool bells = take_bells(c), written = take_written(c);
	if (!bells && !written)
		return;
	verbs_sound_rang(&c->sound, somebody_sleeps(c));
	bell_ring(&c->bell);
}

static void arm(struct connection *c, struct ibv_cq *cq)
{
	if (ibv_req_notify_cq(cq, 0))
		end(c, "its completion queue cannot be watched");
}

/* Returns how long to wait for something to happen. */
static int prepare_to_wait(struct connection *c)
{
	if (verbs_fate_is_over(&c->fate))
		return -1;
	bool was_off = c->sound.is_off;
	if (!c->is_armed) {
		c->is_armed = true;
		arm(c, c->links[VERBS_LOG].recv_cq);
		if (!was_off && atomic_load_explicit(&c->is_placed, memory_order_relaxed)) {
			pthread_mutex_lock(&c->queues[VERBS_LOG].lock);
			verbs_queue_arm(&c->queues[VERBS_LOG]);
			pthread_mutex_unlock(&c->queues[VERBS_LOG].lock);
		}
		/* What came before makes no event any more. */
		ring_for_arrivals(c);
	}
	bool again = verbs_sound_settle(&c->sound, somebody_sleeps(c));
	if (was_off && !c->sound.is_off) {
		/* Finished writes are to be heard again, too. */
		c->is_armed = false;
		return 0;
	}
	if (!was_off)
		c->look_ms = LOOK_MS;
	else if (c->look_ms < LOOK_MAX_MS)
		c->look_ms *= 2;
	return again ? c->look_ms : -1;
}

static void take_completion_events(struct connection *c)
{
	struct ibv_cq *cq;
	void *context;
	while (ibv_get_cq_event(c->completions, &cq, &context) == 0) {
		ibv_ack_cq_events(cq, 1);
		for (unsigned i = 0; i < VERBS_LINKS; i++) {
			if (cq == c->links[i].send_cq)
				verbs_queue_heard(&c->queues[i]);
		}
		if (cq == c->links[VERBS_BULK].recv_cq)
			arm(c, cq);
		else if (cq == c->links[VERBS_BULK].send_cq)
			bell_ring(&c->messages.bell);
		else
			c->is_armed = false;
	}
	/* Otherwise poll would find it readable for ever. */
	if (errno != EAGAIN && errno != EINTR)
		end(c, "its RDMA device is gone");
}

/* Everything that may have happened, once. True: the connection is over and cut. */
static bool look(struct connection *c)
{
	/* Messages first: what the peer sent before the end is still received. */
	enum ibv_wc_status status = verbs_messages_take(&c->messages);
	if (status != IBV_WC_SUCCESS)
		end(c, verbs_link_status(status));
	if (verbs_fate_is_over(&c->fate)) {
		verbs_connection_cut(c, NULL);
		return true;
	}
	ring_for_arrivals(c);
	verbs_log_resume(&c->log);
	verbs_acks_resume(&c->acks_out);
	return false;
}

static void *serve(void *argument)
{
	struct connection *c = argument;
	struct pollfd fds[] = {
		{.fd = c->fate.wake, .events = POLLIN},
		{.fd = c->events->fd, .events = POLLIN},
		{.fd = c->completions->fd, .events = POLLIN},
	};
	bool is_cut = false;
	thread_is_prompt();
	arm(c, c->links[VERBS_BULK].recv_cq);
	while (!atomic_load_explicit(&c->stopping, memory_order_acquire)) {
		if (!is_cut && look(c)) {
			/* From here on only close has something to say. */
			fds[1].fd = fds[2].fd = -1;
			is_cut = true;
		}
		if (poll(fds, 3, prepare_to_wait(c)) < 0 && errno != EINTR)
			end(c, "its descriptors cannot be waited for");
		if (fds[0].revents) {
			eventfd_t count;
			(void)!eventfd_read(c->fate.wake, &count);
			c->is_armed = false;
		}
		if (fds[1].revents & POLLIN)
			take_events(c);
		if (fds[2].revents & POLLIN)
			take_completion_events(c);
		if ((fds[1].revents | fds[2].revents) & ~POLLIN)
			end(c, "its RDMA device is gone");
	}
	return NULL;
}

void verbs_connection_hear_written(struct connection *c)
{
	atomic_store_explicit(&c->is_placed, true, memory_order_relaxed);
	eventfd_write(c->fate.wake, 1);
}

int verbs_connection_start(struct connection *c)
{
	int error = thread_start(&c->thread, "verbs", serve, c);
	c->has_thread = !error;
	return error;
}

#include "engine/clone.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC_STATE 0x41545344u
#define MAGIC_COMMIT 0x4d4f4344u
#define CLONE_MS 60000u
#define PLACE_MS 10000u /* for what is left on its way to a standby, while the guest stands still */
#define LEAVE_MS 200u
#define PAGE 4096u

/* The machine's state, and behind it a bit for each page: whether it was sent. */
struct state_message {
	uint32_t magic, size;
	uint8_t bytes[];
};

struct commit_message {
	uint32_t magic, digest;
	uint64_t generation, lsn, exits, memory_hash, state_hash;
	uint64_t time_ns;  /* the newest that the guest has been told */
	uint64_t checksum; /* XXH3 of what stands before it, seeded by the secret */
};

static size_t pages_size(const struct guest_memory *memory)
{
	return (memory->size / PAGE + 7) / 8;
}

static uint64_t commit_checksum(const struct commit_message *message, uint64_t secret)
{
	return XXH3_64bits_withSeed(message, offsetof(struct commit_message, checksum), secret);
}

static uint64_t page_hash(uint64_t hash, uint64_t at, const uint8_t *page)
{
	return XXH3_64bits_withSeed(page, PAGE, hash ^ at);
}

/* ---- primary ---- */

static bool page_is_zero(const uint8_t *page)
{
	/* Zero if the first byte is, and each byte equals the one before it. */
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Sends the pages that are not zero, and tells which they were, and their hash. */
static int send_memory(
	struct session *session, const struct guest_memory *memory, uint8_t *pages, uint64_t *hash)
{
	uint64_t from, end = 0;
	*hash = 0;
	session->clone_bytes = 0;
	while (memory_touched(memory, end, &from, &end)) {
		for (uint64_t at = from; at < end; at += PAGE) {
			const uint8_t *page = memory->base + at;
			if (page_is_zero(page))
				continue;
			int error = session->provider->write_memory(
				session->connection, at, page, PAGE);
			if (error)
				return error;
			pages[at / PAGE / 8] |= (uint8_t)(1u << (at / PAGE % 8));
			*hash = page_hash(*hash, at, page);
			session->clone_bytes += PAGE;
		}
	}
	return session->provider->finish_memory(session->connection, PLACE_MS);
}

struct clone {
	struct session *session;
	struct state_message *state;
	size_t size; /* of the whole message */
	bool committed;
	int error;
	char message[256];
};

static int copy_machine(struct machine *m, struct clone *clone, struct commit_message *commit)
{
	struct session *session = clone->session;
	uint8_t *pages = clone->state->bytes + machine_state_size();
	int error = send_memory(session, &m->memory, pages, &commit->memory_hash);
	session->provider->withdraw_memory(session->connection);
	if (!error)
		error = machine_save(m, clone->state->bytes);
	if (error)
		return error;
	commit->state_hash = XXH3_64bits(clone->state, clone->size);
	return session->provider->send(session->connection, clone->state, clone->size);
}

/* What the guest has sent so far is in no log: once there is a backup that believes it has left, it must
 * have (O3). */
static int wait_until_left(const struct machine *m)
{
	for (unsigned ms = 0; ms < LEAVE_MS; ms++) {
		if (hold_waiting(m->hold[OUTPUT_NET]) + hold_waiting(m->hold[OUTPUT_CONSOLE]) == 0)
			return 0;
		usleep(1000);
	}
	return fail(
		EBUSY, "the guest's outputs do not leave: is its console or its network stopped?");
}

/* On the vCPU thread, which stands still meanwhile. */
static void clone_machine(struct machine *m, void *argument)
{
	struct clone *clone = argument;
	struct session *session = clone->session;
	uint64_t began = now_ns();
	struct commit_message commit = {.magic = MAGIC_COMMIT,
		.digest = digest_word(&m->digest),
		.generation = session->generation,
		.exits = m->exits,
		.time_ns = m->live->newest_ns};
	if (machine_ended(m)) {
		clone->error = fail(ECANCELED, "the guest has ended");
	} else {
		clone->error = copy_machine(m, clone, &commit);
	}
	if (!clone->error)
		clone->error = wait_until_left(m);
	if (!clone->error) {
		commit.checksum = commit_checksum(&commit, session->secret);
		/* Outputs are held before the standby can know that it may go live. */
		m->live->acks_ring = true;
		live_begin_log(m, session->log, session->id);
		CRASH_POINT("clone.before");
		clone->committed = true;
		clone->error = session->provider->send(session->connection, &commit, sizeof commit);
		CRASH_POINT("clone.after");
	}
	session->clone_ns = now_ns() - began;
	snprintf(clone->message, sizeof clone->message, "%s", fail_message());
}

int clone_send(struct session *session, struct host *host, bool *committed)
{
	size_t size = machine_state_size() + pages_size(&host->machine.memory);
	struct clone clone = {.session = session, .size = sizeof *clone.state + size};
	clone.state = calloc(1, clone.size);
	if (!clone.state)
		return fail(ENOMEM, "no memory for the machine's state");
	*clone.state = (struct state_message){.magic = MAGIC_STATE, .size = (uint32_t)size};
	machine_call(&host->machine, MACHINE_PAUSED, clone_machine, &clone);
	free(clone.state);
	*committed = clone.committed;
	return clone.error ? fail(-clone.error, "%s", clone.message) : 0;
}

/* ---- standby ---- */

/* The hash of the pages that were sent. */
static uint64_t received_hash(
	const struct guest_memory *memory, const uint8_t *pages, uint64_t *bytes)
{
	uint64_t hash = 0;
	*bytes = 0;
	for (uint64_t at = 0; at < memory->size; at += PAGE) {
		if (!(pages[at / PAGE / 8] & 1u << (at / PAGE % 8)))
			continue;
		hash = page_hash(hash, at, memory->base + at);
		*bytes += PAGE;
	}
	return hash;
}

static int load(struct session *session, struct machine *m, const struct state_message *state,
	size_t size, const struct commit_message *commit)
{
	if (commit->checksum != commit_checksum(commit, session->secret) ||
		commit->generation != session->generation || commit->lsn != 0)
		return fail(EPROTO, "the clone's last message is damaged");
	const uint8_t *pages = state->bytes + machine_state_size();
	if (XXH3_64bits(state, size) != commit->state_hash ||
		received_hash(&m->memory, pages, &session->clone_bytes) != commit->memory_hash)
		return fail(EPROTO, "the clone arrived damaged: its checksum differs");
	int error = machine_load(m, state->bytes, machine_state_size());
	if (!error && (m->exits != commit->exits || digest_word(&m->digest) != commit->digest))
		error = fail(EPROTO, "the clone's state does not fit its last message");
	return error;
}

int clone_receive(struct session *session, struct host *host, uint64_t *time_ns)
{
	struct machine *m = &host->machine;
	struct commit_message commit;
	struct state_message *state;
	size_t size = sizeof *state + machine_state_size() + pages_size(&m->memory);
	state = malloc(size);
	if (!state)
		return fail(ENOMEM, "no memory for the machine's state");
	int error = session_expect(session, state, size, MAGIC_STATE, "state", CLONE_MS);
	if (!error)
		error = session_expect(
			session, &commit, sizeof commit, MAGIC_COMMIT, "commit", CLONE_MS);
	if (!error) {
		session->provider->withdraw_memory(session->connection);
		error = load(session, m, state, size, &commit);
		*time_ns = commit.time_ns;
	}
	free(state);
	return error;
}

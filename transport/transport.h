/*
 * transport/ moves the log from a primary to its backup and the acknowledgements back.
 *
 *   engine appends ─▶ log_writer (staging ring) ─flush─▶ sink ══▶ the ring in the backup's memory
 *                                                         │            │ log_reader validates
 *   outputs are released ◀─ ack block in our memory ◀═════╪══ acks ◀───┘
 *                                                         └─▶ or a recording in a file
 *
 * Files:   log_format  the bytes of an entry, and what makes one valid (the specification)
 *          log_writer  appends, gathers and flushes entries; never overwrites what is still needed
 *          log_describe  entries in words
 *          log_reader  walks a ring or a recording, yielding only valid entries
 *          ack         the ack block: counters that cannot be read torn
 *          provider    this file: what a network must do for us; provider_shm.c and others do it
 *          link_model  a provider in front of another: a wire with a rate and a delay
 *          recording   a first state and a log in a file
 *          durable     the recording of a set size that a backup keeps, and that survives its host
 *          log_file    the bytes below it, and how they become persistent
 *          bus_error   mapped bytes whose storage fails
 * and for the files of this folder alone:
 *          checksum    CRC32C and the mixing behind stamps and check words
 *          copy        copying for a reader on another processor
 *          host_port   HOST:PORT
 *          memfd       memory that can be handed to another process
 *          recording_format  a recording's bytes that are not entries
 *          channel     messages and descriptors over a Unix socket
 *          tcp_wire    the frames of provider_tcp.c; tcp_sender, tcp_receiver and tcp_socket carry them
 *          verbs_*     the parts of provider_verbs.c, each built on those before it: device, link, queue,
 *                      sound, log and messages, connection, meeting (listener and connect)
 *
 * Threads: a connection has, on each side, one control thread (set-up, messages, bulk writes, close)
 * and one log thread (on the primary the vCPU thread, which writes the log; on the standby the
 * receiver, which writes the acks). fence() may be called by any thread at any time.
 *
 * Rules:   transport/ knows nothing of engine/. Everything that lies in memory a peer can write is
 * hostile: it is copied once, bounded, then checked (L2).
 */
#pragma once

#include "base/fail.h"
#include "base/idle.h"
#include "transport/ack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct listener;
struct connection;

/* Messages carry the handshake and a clone's small parts. */
#define MESSAGE_MAX (256u * 1024u)

/* Smaller rings are refused; so are those whose size is not a power of two. */
#define LOG_RING_MIN (64u * 1024u)

/*
 * A provider. Its file exports exactly one of these and nothing else. `where` is the part of the
 * address behind the scheme. Every operation but `placed` is required. "Blocks" means up to the given time; the
 * others never wait for the peer.
 */
struct provider {
	const char *scheme; /* "shm" for addresses of the form shm:NAME */
	bool is_local; /* both ends are on one machine, whose users need not prove who they are */
	/* Whether `where` can be an address at all, without a look at the network; -EINVAL says why not.
	 * -ENODEV: this host has no device that could lead there. */
	int (*check)(const char *where);

	/* Standby: waits for primaries. -EADDRINUSE when somebody else does already. */
	int (*listen)(const char *where, struct listener **out);
	/* Readable (poll) when accept() has something to do. */
	int (*listener_fd)(const struct listener *listener);
	/* Takes a waiting primary. -EAGAIN when there is none. */
	int (*accept)(struct listener *listener, struct connection **out);
	void (*listener_close)(struct listener *listener);

	/* Primary: connects to a standby, blocking for at most `timeout_ms`. */
	int (*connect)(const char *where, unsigned timeout_ms, struct connection **out);

	/* Reliable messages in order, both ways, at most MESSAGE_MAX bytes. Control thread; recv blocks.
	 * -ETIMEDOUT, or -ECONNRESET once the peer is gone or does not follow the protocol. recv returns
	 * the length through `length`; after -ETIMEDOUT call it again, nothing is lost. send waits some
	 * seconds for a peer that does not read, then breaks the connection. */
	int (*send)(struct connection *c, const void *message, size_t length);
	int (*recv)(struct connection *c, void *message, size_t capacity, size_t *length,
		unsigned timeout_ms);
	/* Readable when a message is there or the peer is gone (then recv says which). -1: none. */
	int (*fd)(const struct connection *c);

	/* Standby: gives the peer one-sided write access to a new ring of `ring_size` bytes (a power of
	 * two, at least LOG_RING_MIN) and to the guest's memory, `memory` being a memfd of `memory_size` bytes.
	 * Primary: takes that access, and gives the standby access to its ack block. Both block, for some
	 * seconds at most. A memfd that is shared must not be able to shrink (F_SEAL_SHRINK): a peer's
	 * death is survived, the loss of memory that is in use would not be. `secret` is the session's,
	 * which the acks' check words depend on. Once per connection; close after an error. */
	int (*expose)(struct connection *c, size_t ring_size, int memory, size_t memory_size,
		uint64_t secret);
	int (*attach)(struct connection *c, size_t ring_size, size_t memory_size, uint64_t secret);

	/* Primary, control thread: memory that write_log will be given pieces of: the staging ring, the
	 * packet pool. A provider whose device reads it by itself pins it, others have nothing to do.
	 * After attach, before the first such piece; the memory must live until close. -ENOMEM names
	 * the locked-memory limit and the need. */
	int (*register_source)(struct connection *c, void *base, size_t size);

	/* Primary, control thread: writes into the standby's guest memory; withdraw_memory ends that,
	 * from either side, before replay begins. `bytes` may change once write has returned, which
	 * may wait some seconds for earlier writes. finish waits until all bulk writes are placed. */
	int (*write_memory)(
		struct connection *c, uint64_t offset, const void *bytes, size_t length);
	int (*finish_memory)(struct connection *c, unsigned timeout_ms);
	void (*withdraw_memory)(struct connection *c);

	/* Primary, log thread: places bytes into the ring at offset lsn % ring size, splitting at its end.
	 * The first call may begin at any LSN, each further one begins where the last has ended.
	 * Asynchronous: what the vector points to stays unchanged until written() has passed it.
	 * -ECONNRESET once fenced or broken (that is, once send or recv have found the peer gone).
	 * -EAGAIN, without a message: thousands of pieces that are not neighbours wait for room in the
	 * device's queue; nothing was taken, ask again. No allocation, and no system call but to wake a
	 * peer that sleeps or, where the device's driver makes one, to post. written(): any thread. */
	int (*write_log)(struct connection *c, uint64_t lsn, const struct iovec *pieces, int count);
	uint64_t (*written)(struct connection *c);

	/* Primary: asks that written() stand for the commit level `placed`: what it has passed lies in
	 * the standby's memory, and the bell rings when it moves. -EOPNOTSUPP, with the reason, where
	 * a finished write promises less than that. Control thread, after attach. NULL: never here. */
	int (*placed)(struct connection *c);

	/* Standby, log thread: sets one counter of the peer's ack block and rings its bell. */
	int (*write_ack)(struct connection *c, enum ack_counter counter, uint64_t value);

	/* Standby: the ring, mapped twice in a row so that an entry is never split. Primary: its ack
	 * block. Both live until close; NULL before expose or attach. */
	const uint8_t *(*ring)(const struct connection *c);
	const struct ack_block *(*acks)(const struct connection *c);

	/* The bell that rings when something has arrived: log bytes on the standby, acks on the primary.
	 * It lives as long as they do. May the peer ring as it likes, a needless wake is all it causes.
	 * A provider that cannot ring it says so by never doing so; sleeps on it are bounded anyway. */
	struct bell *(*bell)(struct connection *c);

	/* Ends the traffic: nothing that is written afterwards reaches the peer, acks least of all (L4, A3),
	 * and the peer sees the connection gone. What was on the network before may still arrive; such
	 * an ack tells of what we have and keep. Memory stays readable until close. Any thread, any number
	 * of times. close: control thread, when no other thread uses the connection any more. */
	void (*fence)(struct connection *c);
	void (*close)(struct connection *c);
};

/* Finds the provider of "scheme:rest" and sets `where` to the rest; -EINVAL names the known ones, or says
 * what the rest may be, and -ENODEV what this host lacks. */
int provider_find(const char *address, const struct provider **out, const char **where) MUST_CHECK;

/* Before the first connection: for how long a peer may be silent (heartbeats decide that) before the network
 * beneath gives it up by itself; 500 ms if never said. For rdma:, whose queue pairs would else be of another
 * opinion than the heartbeats of slow hosts. */
void provider_set_silence(unsigned ms);

/* For providers: -EINVAL says what a ring's size may be. */
int provider_check_ring(size_t ring_size) MUST_CHECK;

/* The providers there are; provider.c lists them. */
extern const struct provider provider_shm;
extern const struct provider provider_verbs;
extern const struct provider provider_tcp;
extern const struct provider provider_link;

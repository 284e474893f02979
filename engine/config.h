/* What a person asks for: the command line of each command, checked and turned into values. */
#pragma once

#include "base/fail.h"
#include <stdbool.h>
#include <stdint.h>

/* Exit statuses of every command; --help lists them, in this order. */
enum exit_status {
	STATUS_OK,   /* ended in order */
	STATUS_HOST, /* the host failed: KVM, a permission, memory, a file, the network */
	STATUS_USAGE, /* bad option, argument, file name or kernel, or an address in use; nothing was started */
	STATUS_DIFFERS,   /* a replay or a backup diverged from its log */
	STATUS_RECORDING, /* not a recording, damaged, or cut short */
	STATUS_DEPOSED,   /* another process holds the VM's generation: this one has halted */
	STATUS_REFUSED,   /* the VM has run before, or the peer does not fit: nothing was started */
	STATUS_GUEST, /* the guest ended badly: triple fault, halt with interrupts off, power-off value not 0 */
	STATUS_NONE, /* no process runs that VM here */
};

#define MEMORY_DEFAULT (256u << 20) /* bytes of guest memory */
#define LAG_DEFAULT_MS 100u         /* the lag of a backup that slows nobody */

/* What an output of a protected guest waits for: the backup has ... all that led to it. */
enum commit_level {
	COMMIT_PLACED, /* in its memory; its processor has no part in that, and may not have seen it */
	COMMIT_RECEIVED, /* checked */
	COMMIT_DURABLE,  /* in its durable log */
	COMMIT_REPLAYED, /* executed, with equal digests */
	COMMIT_LEVELS
};

extern const char *const commit_names[COMMIT_LEVELS];

enum command {
	COMMAND_RUN,
	COMMAND_STANDBY,
	COMMAND_PRIMARY,
	COMMAND_REPLAY,
	COMMAND_DUMP,
	COMMAND_STATUS,
	COMMAND_STOP,
	COMMANDS
};

struct config {
	enum command command;
	const char *name; /* of the VM */
	const char *kernel, *initrd, *append, *net, *console, *record, *file;
	const char *standby; /* address of the standby to protect with */
	const char *listen;  /* address to wait at */
	const char *arbiter;
	const char *heartbeat; /* local address for heartbeats */
	uint64_t memory;       /* bytes; 0: not given */
	uint64_t ring;         /* bytes of log */
	/* Where a replay stops; the one that is not given is UINT64_MAX. */
	bool has_until;
	uint64_t until_lsn, until_ns;
	const char *key; /* file of the VM's key */
	enum commit_level commit;
	const char *log;            /* the durable log's file, on a standby */
	uint64_t log_size;          /* bytes, a multiple of 4,096 */
	bool log_newest;            /* a full log drops its oldest entries */
	bool log_described;         /* --log-size or --log-keep was given */
	unsigned timeout_ms;        /* heartbeats */
	unsigned lag_ms;            /* a backup that is further behind slows its primary's guest */
	unsigned interrupt_wait_ms; /* until a resync */
	bool end_diverged;
	bool take_over, json, progress;
	uint8_t mac[6];
};

/* Parses the arguments behind the command's name. Prints help or the mistake by itself and returns an
 * exit status, or -1 to go on. */
int config_parse(struct config *config, int argc, char **argv);

/* Prints what `doppel --help` says. */
void config_usage(void);

/* Prints the last failure as the command's error, and returns the exit status that its errno means. */
int command_failed(int error);

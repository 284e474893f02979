/*
 * The host: everything around one machine in one process, put together and taken apart in one place.
 *
 * Threads: the control thread (the event loop: this file and the roles), the vCPU thread (machine.c),
 * the dataplane thread, and on a backup the receiver and, with --log, the log thread; a connection may have
 * one of its own. The control thread reaches into the others only by machine_call and dataplane_call; they
 * reach it by host_wake.
 */
#pragma once

#include "dataplane/dataplane.h"
#include "engine/config.h"
#include "engine/console.h"
#include "engine/control.h"
#include "engine/live.h"
#include "engine/machine.h"

#include <event2/event.h>
#include <jansson.h>

/* What outputs of one session wait for; used on the dataplane thread. */
struct commit {
	uint32_t session; /* SESSION_ALONE: there is none */
	uint64_t (*reached)(void *context, enum output_device device);
	void *context;
};

/* What a command does when something happens; all on the control thread. */
struct host_events {
	void (*woken)(void *context); /* somebody called host_wake */
	void (*leave)(void *context); /* SIGTERM or SIGINT: this process should end in order */
	void (*stop)(void *context);  /* `doppel stop`: the VM should end in order */
	void (*status)(void *context, json_t *status); /* adds to what host_status knows */
	void *context;
};

struct host {
	const struct config *config;
	struct host_events events;
	struct event_base *base;
	struct event *on_term, *on_int, *on_wake;
	struct control *control;
	struct console *console;
	struct port *port;
	struct dataplane *dataplane;
	struct hold *hold[OUTPUT_DEVICES];
	struct commit commit; /* the dataplane thread's */
	struct live live;
	struct machine machine;
	bool has_machine;
	_Atomic bool bell_ready; /* the machine may be woken */
};

/* Opens what needs no machine: console, port, holds, control socket, the dataplane (not live). */
int host_open(struct host *host, const struct config *config,
	const struct host_events *events) MUST_CHECK;
/* Makes the machine, with empty memory, and joins it to the rest. */
int host_make_machine(struct host *host, uint64_t memory, const uint8_t mac[6]) MUST_CHECK;
/* Makes it with what the command line names: memory, kernel, initrd; ready to be started. */
int host_boot(struct host *host) MUST_CHECK;
/* Takes a machine apart that has not been started. */
void host_drop_machine(struct host *host);
/* Starts its thread; `woken` is called when it has ended. */
int host_start_machine(struct host *host) MUST_CHECK;
/* Stops and closes everything, in reverse order. */
void host_close(struct host *host);

/* Any thread, any time: `woken` will be called on the control thread. */
void host_wake(struct host *host);

/* Control thread. */
void host_set_commit(struct host *host, const struct commit *commit, struct bell *bell);
void host_set_live(struct host *host, bool live);
void host_decide(struct host *host, uint32_t session); /* hold_decide, for every hold */
void host_forget_outputs(struct host *host); /* hold_clear, for every hold; no machine runs */
void host_announce(struct host *host);                 /* tells the network where the guest is */
/* Waits until nothing is held any more, for at most `longest_ms`. False: something is left. */
bool host_drain(struct host *host, unsigned longest_ms);

/* The exit status that fits the machine's verdict; says why on standard error if it is not in order. */
int host_verdict(const struct host *host);

/*
 * The client's work: ADDs with ids of their own, a GET or a TIME among them now and then, each sent
 * again until it is answered; what was asked and answered goes into a history.
 *
 * An answer to an ADD names its id. Answers to GET and TIME name nothing, and a guest that has
 * changed hosts may send an answer twice: so each of them is asked from a port of its own, which is
 * not used again for a long time.
 */
#pragma once

#include "tests/client/history.h"

#include <netinet/in.h>

struct load_options {
	struct sockaddr_in server;
	double rate;       /* ADDs a second; 0: always `window` without an answer */
	double seconds;    /* of sending */
	double wait;       /* seconds to wait for the guest's first answer */
	double deadline;   /* seconds to wait for answers after the last sending */
	unsigned window;   /* the most ADDs without an answer */
	unsigned every;    /* ADDs for each GET or TIME, 0: none */
	unsigned retry_ms; /* the least time before a request is repeated */
	bool shared;       /* other clients use the same ledger */
	bool progress;     /* a line to standard error each second */
};

struct load_result {
	uint64_t repeated;       /* requests sent again because no answer had come in time */
	uint64_t duplicates;     /* answers to what had been answered before */
	uint64_t skipped;        /* queries not asked because too many had no answer */
	uint64_t longest_gap_ns; /* in which requests were waiting and no answer came */
	uint64_t sending_ns;     /* how long requests were made */
	/* For each kill in the history: until the next answer, 0 when none came. */
	uint64_t pauses[HISTORY_KILLS];
};

/* SIGUSR1 says that the guest's host has just been killed: it starts a pause. SIGTERM and SIGINT
 * end the sending early; what is outstanding is still waited for. -ETIMEDOUT when the guest never
 * answered, with nothing in the history; otherwise 0, whatever the history holds. */
int load_run(
	const struct load_options *options, struct history *history, struct load_result *result);

/* Sends one datagram until it is answered; the answer is ended with 0. 0 or a negative errno. */
int load_ask(const struct sockaddr_in *server, const char *request, double wait, char *answer,
	size_t room);

/*
 * What one client asked a ledger guest, what it was answered, and when: in memory and as a file.
 *
 * The file form is text, one line a request in the order of sending, times in nanoseconds since the
 * start of the run, "-" where no answer came:
 *
 *   base TOTAL COUNT                  what the ledger held before the run
 *   add ID AMOUNT SENT ANSWERED TOTAL SENDS [OTHER]    OTHER: a different total, answered later
 *   get SENT ANSWERED TOTAL COUNT SENDS
 *   time SENT ANSWERED NANOSECONDS SENDS
 *   kill AT                           the client was told of a kill
 *   odd TEXT                          a datagram that answers nothing that was asked
 *   final TOTAL COUNT                 what the ledger held in the end
 *   shared                            other clients were at work on the same ledger
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum request_kind { REQUEST_ADD, REQUEST_GET, REQUEST_TIME };

struct request {
	enum request_kind kind;
	bool answered;
	bool contradicted; /* a later answer gave `other` as the total */
	uint32_t sends;
	uint32_t answers;
	uint64_t id, amount;  /* of an ADD */
	uint64_t sent_ns;     /* read before the first sending */
	uint64_t answered_ns; /* read after the first answer was received */
	uint64_t value;       /* ADD, GET: the total; TIME: the guest's clock */
	uint64_t count;       /* of a GET */
	uint64_t other;
};

struct request_list {
	struct request *all;
	size_t count, room;
};

struct ledger_state {
	bool known;
	uint64_t total, count;
};

#define HISTORY_KILLS 1024
#define HISTORY_ODD 16

struct history {
	struct request_list adds;    /* in the order of sending */
	struct request_list queries; /* GET and TIME, in the order of sending */
	struct ledger_state base, final;
	bool shared;
	uint64_t start_ns; /* of the run: zero of the file's times */
	uint64_t kills[HISTORY_KILLS];
	size_t kill_count;
	char odd[HISTORY_ODD][80];
	uint64_t odd_count; /* may be more than were kept */
};

/* A new request at the end of the list; the pointer is good until the next one. Ends the process
 * when there is no memory: a test without its history proves nothing. */
struct request *request_append(struct request_list *list);

void history_add_odd(struct history *history, const char *text, size_t length);

/* 0 or a negative errno. A line that history_read does not know is -EINVAL, and *line its number.
 */
int history_write(const struct history *history, FILE *file);
int history_read(struct history *history, FILE *file, unsigned *line);

void history_free(struct history *history);

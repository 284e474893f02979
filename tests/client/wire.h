/*
 * The ledger's protocol and the sockets it is spoken over: one UDP datagram a request or answer,
 * text with a newline at the end.
 */
#pragma once

#include "tests/client/history.h"

#include <netinet/in.h>

#define WIRE_MOST 1500 /* bytes of an answer that are looked at */

struct answer {
	enum request_kind kind;
	uint64_t id;    /* of an ADD */
	uint64_t value; /* the total, or the clock */
	uint64_t count; /* of a GET */
};

/* "ADDRESS:PORT" with an IPv4 address in numbers. 0 or -EINVAL. */
int wire_address(struct sockaddr_in *address, const char *text);

/* A socket connected to the server, from any free port; or from the next of a long row of ports,
 * each of which comes up again only after all the others. A descriptor or a negative errno. */
int wire_open(const struct sockaddr_in *server);
int wire_open_fresh(const struct sockaddr_in *server);

/* That a datagram could not be sent is no error here: it is as good as lost on the way. */
void wire_send(int fd, const char *text, size_t length);
void wire_send_request(int fd, const struct request *request);

/* The next datagram that is there, ended with 0: its length, or -1 when there is none. */
int wire_receive(int fd, char text[WIRE_MOST + 1]);

/* False when the text is no answer to an ADD, a GET or a TIME. */
bool wire_parse(struct answer *answer, const char *text);

uint64_t wire_now_ns(void); /* CLOCK_MONOTONIC */

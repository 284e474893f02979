/*
 * Sockets for provider_tcp.c: addresses of the form HOST:PORT, with an IPv6 address in brackets,
 * and how the two sides meet. All are non-blocking and close when a program is executed.
 *
 * A connected socket sends at once (TCP_NODELAY). A peer that vanishes without a word is noticed
 * within some TCP_SILENCE_MS: an idle one by keepalive probes, another by the time its
 * acknowledgements are due, and so is one that reads nothing for so long. Once heartbeats watch it, they
 * decide (A2), and may have been told to bear with more than that: tcp_be_patient leaves it to them.
 */
#pragma once

#include "base/fail.h"

#define TCP_SILENCE_MS 4000u
#define TCP_PATIENCE_MS 300000u

/* These return a socket or a negative errno. HOST may be a name, and looking it up may block. */
int tcp_listen(const char *where) MUST_CHECK;
int tcp_accept(int listener, const char *where) MUST_CHECK; /* -EAGAIN: nobody is waiting */
int tcp_connect(const char *where, unsigned timeout_ms) MUST_CHECK;

/* From here on it takes TCP_PATIENCE_MS, for the sake of what the kernel keeps. */
void tcp_be_patient(int fd);

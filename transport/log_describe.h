/* Entries in words: one line of text each, without a newline, for dump and for messages. */
#pragma once

#include "transport/log_format.h"

#define LOG_NO_TIME UINT64_MAX
#define LOG_TIME_TEXT 24u

/*
 *     lsn=4096 pos=1234 time=3.000000 TICK len=16 digest=00008fa3: the PIT has ticked 2 times
 *
 * `time_ns` is the guest's time, which only some entries tell: the newest that the log has told up to
 * this one; "-" as long as it has told none (LOG_NO_TIME). Payloads are made by guests and clients; what is unprintable in them is escaped.
 */
void log_describe(const struct log_entry *entry, uint64_t time_ns, char *text, size_t size);

/* A guest's time in seconds. Returns `text`. */
const char *log_time(uint64_t time_ns, char text[LOG_TIME_TEXT]);

/* Whether the entry tells the guest's time, which it then puts into `time_ns`. */
bool log_tells_time(const struct log_entry *entry, uint64_t *time_ns);

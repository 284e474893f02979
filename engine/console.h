/*
 * The outside end of the guest's serial console: this terminal (-) or a Unix socket (unix:PATH).
 *
 * Output comes on the dataplane thread, after the hold; input on the control thread's event loop.
 * Nobody reading is not an error: what nobody reads is thrown away. A reader of the socket who does
 * not keep up is disconnected; a terminal that stops (Ctrl-S) makes the guest's serial line wait.
 */
#pragma once

#include "base/fail.h"

#include <stddef.h>
#include <stdint.h>

struct console;
struct event_base;

/* `input` is called on the event loop with what a person typed; returns how much was taken, the rest
 * is lost as on a serial line. `where` is "-", "unix:PATH" or NULL for none. */
int console_open(struct console **out, const char *where, struct event_base *base,
	size_t (*input)(void *context, const uint8_t *bytes, size_t count),
	void *context) MUST_CHECK;

/* Dataplane thread. Returns how many bytes are done with; 0: later. */
size_t console_write(struct console *console, const void *bytes, size_t length);

/* Control thread, when the dataplane has stopped. Restores the terminal, removes the socket. */
void console_close(struct console *console);

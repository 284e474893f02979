/*
 * HOST:PORT, the part behind the scheme of the addresses of providers that have a network; an IPv6
 * host stands in brackets. Every message names the whole address.
 */
#pragma once

#include "base/fail.h"

#include <netdb.h>
#include <stdbool.h>

#define HOST_PORT_MAX 128u /* of the text, with its end */

/* -EINVAL when it is no such thing. Asks nobody. */
int host_port_check(const char *scheme, const char *where) MUST_CHECK;

/* Looks up stream addresses, to listen on if `passive`; freeaddrinfo is the caller's. -EHOSTUNREACH:
 * nobody knows the host. May wait for a name server. */
int host_port_look_up(
	const char *scheme, const char *where, bool passive, struct addrinfo **out) MUST_CHECK;

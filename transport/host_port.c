#include "transport/host_port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Puts the host, without brackets, into `host` and returns the port's text; NULL if there are none. */
static const char *split(const char *where, char host[HOST_PORT_MAX])
{
	const char *from = where, *colon = strrchr(where, ':');
	size_t length = colon ? (size_t)(colon - where) : 0;
	if (length >= 2 && where[0] == '[' && where[length - 1] == ']') {
		from++;
		length -= 2;
	} else if (memchr(where, ':', length)) {
		return NULL;
	}
	if (length == 0 || strlen(where) >= HOST_PORT_MAX || colon[1] < '0' || colon[1] > '9')
		return NULL;
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (*end != '\0' || port < 1 || port > 65535)
		return NULL;
	memcpy(host, from, length);
	host[length] = '\0';
	if (strpbrk(host, "[]"))
		return NULL;
	return colon + 1;
}

int host_port_check(const char *scheme, const char *where)
{
	char host[HOST_PORT_MAX];
	if (split(where, host))
		return 0;
	return fail(EINVAL,
		"address %s:%s: give %s:HOST:PORT, for IPv6 %s:[HOST]:PORT, with a port from 1 to "
		"65535",
		scheme, where, scheme, scheme);
}

int host_port_look_up(const char *scheme, const char *where, bool passive, struct addrinfo **out)
{
	char host[HOST_PORT_MAX];
	int error = host_port_check(scheme, where);
	if (error)
		return error;
	const char *port = split(where, host);
	const struct addrinfo hints = {.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM};
	error = getaddrinfo(host, port, &hints, out);
	if (error)
		return fail(error == EAI_MEMORY ? ENOMEM : EHOSTUNREACH,
			"address %s:%s: the host cannot be looked up: %s", scheme, where,
			error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
	return 0;
}

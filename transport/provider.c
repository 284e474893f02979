#include "transport/transport.h"

#include "transport/verbs_link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct provider *const providers[] = {
	&provider_shm, &provider_verbs, &provider_tcp, &provider_link};

#define PROVIDERS (sizeof providers / sizeof providers[0])

int provider_find(const char *address, const struct provider **out, const char **where)
{
	const char *colon = strchr(address, ':');
	size_t length = colon ? (size_t)(colon - address) : 0;
	for (size_t i = 0; i < PROVIDERS; i++) {
		if (length == strlen(providers[i]->scheme) &&
			strncmp(address, providers[i]->scheme, length) == 0) {
			*out = providers[i];
			*where = colon + 1;
			return providers[i]->check(*where);
		}
	}
	char known[64] = "";
	for (size_t i = 0; i < PROVIDERS; i++)
		snprintf(known + strlen(known), sizeof known - strlen(known),
			"%s%s:", i ? ", " : "", providers[i]->scheme);
	return fail(
		EINVAL, "address %s: no transport goes by that name; known are %s", address, known);
}

void provider_set_silence(unsigned ms)
{
	verbs_link_set_silence(ms);
}

int provider_check_ring(size_t ring_size)
{
	if (ring_size < LOG_RING_MIN || (ring_size & (ring_size - 1)) != 0)
		return fail(EINVAL,
			"a log ring of %zu bytes: it must be a power of two, %u at least",
			ring_size, LOG_RING_MIN);
	return 0;
}

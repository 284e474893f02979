/*
 * What the verbs provider asks of a host and its RDMA devices: addresses, memory they may reach,
 * and words for what goes wrong. For the files of the provider alone.
 */
#pragma once

#include "transport/host_port.h"

#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#define VERBS_WHERE_MAX HOST_PORT_MAX

/* HOST:PORT, or [HOST]:PORT for IPv6. Asks the resolver, which may take its time. */
int verbs_device_address(const char *where, bool passive, struct sockaddr_storage *out) MUST_CHECK;

/* -ENODEV, as below, when this host has no RDMA device at all. */
int verbs_device_check(const char *where) MUST_CHECK;

/* What it means that librdmacm refused to do `what` for `where` with `error`: a message that names
 * what was looked for and what there is. Returns -error. */
int verbs_device_refused(const char *where, const char *what, int error) MUST_CHECK;

/*
 * Pins memory and lets the device reach it; `access` as in ibv_reg_mr. The region covers exactly
 * `size` bytes. Relaxed ordering is never asked for: the ring's reader needs no order, the order of
 * writes and of the messages behind them does. -ENOMEM names the locked-memory limit and the need.
 */
int verbs_device_register(struct ibv_mr **out, struct ibv_pd *pd, void *base, size_t size,
	int access, const char *what) MUST_CHECK;

/* Takes it away from the device and from every peer; NULL is fine, and what `*mr` becomes. */
void verbs_device_release(struct ibv_mr **mr);

#include "transport/verbs_device.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CM_DEVICE "/dev/infiniband/rdma_cm"

int verbs_device_address(const char *where, bool passive, struct sockaddr_storage *out)
{
	struct addrinfo *found;
	int error = host_port_look_up("rdma", where, passive, &found);
	if (error)
		return error;
	memset(out, 0, sizeof *out);
	memcpy(out, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

/* ---- Devices ---- */

/* Their names, or "none". */
static void list_devices(char *text, size_t size)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	snprintf(text, size, "none");
	for (int i = 0; devices && i < count; i++) {
		size_t used = i ? strlen(text) : 0;
		snprintf(text + used, size - used, "%s%s", i ? " " : "",
			ibv_get_device_name(devices[i]));
	}
	if (devices)
		ibv_free_device_list(devices);
}

int verbs_device_refused(const char *where, const char *what, int error)
{
	char devices[128];
	list_devices(devices, sizeof devices);
	bool none = strcmp(devices, "none") == 0;
	if (error == EADDRINUSE)
		return fail(error,
			"address rdma:%s is in use: another standby waits there; stop it or choose "
			"another port",
			where);
	if (error == EADDRNOTAVAIL)
		return fail(error, "address rdma:%s is not one of this host's", where);
	if ((error == EACCES || error == EPERM) && access(CM_DEVICE, R_OK | W_OK) != 0)
		return fail(error, "cannot %s rdma:%s: no permission for %s; run as root", what,
			where, CM_DEVICE);
	if (none || access(CM_DEVICE, F_OK) != 0)
		return fail(error,
			"cannot %s rdma:%s: this host has no RDMA: looked for %s (%s) and for "
			"devices (%s); load the driver, or make a soft-RoCE device with 'rdma link "
			"add rxe0 type rxe netdev IF', or use tcp:%s",
			what, where, CM_DEVICE, access(CM_DEVICE, F_OK) == 0 ? "there" : "missing",
			devices, where);
	if (error == ENODEV)
		return fail(error,
			"cannot %s rdma:%s: none of this host's RDMA devices (%s) has or reaches "
			"that "
			"address; choose one of theirs, or use tcp:%s",
			what, where, devices, where);
	return fail(error, "cannot %s rdma:%s: %s (RDMA devices: %s)", what, where, strerror(error),
		devices);
}

int verbs_device_check(const char *where)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	if (devices)
		ibv_free_device_list(devices);
	return count > 0 ? 0 : verbs_device_refused(where, "use", ENODEV);
}

/* ---- Memory ---- */

static _Atomic size_t pinned; /* by this process, through us */

static int not_registered(const char *what, size_t size, int error)
{
	struct rlimit limit;
	size_t need = atomic_load(&pinned) + size;
	if (error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && need > limit.rlim_cur)
		return fail(ENOMEM,
			"cannot pin the %s: the locked-memory limit is %llu KiB and %zu KiB are "
			"needed; raise it with 'ulimit -l' or LimitMEMLOCK=, or run as root",
			what, (unsigned long long)(limit.rlim_cur >> 10), (need + 1023) >> 10);
	if (error == EFAULT)
		return fail(EFAULT,
			"cannot pin the %s: a file system's pages cannot be; it must be a memfd or "
			"huge pages",
			what);
	return fail(error, "the RDMA device does not take the %s of %zu KiB: %s", what,
		(size + 1023) >> 10, strerror(error));
}

int verbs_device_register(struct ibv_mr **out, struct ibv_pd *pd, void *base, size_t size,
	int access, const char *what)
{
	errno = 0;
	struct ibv_mr *mr = ibv_reg_mr(pd, base, size, (unsigned)access);
	if (!mr)
		return not_registered(what, size, errno ? errno : ENOMEM);
	atomic_fetch_add(&pinned, size);
	*out = mr;
	return 0;
}

void verbs_device_release(struct ibv_mr **mr)
{
	if (!*mr)
		return;
	size_t size = (*mr)->length;
	/* It fails when the device is gone, and then there is nothing left that could write. */
	(void)!ibv_dereg_mr(*mr);
	atomic_fetch_sub(&pinned, size);
	*mr = NULL;
}

#include "transport/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int memfd_make(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fail(errno, "cannot make a memfd for the %s: %s", name, strerror(errno));
	int error = 0;
	if (ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		error = fail(
			errno, "cannot give the %s %zu bytes: %s", name, size, strerror(errno));
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

int memfd_check(int fd, size_t size, const char *what)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || fstat(fd, &st) < 0)
		return fail(EPROTO, "the %s is not a memfd", what);
	if (!(seals & F_SEAL_SHRINK))
		return fail(
			EPROTO, "the memfd of the %s could shrink: it lacks F_SEAL_SHRINK", what);
	if (st.st_size < 0 || (uint64_t)st.st_size < size)
		return fail(EPROTO, "the memfd of the %s has %lld bytes where %zu are needed", what,
			(long long)st.st_size, size);
	return 0;
}

int memfd_map(void **out, int fd, size_t size, int protection, bool twice)
{
	size_t whole = twice ? 2 * size : size;
	if (whole < size)
		return fail(ENOMEM, "cannot map %zu bytes twice", size);
	/* The range is reserved first, so that the two halves are sure to be neighbours. */
	uint8_t *base =
		mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return fail(
			errno, "cannot reserve %zu bytes of addresses: %s", whole, strerror(errno));
	for (size_t at = 0; at < whole; at += size) {
		if (mmap(base + at, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) ==
			MAP_FAILED) {
			int error = fail(errno, "cannot map %zu bytes of a memfd: %s", size,
				strerror(errno));
			munmap(base, whole);
			return error;
		}
	}
	*out = base;
	return 0;
}

int memfd_ring(void **out, const char *name, size_t size)
{
	int fd = memfd_make(name, size);
	if (fd < 0)
		return fd;
	int error = memfd_map(out, fd, size, PROT_READ | PROT_WRITE, true);
	close(fd);
	return error;
}

void memfd_unmap(void *base, size_t size, bool twice)
{
	if (base)
		munmap(base, twice ? 2 * size : size);
}

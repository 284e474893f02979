#include "engine/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u

int memory_create(struct guest_memory *memory, uint64_t size)
{
	if (size < GUEST_MEMORY_MIN || size > GUEST_MEMORY_MAX || size % PAGE != 0)
		return fail(EINVAL,
			"a guest cannot have %llu bytes of memory: give 1M to 3G, a multiple of 4K",
			(unsigned long long)size);
	/* A memfd, so that a provider can let a peer write it; sealed, so that nobody can shrink it
	 * under a mapping. */
	int fd = memfd_create("doppel-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fail(errno, "cannot make a memory file for the guest: %s", strerror(errno));
	int error;
	uint8_t *seen = calloc(size / PAGE / 8 + 1, 1);
	if (!seen)
		goto close_fd;
	if (ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto close_fd;
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED)
		goto close_fd;
	*memory = (struct guest_memory){.base = base, .size = size, .fd = fd, .seen = seen};
	return 0;

close_fd:
	error = errno;
	free(seen);
	close(fd);
	return fail(error,
		"cannot get %llu MiB of memory for the guest: %s; give it less with --memory",
		(unsigned long long)(size >> 20), strerror(error));
}

bool memory_touched(const struct guest_memory *memory, uint64_t at, uint64_t *from, uint64_t *end)
{
	off_t data = at < memory->size ? lseek(memory->fd, (off_t)at, SEEK_DATA) : -1;
	if (data < 0 && (at >= memory->size || errno == ENXIO))
		return false;
	if (data < 0) /* it cannot be told: perhaps all */
		data = (off_t)at;
	off_t hole = lseek(memory->fd, data, SEEK_HOLE);
	*from = (uint64_t)data;
	*end = hole < 0 ? memory->size : (uint64_t)hole;
	return true;
}

bool memory_is_touched(const struct guest_memory *memory, uint64_t at)
{
	uint64_t page = at / PAGE;
	uint8_t *seen = &memory->seen[page / 8], bit = (uint8_t)(1u << page % 8);
	if (!(*seen & bit)) {
		off_t data = lseek(memory->fd, (off_t)(page * PAGE), SEEK_DATA);
		/* Another error than that there is none: it cannot be told. */
		if (data == (off_t)(page * PAGE) || (data < 0 && errno != ENXIO))
			*seen |= bit;
	}
	return *seen & bit;
}

void memory_destroy(struct guest_memory *memory)
{
	if (!memory->base)
		return;
	munmap(memory->base, memory->size);
	free(memory->seen);
	close(memory->fd);
	*memory = (struct guest_memory){.fd = -1};
}

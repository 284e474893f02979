#include "tests/user_kvm/memory.h"

#include "engine/vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u

static struct kvm_userspace_memory_region region;
static uint8_t *base;     /* the engine's mapping of it */
static uint64_t *changed; /* a bit for each page */
static bool is_watched;   /* see watch_writes */

static bool is_tracked(void)
{
	return region.flags & KVM_MEM_LOG_DIRTY_PAGES;
}

static void note_change(uint64_t at)
{
	uint64_t page = at / PAGE;
	if (is_tracked())
		changed[page / 64] |= 1ull << page % 64;
}

/* Page 0 stays out of reach, of us as of the guest. */
static int protect(int mode)
{
	return mprotect((void *)(uintptr_t)PAGE, region.memory_size - PAGE, PROT_READ | PROT_EXEC | mode);
}

/* What Debian 12's headers do not have yet: Linux 6.7 tells which pages were written to (PAGEMAP_SCAN). */
#define WRITE_PROTECTS_ALONE ((1ull << 12) | (1ull << 15)) /* shared memory too, and without asking us */
struct scan {
	uint64_t size, flags, start, end, next, regions, count, most, inverted, mask, any, wanted;
};
struct written {
	uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
#define SCAN_PROTECT 3u /* again what was written to, and only where that is possible */
#define WRITTEN 2u

static int pagemap = -1; /* once watch_writes has found that there is one */

/* Lets the kernel note what the guest writes to. False: it cannot, and each first write to a page is a signal. */
static bool watch_writes(void)
{
	static int watcher = -1;
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | WRITE_PROTECTS_ALONE};
	struct uffdio_register range = {
		.range = {.start = PAGE, .len = region.memory_size - PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	if (watcher < 0) {
		watcher = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		if (watcher < 0 || ioctl(watcher, UFFDIO_API, &api))
			return false;
		pagemap = openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	}
	return pagemap >= 0 && ioctl(watcher, UFFDIO_REGISTER, &range) == 0;
}

/* Notes what was written to since the last time. */
static int scan_writes(void)
{
	struct written regions[256];
	struct scan scan = {.size = sizeof scan,
		.flags = SCAN_PROTECT,
		.start = PAGE,
		.end = region.memory_size,
		.regions = (uintptr_t)regions,
		.count = sizeof regions / sizeof regions[0],
		.mask = WRITTEN,
		.wanted = WRITTEN};
	for (; scan.start < scan.end; scan.start = scan.next) {
		int found = ioctl(pagemap, SCAN, &scan);
		if (found < 0)
			return -1;
		for (int i = 0; i < found; i++)
			for (uint64_t at = regions[i].start; at < regions[i].end; at += PAGE)
				note_change(at);
	}
	return 0;
}

static size_t changed_size(void)
{
	return vcpu_words(region.memory_size) * sizeof *changed;
}

int memory_tell_changes(const struct kvm_dirty_log *log)
{
	if (is_watched && scan_writes())
		return -1;
	memcpy(log->dirty_bitmap, changed, changed_size());
	memset(changed, 0, changed_size());
	return is_watched ? 0 : protect(0);
}

static int track(void)
{
	is_watched = is_tracked() && watch_writes();
	int error = protect(is_tracked() && !is_watched ? 0 : PROT_WRITE);
	if (!error && is_watched)
		error = scan_writes();
	memset(changed, 0, changed_size());
	return error;
}

int memory_place(const struct kvm_userspace_memory_region *wanted)
{
	bool is_same = base && wanted->memory_size == region.memory_size;
	if (base && !is_same) {
		munmap((void *)(uintptr_t)PAGE, region.memory_size - PAGE);
		free(changed);
		base = NULL;
		changed = NULL;
	}
	region = *wanted;
	if (region.memory_size == 0)
		return 0;
	uint8_t *engines = (uint8_t *)(uintptr_t)region.userspace_addr;
	/* A second mapping of the same pages. */
	if (!is_same && mremap(engines + PAGE, 0, region.memory_size - PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
				(void *)(uintptr_t)PAGE) == MAP_FAILED) {
		fprintf(stderr, "user_kvm: the guest's memory cannot lie at address %u: %s; see vm.mmap_min_addr\n", PAGE,
			strerror(errno));
		return -1;
	}
	base = engines;
	if (!changed)
		changed = calloc(1, changed_size());
	return track();
}

const void *memory_at(uint64_t at, uint64_t size)
{
	bool is_there = at >= PAGE && at < region.memory_size && size <= region.memory_size - at;
	return is_there ? base + at : NULL;
}

uint64_t memory_read(uint64_t at, uint32_t size)
{
	uint64_t value = 0;
	const void *from = memory_at(at, size);
	if (from)
		memcpy(&value, from, size);
	return value;
}

void memory_write(uint64_t at, uint64_t value)
{
	if (!memory_at(at, sizeof value))
		return;
	memcpy(base + at, &value, sizeof value);
	note_change(at);
}

bool memory_is_protected(uint64_t at)
{
	return is_tracked() && !is_watched && memory_at(at, 1);
}

int memory_unprotect(uint64_t at)
{
	note_change(at);
	return mprotect((void *)(uintptr_t)(at & ~(uint64_t)(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

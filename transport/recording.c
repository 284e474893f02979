#include "transport/recording.h"

#include "base/check.h"
#include "transport/checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u

struct file_header {
	char magic[8];
	uint32_t version;
	uint32_t state_size;
	uint64_t secret;
	uint64_t start;
	uint64_t memory_size;
	uint64_t page_count;
	uint32_t crc;
	uint32_t reserved;
};
_Static_assert(sizeof(struct file_header) == 56, "the file's bytes");
#define CHECKED_HEADER offsetof(struct file_header, crc)
_Static_assert(offsetof(struct file_header, crc) == 48, "the file's bytes");

struct page {
	uint64_t number;
	uint8_t bytes[PAGE];
};
_Static_assert(sizeof(struct page) == 4104, "the file's bytes");

static const char magic[8] = {'D', 'O', 'P', 'P', 'E', 'L', 'R', 'C'};

/* Standard CRC32C, begun and ended with inversions, over what the header's `crc` covers. */
#define CRC_BEGIN UINT32_MAX

static size_t padding(size_t state_size)
{
	return -state_size & 7;
}

/* ---- Writing ---- */

struct recording {
	int fd;
	uint64_t next; /* LSN behind what the kernel has */
	char path[];
};

static bool is_zero(const uint8_t *page)
{
	/* Equal to itself shifted by a byte, and that byte is zero. */
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Writes all of it; changes the vector. */
static int write_all(struct recording *recording, struct iovec *pieces, int count)
{
	while (count > 0) {
		ssize_t n = writev(recording->fd, pieces, count);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(errno, "cannot write the recording %s: %s; record elsewhere",
				recording->path, strerror(errno));
		for (size_t left = (size_t)n; count > 0;) {
			if (left < pieces->iov_len) {
				pieces->iov_base = (uint8_t *)pieces->iov_base + left;
				pieces->iov_len -= left;
				break;
			}
			left -= pieces->iov_len;
			pieces++;
			count--;
		}
	}
	return 0;
}

/* Counts the pages to be written and, if asked, checksums them in the order of write_pages. */
static uint64_t survey_pages(const uint8_t *memory, uint64_t memory_size, uint32_t *crc)
{
	uint64_t count = 0;
	for (uint64_t number = 0; number < memory_size / PAGE; number++) {
		const uint8_t *page = memory + number * PAGE;
		if (is_zero(page))
			continue;
		count++;
		if (crc) {
			*crc = crc32c(*crc, &number, sizeof number);
			*crc = crc32c(*crc, page, PAGE);
		}
	}
	return count;
}

static int write_pages(struct recording *recording, const uint8_t *memory, uint64_t memory_size)
{
	enum { BATCH = 128 };
	uint64_t numbers[BATCH];
	struct iovec pieces[2 * BATCH];
	int gathered = 0;
	for (uint64_t number = 0; number < memory_size / PAGE; number++) {
		const uint8_t *page = memory + number * PAGE;
		if (is_zero(page))
			continue;
		numbers[gathered] = number;
		pieces[2 * gathered] = (struct iovec){&numbers[gathered], sizeof numbers[0]};
		pieces[2 * gathered + 1] = (struct iovec){(void *)page, PAGE};
		if (++gathered < BATCH)
			continue;
		int error = write_all(recording, pieces, 2 * gathered);
		if (error)
			return error;
		gathered = 0;
	}
	return write_all(recording, pieces, 2 * gathered);
}

/* Opens the file to write; `made` tells whether it is ours to remove again. */
static int open_new(const char *path, bool *made)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0600);
	*made = fd >= 0;
	if (fd >= 0)
		return fd;
	if (errno != EEXIST)
		return fail(errno, "cannot create the recording %s: %s; choose another path", path,
			strerror(errno));
	struct stat st;
	if (stat(path, &st) < 0)
		return fail(errno, "cannot create the recording %s: %s; choose another path", path,
			strerror(errno));
	if (S_ISREG(st.st_mode))
		return fail(EEXIST,
			"the recording %s exists already; remove it or choose another name", path);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return fail(errno, "cannot write the recording to %s: %s", path, strerror(errno));
	return fd;
}

int recording_create(struct recording **out, const char *path, uint64_t secret, uint64_t start,
	const void *state, size_t state_size, const uint8_t *memory, uint64_t memory_size)
{
	CHECK(L1, state_size <= UINT32_MAX && memory_size % PAGE == 0 && start % 8 == 0,
		"a recording of %zu bytes of state and %llu of memory from LSN %llu", state_size,
		(unsigned long long)memory_size, (unsigned long long)start);
	struct recording *recording = malloc(sizeof *recording + strlen(path) + 1);
	if (!recording)
		return fail(ENOMEM, "no memory for the recording %s", path);
	strcpy(recording->path, path);
	recording->next = start;
	bool made;
	int error = recording->fd = open_new(path, &made);
	if (error < 0)
		goto free_recording;

	struct file_header header = {
		.version = RECORDING_VERSION,
		.state_size = (uint32_t)state_size,
		.secret = secret,
		.start = start,
		.memory_size = memory_size,
	};
	memcpy(header.magic, magic, sizeof magic);
	/* The header tells how many pages follow and is covered by the checksum that covers them,
	 * so memory is surveyed before it is written. A pipe can thus be written, too. */
	header.page_count = survey_pages(memory, memory_size, NULL);
	uint32_t crc = crc32c(CRC_BEGIN, &header, CHECKED_HEADER);
	crc = crc32c(crc, state, state_size);
	survey_pages(memory, memory_size, &crc);
	header.crc = ~crc;
	static const uint8_t zeros[8];
	struct iovec front[] = {
		{&header, sizeof header},
		{(void *)state, state_size},
		{(void *)zeros, padding(state_size)},
	};
	error = write_all(recording, front, 3);
	if (!error)
		error = write_pages(recording, memory, memory_size);
	if (error)
		goto remove_file;
	*out = recording;
	return 0;

remove_file:
	close(recording->fd);
	if (made)
		unlink(path);
free_recording:
	free(recording);
	return error;
}

static int sink_write(void *context, uint64_t lsn, const struct iovec *pieces, int count)
{
	struct recording *recording = context;
	CHECK(L1, lsn == recording->next, "LSN %llu is written to a recording that is at %llu",
		(unsigned long long)lsn, (unsigned long long)recording->next);
	for (int i = 0; i < count; i++) {
		struct iovec piece = pieces[i];
		int error = write_all(recording, &piece, 1);
		if (error)
			return error;
		recording->next += pieces[i].iov_len;
	}
	return 0;
}

static uint64_t sink_written(void *context)
{
	struct recording *recording = context;
	return recording->next;
}

static uint64_t sink_consumed(void *context, uint64_t head)
{
	(void)context;
	(void)head;
	return UINT64_MAX;
}

const struct log_sink recording_sink = {
	.write = sink_write,
	.written = sink_written,
	.consumed = sink_consumed,
};

int recording_close(struct recording *recording)
{
	if (!recording)
		return 0;
	int error = 0;
	/* Pipes and devices have nothing to make durable, and say so with EINVAL. */
	if (fsync(recording->fd) < 0 && errno != EINVAL && errno != EROFS)
		error = fail(errno, "the recording %s may not be durable: %s", recording->path,
			strerror(errno));
	if (close(recording->fd) < 0 && !error)
		error = fail(errno, "cannot close the recording %s: %s", recording->path,
			strerror(errno));
	free(recording);
	return error;
}

/* ---- Reading ---- */

static int map_file(struct recording_view *view, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return fail(errno, "cannot open the recording %s: %s; check its name", path,
			strerror(errno));
	int error = 0;
	struct stat st;
	if (fstat(fd, &st) < 0) {
		error = fail(errno, "cannot look at the recording %s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		error = fail(
			EBADMSG, "%s is not a recording: not a regular file; check its name", path);
	} else if (st.st_size == 0) {
		error = fail(EBADMSG, "%s is not a recording: it is empty; record again", path);
	} else {
		void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (map == MAP_FAILED)
			error = fail(
				errno, "cannot map the recording %s: %s", path, strerror(errno));
		else
			*view = (struct recording_view){.map = map, .map_size = (size_t)st.st_size};
	}
	close(fd);
	return error;
}

static int cut_short(const struct recording_view *view, const char *path, const char *what)
{
	return fail(EBADMSG,
		"the recording %s is cut short: it ends at byte %zu, within the %s; record again",
		path, view->map_size, what);
}

static int damaged(const char *path, const char *what, size_t offset)
{
	return fail(EBADMSG,
		"the recording %s is damaged: %s at byte %zu; use a good copy or record again",
		path, what, offset);
}

/* Every length is bounded by the file's size before it is used. */
static int parse(struct recording_view *view, const char *path)
{
	struct file_header header;
	size_t compared = view->map_size < sizeof magic ? view->map_size : sizeof magic;
	if (memcmp(view->map, magic, compared) != 0)
		return fail(EBADMSG,
			"%s is not a recording: it does not begin with \"%.8s\"; check its name",
			path, magic);
	if (view->map_size < sizeof header)
		return cut_short(view, path, "header");
	memcpy(&header, view->map, sizeof header);
	if (header.version != RECORDING_VERSION)
		return fail(EBADMSG,
			"the recording %s has version %u, and this doppel reads version %u; use "
			"the one that made it",
			path, header.version, RECORDING_VERSION);
	if (header.reserved != 0)
		return damaged(path, "reserved bytes that are not zero",
			offsetof(struct file_header, reserved));
	if (header.memory_size % PAGE != 0)
		return damaged(path, "a memory size that is not whole pages",
			offsetof(struct file_header, memory_size));
	if (header.page_count > header.memory_size / PAGE)
		return damaged(path, "more pages than memory has",
			offsetof(struct file_header, page_count));
	if (header.start % 8 != 0 || header.start > INT64_MAX)
		return damaged(
			path, "an impossible first LSN", offsetof(struct file_header, start));

	size_t offset = sizeof header;
	size_t padded = (size_t)header.state_size + padding(header.state_size);
	if (padded > view->map_size - offset)
		return cut_short(view, path, "machine's state");
	view->state = view->map + offset;
	view->state_size = header.state_size;
	for (size_t i = header.state_size; i < padded; i++) {
		if (view->map[offset + i] != 0)
			return damaged(path, "padding that is not zero", offset + i);
	}
	offset += padded;
	if (header.page_count > (view->map_size - offset) / sizeof(struct page))
		return cut_short(view, path, "memory's pages");
	view->memory_size = header.memory_size;
	view->page_count = header.page_count;
	view->pages = view->map + offset;

	uint32_t crc = crc32c(CRC_BEGIN, &header, CHECKED_HEADER);
	crc = crc32c(crc, view->state, view->state_size);
	crc = ~crc32c(crc, view->pages, (size_t)view->page_count * sizeof(struct page));
	if (crc != header.crc)
		return damaged(
			path, "the checksum of state and memory is not that", CHECKED_HEADER);
	for (uint64_t i = 0, least = 0; i < view->page_count; i++, offset += sizeof(struct page)) {
		uint64_t number;
		memcpy(&number, view->map + offset, sizeof number);
		if (number < least || number >= header.memory_size / PAGE)
			return damaged(path, "a page number out of order or of memory", offset);
		least = number + 1;
	}
	log_reader_file(&view->entries, view->map + offset, view->map_size - offset, header.secret,
		header.start);
	return 0;
}

int recording_open(struct recording_view *view, const char *path)
{
	*view = (struct recording_view){0};
	int error = map_file(view, path);
	if (error)
		return error;
	error = parse(view, path);
	if (error)
		recording_view_close(view);
	return error;
}

void recording_load_memory(const struct recording_view *view, uint8_t *memory)
{
	for (uint64_t i = 0; i < view->page_count; i++) {
		const uint8_t *at = view->pages + i * sizeof(struct page);
		uint64_t number;
		memcpy(&number, at, sizeof number);
		memcpy(memory + number * PAGE, at + sizeof number, PAGE);
	}
}

void recording_view_close(struct recording_view *view)
{
	if (view->map)
		munmap((void *)view->map, view->map_size);
	*view = (struct recording_view){0};
}

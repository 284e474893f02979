#include "transport/recording.h"

#include "base/check.h"
#include "transport/checksum.h"
#include "transport/recording_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Writing ---- */

struct recording {
	int fd;
	uint64_t next; /* LSN behind what the kernel has */
	char path[];
};

/* Writes all of it; changes the vector. */
static int write_all(void *context, struct iovec *pieces, int count)
{
	struct recording *recording = context;
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

int recording_create(
	struct recording **out, const char *path, const struct recording_origin *origin)
{
	struct recording *recording = malloc(sizeof *recording + strlen(path) + 1);
	if (!recording)
		return fail(ENOMEM, "no memory for the recording %s", path);
	strcpy(recording->path, path);
	recording->next = origin->start;
	bool made;
	int error = recording->fd = open_new(path, &made);
	if (error < 0)
		goto free_recording;
	error = recording_write_front(
		origin, recording_count_pages(origin), 0, write_all, recording);
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

static int map_file(struct recording_view *view, int fd, const char *path)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return fail(errno, "cannot look at the recording %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(
			EBADMSG, "%s is not a recording: not a regular file; check its name", path);
	if (st.st_size == 0)
		return fail(EBADMSG, "%s is not a recording: it is empty; record again", path);
	void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return fail(errno, "cannot map the recording %s: %s", path, strerror(errno));
	*view = (struct recording_view){.map = map, .map_size = (size_t)st.st_size};
	return 0;
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

static int parse_header(
	const struct recording_view *view, const char *path, struct recording_header *header)
{
	size_t compared =
		view->map_size < sizeof header->magic ? view->map_size : sizeof header->magic;
	if (memcmp(view->map, recording_magic, compared) != 0)
		return fail(EBADMSG,
			"%s is not a recording: it does not begin with \"%.8s\"; check its name",
			path, recording_magic);
	/* Another version's header may be shorter. */
	if (view->map_size >= offsetof(struct recording_header, state_size)) {
		memcpy(&header->version, view->map + offsetof(struct recording_header, version),
			sizeof header->version);
		if (header->version != RECORDING_VERSION)
			return fail(EBADMSG,
				"the recording %s has version %u, and this doppel reads version "
				"%u; use "
				"the one that made it",
				path, header->version, RECORDING_VERSION);
	}
	if (view->map_size < sizeof *header)
		return cut_short(view, path, "header");
	memcpy(header, view->map, sizeof *header);
	if (header->reserved != 0)
		return damaged(path, "reserved bytes that are not zero",
			offsetof(struct recording_header, reserved));
	if (header->memory_size % RECORDING_PAGE != 0)
		return damaged(path, "a memory size that is not whole pages",
			offsetof(struct recording_header, memory_size));
	if (header->page_count > header->memory_size / RECORDING_PAGE)
		return damaged(path, "more pages than memory has",
			offsetof(struct recording_header, page_count));
	if (header->start % 8 != 0 || header->start > INT64_MAX)
		return damaged(
			path, "an impossible first LSN", offsetof(struct recording_header, start));
	if (header->area % RECORDING_PAGE != 0 || header->area > view->map_size)
		return damaged(path, "an impossible area for entries",
			offsetof(struct recording_header, area));
	for (size_t i = RECORDING_VM_MAX; i < sizeof header->vm; i++) {
		if (header->vm[i] != 0)
			return damaged(path, "a VM's name without an end",
				offsetof(struct recording_header, vm) + i);
	}
	return 0;
}

/* State and pages, with the header's checksum. Every length is bounded by the file's size before it
 * is used. `end` is where they end. */
static int parse_front(struct recording_view *view, const char *path,
	const struct recording_header *header, size_t *end)
{
	size_t offset = sizeof *header;
	size_t padded = (size_t)header->state_size + recording_padding(header->state_size);
	if (padded > view->map_size - offset)
		return cut_short(view, path, "machine's state");
	view->state = view->map + offset;
	view->state_size = header->state_size;
	for (size_t i = header->state_size; i < padded; i++) {
		if (view->map[offset + i] != 0)
			return damaged(path, "padding that is not zero", offset + i);
	}
	offset += padded;
	if (header->page_count > (view->map_size - offset) / sizeof(struct recording_page))
		return cut_short(view, path, "memory's pages");
	view->memory_size = header->memory_size;
	view->page_count = header->page_count;
	view->pages = view->map + offset;
	view->generation = header->generation;
	memcpy(view->vm, header->vm, sizeof view->vm);

	uint32_t crc = crc32c(RECORDING_CRC_BEGIN, header, RECORDING_CHECKED);
	crc = crc32c(crc, view->state, view->state_size);
	crc = ~crc32c(crc, view->pages, (size_t)view->page_count * sizeof(struct recording_page));
	if (crc != header->crc)
		return damaged(
			path, "the checksum of state and memory is not that", RECORDING_CHECKED);
	for (uint64_t i = 0, least = 0; i < view->page_count;
		i++, offset += sizeof(struct recording_page)) {
		uint64_t number;
		memcpy(&number, view->map + offset, sizeof number);
		if (number < least || number >= header->memory_size / RECORDING_PAGE)
			return damaged(path, "a page number out of order or of memory", offset);
		least = number + 1;
	}
	*end = offset;
	return 0;
}

/* Maps the area again, twice in a row: whatever its offset, an entry is then contiguous. */
static int map_lap(
	struct recording_view *view, int fd, const char *path, uint64_t offset, uint64_t area)
{
	uint8_t *lap = mmap(NULL, 2 * area, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (lap == MAP_FAILED)
		return fail(errno, "cannot map the recording %s: %s", path, strerror(errno));
	view->lap = lap;
	for (unsigned i = 0; i < 2; i++) {
		if (mmap(lap + i * area, area, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd,
			    (off_t)offset) == MAP_FAILED)
			return fail(
				errno, "cannot map the recording %s: %s", path, strerror(errno));
	}
	return 0;
}

/* A durable log's two ends, and its entries. */
static int parse_area(struct recording_view *view, int fd, const char *path,
	const struct recording_header *header, size_t front)
{
	uint64_t offset = recording_page_up(front), area = header->area;
	uint64_t entries = offset + RECORDING_ENDS * RECORDING_PAGE;
	if (entries + area > view->map_size)
		return cut_short(view, path, "area for entries");
	if (entries + area < view->map_size)
		return damaged(path, "bytes behind the area for entries", entries + area);
	struct recording_end newest = {0};
	bool found = false;
	for (unsigned i = 0; i < RECORDING_ENDS; i++) {
		struct recording_end end;
		memcpy(&end, view->map + offset + i * RECORDING_PAGE, sizeof end);
		if (end.check != recording_end_check(header->secret, &end) ||
			end.begin < header->start || end.begin % 8 != 0 || end.end < end.begin ||
			end.end % 8 != 0 || end.end - end.begin > area || end.end > INT64_MAX)
			continue;
		if (!found || end.sequence > newest.sequence)
			newest = end;
		found = true;
	}
	if (!found)
		return damaged(path, "neither of the two ends of the log is right", offset);
	log_reader_file(&view->entries, view->map + entries, area, header->secret, header->start);
	view->entries.next = newest.begin;
	view->entries.end = newest.end;
	view->is_durable = true;
	view->is_dropped = newest.begin > header->start;
	if (newest.end - header->start <= area)
		return 0;
	int error = map_lap(view, fd, path, entries, area);
	view->entries.base = view->lap;
	return error;
}

int recording_open(struct recording_view *view, const char *path)
{
	struct recording_header header;
	size_t front = 0;
	*view = (struct recording_view){0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return fail(errno, "cannot open the recording %s: %s; check its name", path,
			strerror(errno));
	int error = map_file(view, fd, path);
	if (!error)
		error = parse_header(view, path, &header);
	if (!error)
		error = parse_front(view, path, &header, &front);
	if (!error && header.area != 0)
		error = parse_area(view, fd, path, &header, front);
	else if (!error)
		log_reader_file(&view->entries, view->map + front, view->map_size - front,
			header.secret, header.start);
	if (error)
		recording_view_close(view);
	close(fd);
	return error;
}

void recording_load_memory(const struct recording_view *view, uint8_t *memory)
{
	for (uint64_t i = 0; i < view->page_count; i++) {
		const uint8_t *at = view->pages + i * sizeof(struct recording_page);
		uint64_t number;
		memcpy(&number, at, sizeof number);
		memcpy(memory + number * RECORDING_PAGE, at + sizeof number, RECORDING_PAGE);
	}
}

void recording_view_close(struct recording_view *view)
{
	if (view->lap)
		munmap(view->lap, 2 * view->entries.size);
	if (view->map)
		munmap((void *)view->map, view->map_size);
	*view = (struct recording_view){0};
}

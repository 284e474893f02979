#include "transport/log_file.h"

#include "transport/bus_error.h"
#include "transport/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <libpmem.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct mapped_file {
	struct log_file base;
	uint8_t *map;
	int fd; /* holds the lock */
	bool is_published;
	char path[PATH_MAX], new_path[PATH_MAX], folder[PATH_MAX];
};

static struct mapped_file *mapped(struct log_file *file)
{
	return (struct mapped_file *)file;
}

struct copy {
	void *(*by)(void *to, const void *from, size_t length);
	void *to;
	const void *from;
	size_t length;
};

static void copy(void *argument)
{
	const struct copy *copy = argument;
	copy->by(copy->to, copy->from, copy->length);
}

static int copy_by(void *(*by)(void *to, const void *from, size_t length), struct log_file *file,
	uint64_t at, const void *from, size_t length)
{
	struct copy what = {by, mapped(file)->map + at, from, length};
	if (bus_error_guard(copy, &what))
		return 0;
	return fail(EIO,
		"cannot write the log %s: its storage has failed, or somebody has truncated it",
		file->path);
}

/* ---- persistent memory: cache lines ---- */

static int pmem_copy(struct log_file *file, uint64_t at, const void *from, size_t length)
{
	return copy_by(pmem_memcpy_nodrain, file, at, from, length);
}

static int pmem_settle(struct log_file *file, uint64_t at, uint64_t length)
{
	(void)file, (void)at, (void)length;
	pmem_drain();
	return 0;
}

/* ---- any file system: pages ---- */

static int page_copy(struct log_file *file, uint64_t at, const void *from, size_t length)
{
	return copy_by(memcpy, file, at, from, length);
}

static int page_settle(struct log_file *file, uint64_t at, uint64_t length)
{
	if (pmem_msync(mapped(file)->map + at, length) < 0)
		return fail(errno, "cannot write the log %s: %s", file->path, strerror(errno));
	return 0;
}

/* ---- both ---- */

static int publish(struct log_file *file)
{
	struct mapped_file *m = mapped(file);
	int folder = -1;
	/* The file's own metadata first: its size, and where its bytes are. */
	if (fsync(m->fd) < 0 || rename(m->new_path, m->path) < 0)
		goto failed;
	m->is_published = true;
	folder = open(m->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || (fsync(folder) < 0 && errno != EINVAL))
		goto failed;
	close(folder);
	return 0;

failed:;
	int error = fail(errno, "cannot put the log at %s: %s", m->path, strerror(errno));
	if (folder >= 0)
		close(folder);
	return error;
}

static void close_file(struct log_file *file)
{
	struct mapped_file *m = mapped(file);
	if (m->map)
		pmem_unmap(m->map, m->base.size);
	if (!m->is_published)
		unlink(m->new_path);
	close(m->fd);
	free(m);
}

static const struct log_file_kind on_pmem = {
	.name = "persistent memory",
	.copy = pmem_copy,
	.settle = pmem_settle,
	.publish = publish,
	.close = close_file,
};

static const struct log_file_kind on_disk = {
	.name = "file",
	.copy = page_copy,
	.settle = page_settle,
	.publish = publish,
	.close = close_file,
};

static int lock(int fd, const char *path)
{
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return fail(EBUSY, "another process writes the log %s; give each standby its own",
			path);
	return fail(errno, "cannot lock the log %s: %s", path, strerror(errno));
}

/* Opens what is there, if anything, and tries its lock. -ENOENT, without a message: nothing. */
static int open_locked(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT
			       ? -ENOENT
			       : fail(errno, "cannot open the log %s: %s", path, strerror(errno));
	int error = lock(fd, path);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

static int check_existing(const char *path, uint64_t size, const char *vm)
{
	struct recording_view view;
	int error = recording_open(&view, path);
	if (error)
		return fail(error == -EBADMSG ? EINVAL : -error,
			"cannot replace %s by a new log: %s", path, fail_message());
	if (!view.is_durable)
		error = fail(EINVAL,
			"%s is a recording and not a standby's log; choose another name", path);
	else if (strcmp(view.vm, vm) != 0)
		error = fail(EINVAL, "the log %s is of VM %s, not %s; give each VM its own", path,
			view.vm, vm);
	else if (view.map_size != size)
		error = fail(EINVAL,
			"the log %s has %llu KiB, and %llu KiB are asked for with --log-size; give "
			"the "
			"size it has, or remove it",
			path, (unsigned long long)view.map_size >> 10,
			(unsigned long long)size >> 10);
	recording_view_close(&view);
	return error;
}

static int folder_of(const char *path, char folder[PATH_MAX])
{
	char copy[PATH_MAX];
	if (strlen(path) + sizeof ".new" > PATH_MAX)
		return fail(ENAMETOOLONG, "the log's path is too long: %s", path);
	strcpy(copy, path);
	strcpy(folder, dirname(copy));
	if (access(folder, W_OK | X_OK) < 0)
		return fail(errno, "cannot make a log in %s: %s", folder, strerror(errno));
	return 0;
}

int log_file_check(const char *path, uint64_t size, const char *vm)
{
	char folder[PATH_MAX];
	int error = folder_of(path, folder);
	if (error)
		return error;
	int fd = open_locked(path);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	error = check_existing(path, size, vm);
	close(fd);
	return error;
}

/* What a process that died has left. */
static int remove_stale(const char *path)
{
	int fd = open_locked(path);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	int error = 0;
	if (unlink(path) < 0)
		error = fail(errno, "cannot remove %s: %s", path, strerror(errno));
	close(fd);
	return error;
}

int log_file_make(struct log_file **out, const char *path, uint64_t size, const char *vm)
{
	int error = log_file_check(path, size, vm);
	if (!error)
		error = bus_error_catch();
	if (error)
		return error;
	struct mapped_file *m = calloc(1, sizeof *m);
	if (!m)
		return fail(ENOMEM, "no memory for the log %s", path);
	m->base.path = m->path;
	m->base.size = size;
	strcpy(m->path, path);
	snprintf(m->new_path, sizeof m->new_path, "%s.new", path);
	error = folder_of(path, m->folder);
	if (!error)
		error = remove_stale(m->new_path);
	if (error)
		goto free_file;
	m->fd = open(m->new_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (m->fd < 0) {
		error = fail(errno, "cannot make the log %s: %s", m->new_path, strerror(errno));
		goto free_file;
	}
	error = lock(m->fd, m->new_path);
	if (error)
		goto close_file;
	size_t length;
	int is_pmem;
	m->map = pmem_map_file(m->new_path, size, PMEM_FILE_CREATE, 0600, &length, &is_pmem);
	if (!m->map) {
		error = fail(errno,
			"cannot set aside %llu MiB for the log %s: %s; give less with --log-size",
			(unsigned long long)size >> 20, path, strerror(errno));
		goto close_file;
	}
	m->base.kind = is_pmem ? &on_pmem : &on_disk;
	*out = &m->base;
	return 0;

close_file:
	close_file(&m->base);
	return error;
free_file:
	free(m);
	return error;
}

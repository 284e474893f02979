#include "engine/arbiter.h"

#include "base/check.h"
#include "base/crash_point.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME_SIZE                                                                                  \
	(ARBITER_NAME_MAX +                                                                        \
		48) /* "<vm>.gen-<20 digits>", "<vm>.tmp-<32 digits>.link"             \
				 */
#define LINE_SIZE 512
#define TAG_DIGITS 32
#define TEMPORARY_LIFE_S (24 * 60 * 60)

struct arbiter {
	char vm[ARBITER_NAME_MAX + 1];
	char host[65];
	char tag[TAG_DIGITS + 1];
	char temporary[NAME_SIZE];
	pid_t pid;
	/* The directory as it was at open, and a descriptor that keeps its inode number from being
	 * used again. Who mounts or moves another one over the path must not make this side ask a
	 * storage that the other does not see. */
	dev_t device;
	ino_t inode;
	int pin;
	/* A sync that failed says so once; the next one would claim success for what was lost. */
	bool sync_failed;
	char path[];
};

/* What one look at the directory works on. It is opened anew for each, which makes an NFS client
 * ask the server instead of its cache. */
struct view {
	const struct arbiter *arbiter;
	int fd;
};

int arbiter_check_name(const char *vm)
{
	size_t length = vm ? strlen(vm) : 0;
	if (length == 0 || length > ARBITER_NAME_MAX ||
		strspn(vm, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") !=
			length)
		return fail(EINVAL,
			"a VM's name is 1 to %d characters of A-Z a-z 0-9 . _ -, not \"%.80s\"",
			ARBITER_NAME_MAX, vm ? vm : "");
	return 0;
}

static int view_open(const struct arbiter *arbiter, struct view *view)
{
	CHECK(A1, arbiter->pid == getpid(), "an arbiter is used by a process that did not open it");
	int fd = open(arbiter->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(errno, "cannot open the arbiter's directory %s: %s", arbiter->path,
			strerror(errno));
	struct stat st;
	if (fstat(fd, &st) < 0) {
		int error = errno;
		close(fd);
		return fail(error, "cannot look at the arbiter's directory %s: %s", arbiter->path,
			strerror(error));
	}
	if (st.st_dev != arbiter->device || st.st_ino != arbiter->inode) {
		close(fd);
		return fail(ESTALE, "the arbiter's directory %s is not the one it was at the start",
			arbiter->path);
	}
	*view = (struct view){.arbiter = arbiter, .fd = fd};
	return 0;
}

static void generation_name(
	const struct arbiter *arbiter, uint64_t generation, char name[NAME_SIZE])
{
	snprintf(name, NAME_SIZE, "%s.gen-%" PRIu64, arbiter->vm, generation);
}

/* The generation in a file's name; 0: it is no generation of this VM; UINT64_MAX: digits that no
 * arbiter writes (none, too many, a leading zero, or this number itself). */
static uint64_t generation_of(const struct arbiter *arbiter, const char *name)
{
	size_t prefix = strlen(arbiter->vm);
	if (strncmp(name, arbiter->vm, prefix) != 0 || strncmp(name + prefix, ".gen-", 5) != 0)
		return 0;
	const char *digits = name + prefix + 5;
	size_t length = strspn(digits, "0123456789");
	if (digits[length] != '\0')
		return 0; /* another VM's, whose name goes on with ".gen-" */
	if (length == 0 || digits[0] == '0')
		return UINT64_MAX;
	errno = 0;
	return strtoull(digits, NULL, 10); /* UINT64_MAX when it is out of range */
}

/* Calls `use` with each name in the directory until it fails. */
static int each_name(const struct view *view,
	int (*use)(const struct view *view, const char *name, void *context), void *context)
{
	const char *path = view->arbiter->path;
	/* Its own open file, since a listing keeps a position and closes its descriptor. */
	int fd = openat(view->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listing = fd < 0 ? NULL : fdopendir(fd);
	if (!listing) {
		int error = errno;
		if (fd >= 0)
			close(fd);
		return fail(
			error, "cannot list the arbiter's directory %s: %s", path, strerror(error));
	}
	int rc = 0;
	const struct dirent *entry;
	while (rc == 0 && (errno = 0, entry = readdir(listing)))
		rc = use(view, entry->d_name, context);
	if (rc == 0 && errno != 0)
		rc = fail(
			errno, "cannot list the arbiter's directory %s: %s", path, strerror(errno));
	closedir(listing);
	return rc;
}

static int raise_highest(const struct view *view, const char *name, void *context)
{
	uint64_t *highest = context;
	uint64_t generation = generation_of(view->arbiter, name);
	if (generation == UINT64_MAX)
		return fail(EBADMSG,
			"%s/%s is not named like a generation; see what it is and move it away",
			view->arbiter->path, name);
	if (generation > *highest)
		*highest = generation;
	return 0;
}

/* Raises *highest to the highest generation that exists. Listing a directory that others change may
 * miss a name on some file systems, looking one up does not, and generations grow by one. */
static int find_highest(const struct view *view, uint64_t *highest)
{
	int rc = each_name(view, raise_highest, highest);
	while (rc == 0) {
		char name[NAME_SIZE];
		struct stat st;
		generation_name(view->arbiter, *highest + 1, name);
		if (fstatat(view->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				return 0;
			rc = fail(errno, "cannot look for %s/%s: %s", view->arbiter->path, name,
				strerror(errno));
		} else {
			*highest += 1;
		}
	}
	return rc;
}

/* Reads the line in a generation's file and believes it only when it is one that we could have
 * written, whole. */
static bool parse_line(const struct arbiter *arbiter, uint64_t generation, const char *line,
	struct arbiter_holder *holder)
{
	uint64_t number;
	char vm[ARBITER_NAME_MAX + 1];
	int end = 0;
	int fields = sscanf(line,
		"doppel generation %" SCNu64
		" vm %64s host %64[!-~] pid %d time %23[0-9TZ:-] tag %32[0-9a-f]%n",
		&number, vm, holder->host, &holder->pid, holder->time, holder->tag, &end);
	return fields == 6 && number == generation && strcmp(vm, arbiter->vm) == 0 &&
	       strlen(holder->tag) == TAG_DIGITS && strcmp(line + end, "\n") == 0;
}

/* Reads who holds a generation. With `unsynced`, the file is first made durable, and *unsynced says
 * that this failed. -ENOENT: nobody holds it. */
static int read_holder(
	const struct view *view, uint64_t generation, bool *unsynced, struct arbiter_holder *holder)
{
	const struct arbiter *arbiter = view->arbiter;
	char name[NAME_SIZE];
	char line[LINE_SIZE];
	struct stat st;
	int rc = 0;
	generation_name(arbiter, generation, name);
	/* NONBLOCK: whatever lies there under this name, a FIFO included, must not hold us. */
	int fd = openat(view->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return fail(errno, "cannot read %s/%s: %s", arbiter->path, name, strerror(errno));
	if (unsynced && fsync(fd) < 0) {
		*unsynced = true;
		rc = fail(errno, "cannot sync %s/%s: %s", arbiter->path, name, strerror(errno));
		goto close_file;
	}
	ssize_t got = 0;
	if (fstat(fd, &st) < 0 ||
		(S_ISREG(st.st_mode) && (got = pread(fd, line, sizeof line - 1, 0)) < 0)) {
		rc = fail(errno, "cannot read %s/%s: %s", arbiter->path, name, strerror(errno));
		goto close_file;
	}
	line[got] = '\0';
	if (strlen(line) != (size_t)got || !parse_line(arbiter, generation, line, holder))
		rc = fail(EBADMSG,
			"%s/%s is not a whole generation file; it counts as taken, but by nobody "
			"known",
			arbiter->path, name);
close_file:
	close(fd);
	return rc;
}

/* Makes the temporary file anew: whole, synced and never written again, since it may become the
 * generation's file at any moment from link() on, even after we have given up on it. */
static int write_temporary(const struct view *view, uint64_t generation, struct stat *st)
{
	const struct arbiter *arbiter = view->arbiter;
	char now[24];
	char line[LINE_SIZE];
	time_t seconds = time(NULL);
	struct tm tm;
	gmtime_r(&seconds, &tm);
	strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &tm);
	int length = snprintf(line, sizeof line,
		"doppel generation %" PRIu64 " vm %s host %s pid %d time %s tag %s\n", generation,
		arbiter->vm, arbiter->host, arbiter->pid, now, arbiter->tag);

	/* Where nothing can be written, making the file says so better. */
	if (unlinkat(view->fd, arbiter->temporary, 0) < 0 && errno != ENOENT && errno != EROFS)
		return fail(errno, "cannot remove %s/%s: %s", arbiter->path, arbiter->temporary,
			strerror(errno));
	int fd =
		openat(view->fd, arbiter->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail(errno,
			"cannot write into the arbiter's directory %s: %s; let this process make "
			"files there",
			arbiter->path, strerror(errno));
	int rc = 0;
	errno = 0;
	/* A short write is a full disk, which sets no errno. */
	if (write(fd, line, (size_t)length) != length || fsync(fd) < 0 || fstat(fd, st) < 0)
		rc = errno ? errno : ENOSPC;
	/* NFS reports at close what it could not write. */
	if (close(fd) < 0 && rc == 0)
		rc = errno;
	if (rc != 0) {
		unlinkat(view->fd, arbiter->temporary, 0);
		return fail(rc, "cannot write %s/%s: %s", arbiter->path, arbiter->temporary,
			strerror(rc));
	}
	return 0;
}

int arbiter_current(struct arbiter *arbiter, uint64_t *generation)
{
	struct view view;
	uint64_t highest = 0;
	int rc = view_open(arbiter, &view);
	if (rc < 0)
		return rc;
	rc = find_highest(&view, &highest);
	close(view.fd);
	if (rc == 0)
		*generation = highest;
	return rc;
}

int arbiter_holder(struct arbiter *arbiter, uint64_t generation, struct arbiter_holder *holder)
{
	struct view view;
	struct arbiter_holder found;
	int rc = view_open(arbiter, &view);
	if (rc < 0)
		return rc == -ENOENT ? -ESTALE : rc; /* no directory is not "nobody" */
	rc = read_holder(&view, generation, NULL, &found);
	close(view.fd);
	if (rc == 0)
		*holder = found;
	return rc;
}

static enum arbiter_verdict lost_to(
	const struct arbiter *arbiter, uint64_t generation, const struct arbiter_holder *holder)
{
	(void)fail(EEXIST,
		"generation %" PRIu64 " of VM %s is held by host %s, process %d, since %s",
		generation, arbiter->vm, holder->host, holder->pid, holder->time);
	return ARBITER_LOST;
}

static enum arbiter_verdict outdated(
	const struct arbiter *arbiter, uint64_t generation, uint64_t highest)
{
	(void)fail(EEXIST,
		"generation %" PRIu64 " of VM %s is over: generation %" PRIu64 " exists in %s",
		generation, arbiter->vm, highest, arbiter->path);
	return ARBITER_LOST;
}

/* Whether the generation is lost already, without changing anything. *rc: what kept us from
 * knowing. */
static bool lost_already(const struct view *view, uint64_t generation, int *rc)
{
	const struct arbiter *arbiter = view->arbiter;
	struct arbiter_holder holder;
	uint64_t highest = 0;
	*rc = read_holder(view, generation, NULL, &holder);
	if (*rc == 0 && strcmp(holder.tag, arbiter->tag) != 0) {
		lost_to(arbiter, generation, &holder);
		return true;
	}
	if (*rc < 0 && *rc != -ENOENT)
		return false;
	*rc = find_highest(view, &highest);
	if (*rc < 0 || highest <= generation)
		return false;
	outdated(arbiter, generation, highest);
	return true;
}

/* After our link(): who has it, now that it is durable, and is it still the newest? The directory
 * has just been changed by us, so an NFS client reads it anew rather than from its cache. */
static enum arbiter_verdict read_back(struct arbiter *arbiter, uint64_t generation, int link_error)
{
	struct view view;
	struct arbiter_holder holder;
	uint64_t highest = generation;
	enum arbiter_verdict verdict = ARBITER_UNKNOWN;

	if (view_open(arbiter, &view) < 0)
		return ARBITER_UNKNOWN;
	int rc = read_holder(&view, generation, &arbiter->sync_failed, &holder);
	if (rc == -ENOENT) {
		/* Not there now, but the request may still be on its way to the server. */
		(void)fail(EIO, "cannot make %s/%s.gen-%" PRIu64 ": %s", arbiter->path, arbiter->vm,
			generation,
			link_error ? strerror(link_error) : "it was made and is not there");
	} else if (rc == 0 && strcmp(holder.tag, arbiter->tag) != 0) {
		verdict = lost_to(arbiter, generation, &holder);
	} else if (rc == 0 && fsync(view.fd) < 0) {
		arbiter->sync_failed = true;
		(void)fail(EIO, "cannot sync the arbiter's directory %s: %s", arbiter->path,
			strerror(errno));
	} else if (rc == 0 && find_highest(&view, &highest) == 0) {
		verdict =
			highest > generation ? outdated(arbiter, generation, highest) : ARBITER_WON;
	}
	close(view.fd);
	return verdict;
}

enum arbiter_verdict arbiter_take(struct arbiter *arbiter, uint64_t generation)
{
	struct view view;
	struct stat st;
	int rc;
	char name[NAME_SIZE];

	/* The last number is kept free so that a next one can always be looked for. */
	if (generation == 0 || generation >= UINT64_MAX - 1) {
		(void)fail(EINVAL, "generation %" PRIu64 " of VM %s cannot be taken", generation,
			arbiter->vm);
		return ARBITER_UNKNOWN;
	}
	if (view_open(arbiter, &view) < 0)
		return ARBITER_UNKNOWN;
	if (lost_already(&view, generation, &rc)) {
		close(view.fd);
		return ARBITER_LOST;
	}
	if (rc == 0 && arbiter->sync_failed)
		rc = fail(EIO,
			"%s once failed to sync a generation of VM %s; only a new process can take "
			"one",
			arbiter->path, arbiter->vm);
	if (rc == 0)
		rc = write_temporary(&view, generation, &st);
	if (rc < 0) {
		close(view.fd);
		return ARBITER_UNKNOWN;
	}

	/* Also when the generation is ours already: this changes the directory, see read_back(). */
	generation_name(arbiter, generation, name);
	CRASH_POINT("arbiter.before");
	int link_error = linkat(view.fd, arbiter->temporary, view.fd, name, 0) < 0 ? errno : 0;
	CRASH_POINT("arbiter.linked");
	unlinkat(view.fd, arbiter->temporary, 0);
	close(view.fd);

	enum arbiter_verdict verdict = read_back(arbiter, generation, link_error);
	if (verdict == ARBITER_WON)
		CRASH_POINT("arbiter.won");
	return verdict;
}

/* Removes what a killed process has left. A process that was stopped for a day between writing and
 * linking finds its file gone, does not know, and asks again with a new one: removing too much
 * never harms. Nor does removing nothing, so errors are passed over. */
static int remove_stale(const struct view *view, const char *name, void *context)
{
	const time_t *now = context; /* by the storage's clock, as are the files' times */
	size_t prefix = strlen(view->arbiter->vm);
	struct stat st;
	if (strncmp(name, view->arbiter->vm, prefix) != 0 ||
		strncmp(name + prefix, ".tmp-", 5) != 0)
		return 0;
	const char *tag = name + prefix + 5;
	if (strspn(tag, "0123456789abcdef") != TAG_DIGITS ||
		(tag[TAG_DIGITS] != '\0' && strcmp(tag + TAG_DIGITS, ".link") != 0))
		return 0;
	if (fstatat(view->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
		*now - st.st_mtime > TEMPORARY_LIFE_S)
		unlinkat(view->fd, name, 0);
	return 0;
}

/* Finds out at the start, not in a failover, that the storage will not do. */
static int try_out(const struct view *view)
{
	const struct arbiter *arbiter = view->arbiter;
	struct stat st;
	char name[NAME_SIZE];
	int rc = write_temporary(view, 0, &st);
	if (rc < 0)
		return rc;
	int written = snprintf(name, sizeof name, "%s.link", arbiter->temporary);
	CHECK(A1, written < (int)sizeof name, "a temporary file's name is too long");
	if (linkat(view->fd, arbiter->temporary, view->fd, name, 0) < 0)
		rc = fail(errno,
			"cannot make a hard link in %s: %s; the arbiter needs a local disk or NFS",
			arbiter->path, strerror(errno));
	unlinkat(view->fd, name, 0);
	unlinkat(view->fd, arbiter->temporary, 0);
	return rc < 0 ? rc : each_name(view, remove_stale, &st.st_mtime);
}

static int make_tag(struct arbiter *arbiter)
{
	uint64_t random[2];
	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return fail(EIO, "cannot get random bytes for the arbiter's tag");
	snprintf(arbiter->tag, sizeof arbiter->tag, "%016" PRIx64 "%016" PRIx64, random[0],
		random[1]);
	snprintf(arbiter->temporary, sizeof arbiter->temporary, "%s.tmp-%s", arbiter->vm,
		arbiter->tag);

	if (gethostname(arbiter->host, sizeof arbiter->host) < 0 || arbiter->host[0] == '\0')
		strcpy(arbiter->host, "unknown");
	arbiter->host[sizeof arbiter->host - 1] = '\0';
	for (char *c = arbiter->host; *c; c++) {
		if (*c <= ' ' || *c > '~')
			*c = '_';
	}
	return 0;
}

int arbiter_open(struct arbiter **out, const char *address, const char *vm)
{
	struct view view;
	struct stat st;
	int rc = arbiter_check_name(vm);
	if (rc < 0)
		return rc;
	if (strncmp(address, "dir:", 4) != 0 || address[4] == '\0')
		return fail(EINVAL,
			"unknown arbiter \"%s\"; known is dir:PATH, a directory that both hosts "
			"see",
			address);
	const char *path = address + 4;
	int pin = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (pin < 0)
		return fail(errno,
			"cannot use %s as the arbiter's directory: %s; make it, where both hosts "
			"see it",
			path, strerror(errno));

	struct arbiter *arbiter = calloc(1, sizeof *arbiter + strlen(path) + 1);
	if (!arbiter || fstat(pin, &st) < 0) {
		rc = fail(errno, "cannot use %s as the arbiter's directory: %s", path,
			strerror(errno));
		goto free_arbiter;
	}
	strcpy(arbiter->path, path);
	strcpy(arbiter->vm, vm);
	arbiter->pid = getpid();
	arbiter->pin = pin;
	arbiter->device = st.st_dev;
	arbiter->inode = st.st_ino;
	rc = make_tag(arbiter);
	if (rc < 0)
		goto free_arbiter;
	rc = view_open(arbiter, &view);
	if (rc < 0)
		goto free_arbiter;
	rc = try_out(&view);
	close(view.fd);
	if (rc < 0)
		goto free_arbiter;
	*out = arbiter;
	return 0;

free_arbiter:
	free(arbiter);
	close(pin);
	return rc;
}

void arbiter_close(struct arbiter *arbiter)
{
	struct view view;
	if (!arbiter)
		return;
	if (view_open(arbiter, &view) == 0) {
		unlinkat(view.fd, arbiter->temporary, 0);
		close(view.fd);
	}
	close(arbiter->pin);
	free(arbiter);
}

#include "engine/control.h"

#include "base/idle.h"
#include "engine/arbiter.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX 4
#define REQUEST_MAX 64
#define ANSWER_MAX (1u << 20)
#define ANSWER_TIMEOUT_NS 2000000000ull

/* A client has this long in all, from accept to the last byte of its answer. */
static const struct timeval client_time = {.tv_sec = 1};

struct client {
	struct control *control;
	int fd; /* -1: a free place */
	struct event *io;
	struct event *deadline;
	char request[REQUEST_MAX];
	size_t received;
	char *answer; /* NULL: the request is still being read */
	size_t length, sent;
};

struct control {
	struct control_user user;
	struct event_base *base;
	int fd;
	struct event *waiting; /* somebody connects */
	struct event *pause;   /* accept again after a while */
	struct client clients[CLIENTS_MAX];
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
};

static const char *run_dir(void)
{
	const char *dir = getenv("DOPPEL_RUN_DIR");
	return dir && *dir ? dir : "/run/doppel";
}

/* Builds an address from RUN_DIR and a name in it. */
static int address_of(struct sockaddr_un *address, const char *name)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	int length =
		snprintf(address->sun_path, sizeof address->sun_path, "%s/%s", run_dir(), name);
	if (length < 0 || (size_t)length >= sizeof address->sun_path)
		return fail(ENAMETOOLONG,
			"the control socket's path %s/%s is longer than %zu bytes; set "
			"DOPPEL_RUN_DIR to a shorter one",
			run_dir(), name, sizeof address->sun_path - 1);
	return 0;
}

/* Whether the process at the other end is root's or our own user's. */
static bool peer_trusted(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
	       (peer.uid == 0 || peer.uid == geteuid());
}

/* ---- the server ---- */

static void drop_client(struct client *client)
{
	struct control *control = client->control;
	if (client->io)
		event_free(client->io);
	if (client->deadline)
		event_free(client->deadline);
	close(client->fd);
	free(client->answer);
	*client = (struct client){.control = control, .fd = -1};
	event_add(control->waiting, NULL); /* there is a free place now */
}

static void on_deadline(evutil_socket_t fd, short events, void *context)
{
	(void)fd, (void)events;
	drop_client(context);
}

static void on_writable(evutil_socket_t fd, short events, void *context)
{
	struct client *client = context;
	(void)events;
	ssize_t sent = send(fd, client->answer + client->sent, client->length - client->sent,
		MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (sent > 0)
		client->sent += (size_t)sent;
	if (sent < 0 || client->sent == client->length)
		drop_client(client);
}

static json_t *carry_out(const struct control_user *user, const char *request)
{
	if (strcmp(request, "status") == 0) {
		json_t *status = user->status(user->context);
		return status ? status : json_pack("{s:s}", "error", "there is no status");
	}
	if (strcmp(request, "stop") == 0) {
		user->stop(user->context);
		return json_pack("{s:b}", "stopping", 1);
	}
	return json_pack("{s:s}", "error", "unknown request; known are status and stop");
}

/* Answers a request and goes over to sending. */
static int answer(struct client *client)
{
	struct control *control = client->control;
	json_t *json = carry_out(&control->user, client->request);
	client->answer = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!client->answer)
		return -ENOMEM;
	client->length = strlen(client->answer);
	client->answer[client->length++] = '\n'; /* in the place of the final NUL */
	event_free(client->io);
	client->io =
		event_new(control->base, client->fd, EV_WRITE | EV_PERSIST, on_writable, client);
	return client->io && event_add(client->io, NULL) == 0 ? 0 : -ENOMEM;
}

static void on_readable(evutil_socket_t fd, short events, void *context)
{
	struct client *client = context;
	(void)events;
	ssize_t got = recv(fd, client->request + client->received,
		sizeof client->request - client->received, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		drop_client(client);
		return;
	}
	client->received += (size_t)got;
	char *end = memchr(client->request, '\n', client->received);
	if (end) {
		*end = '\0';
		if (answer(client) < 0)
			drop_client(client);
		else
			on_writable(fd, EV_WRITE, client); /* the loop may end after a "stop" */
	} else if (client->received == sizeof client->request) {
		drop_client(client);
	}
}

static void admit(struct client *client, int fd)
{
	struct control *control = client->control;
	client->fd = fd;
	client->io = event_new(control->base, fd, EV_READ | EV_PERSIST, on_readable, client);
	client->deadline = evtimer_new(control->base, on_deadline, client);
	if (!client->io || !client->deadline || event_add(client->io, NULL) < 0 ||
		event_add(client->deadline, &client_time) < 0)
		drop_client(client);
}

static void on_pause_over(evutil_socket_t fd, short events, void *context)
{
	struct control *control = context;
	(void)fd, (void)events;
	event_add(control->waiting, NULL);
}

static void on_waiting(evutil_socket_t fd, short events, void *context)
{
	struct control *control = context;
	struct client *client = control->clients;
	(void)events;
	while (client < control->clients + CLIENTS_MAX && client->fd >= 0)
		client++;
	if (client == control->clients + CLIENTS_MAX) {
		event_del(control->waiting); /* drop_client() goes on */
		return;
	}
	int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (accepted < 0) {
		/* Out of descriptors: the client stays, and would wake the loop again at once. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			event_del(control->waiting);
			event_add(control->pause, &client_time);
		}
		return;
	}
	if (peer_trusted(accepted))
		admit(client, accepted);
	else
		close(accepted);
}

/* Listens under a name that no client looks at, then gives it the real one: a client that finds the
 * name and is refused may conclude that its owner is dead. */
static int listen_at(struct control *control, const char *vm)
{
	struct sockaddr_un address;
	char name[ARBITER_NAME_MAX + 16];
	snprintf(name, sizeof name, "%s.%d~", vm, (int)getpid());
	int rc = address_of(&address, name);
	if (rc < 0)
		return rc;
	if (mkdir(run_dir(), 0700) < 0 && errno != EEXIST)
		return fail(errno,
			"cannot make the run directory %s: %s; set DOPPEL_RUN_DIR to one that can "
			"be",
			run_dir(), strerror(errno));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(errno, "cannot make the control socket: %s", strerror(errno));
	unlink(address.sun_path);
	memcpy(control->path, address.sun_path, sizeof control->path);
	control->path[strlen(control->path) - 1] = '\0';
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		rc = fail(errno, "cannot make the control socket %s: %s", control->path,
			strerror(errno));
		goto close_socket;
	}
	if (listen(fd, 16) < 0 || rename(address.sun_path, control->path) < 0) {
		rc = fail(errno, "cannot listen on the control socket %s: %s", control->path,
			strerror(errno));
		goto remove_socket;
	}
	control->fd = fd;
	return 0;

remove_socket:
	unlink(address.sun_path);
close_socket:
	close(fd);
	return rc;
}

int control_open(struct control **out, struct event_base *base, const char *vm,
	const struct control_user *user)
{
	int rc = arbiter_check_name(vm);
	if (rc < 0)
		return rc;
	struct control *control = calloc(1, sizeof *control);
	if (!control)
		return fail(ENOMEM, "no memory for the control socket");
	control->user = *user;
	control->base = base;
	for (int i = 0; i < CLIENTS_MAX; i++)
		control->clients[i] = (struct client){.control = control, .fd = -1};
	rc = listen_at(control, vm);
	if (rc < 0)
		goto free_control;
	control->waiting = event_new(base, control->fd, EV_READ | EV_PERSIST, on_waiting, control);
	control->pause = evtimer_new(base, on_pause_over, control);
	if (!control->waiting || !control->pause || event_add(control->waiting, NULL) < 0) {
		control_close(control);
		return fail(ENOMEM, "cannot add the control socket to the event loop");
	}
	*out = control;
	return 0;

free_control:
	free(control);
	return rc;
}

void control_close(struct control *control)
{
	if (!control)
		return;
	unlink(control->path);
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (control->clients[i].fd >= 0)
			drop_client(&control->clients[i]);
	}
	if (control->waiting)
		event_free(control->waiting);
	if (control->pause)
		event_free(control->pause);
	close(control->fd);
	free(control);
}

/* ---- the client ---- */

/* Whether a name in RUN_DIR is that of a process of `vm` (NULL: of any VM). */
static bool is_name_of(const char *name, const char *vm)
{
	const char *dot = strrchr(name, '.');
	if (!dot || dot == name || dot[1] == '\0' || dot[1 + strspn(dot + 1, "0123456789")] != '\0')
		return false;
	return !vm || (strlen(vm) == (size_t)(dot - name) && strncmp(name, vm, strlen(vm)) == 0);
}

/* Waits for the socket until the deadline. */
static int await(int fd, short events, uint64_t deadline)
{
	for (;;) {
		uint64_t now = now_ns();
		struct pollfd poll_fd = {.fd = fd, .events = events};
		int ready = poll(
			&poll_fd, 1, now < deadline ? (int)((deadline - now) / 1000000) + 1 : 0);
		if (ready > 0)
			return 0;
		if (ready == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* Sends the request and reads until the other side ends; the text is the caller's to free. */
static int converse(int fd, const char *request, char **text)
{
	uint64_t deadline = now_ns() + ANSWER_TIMEOUT_NS;
	char line[REQUEST_MAX + 1];
	size_t capacity = 4096, length = 0;
	int n = snprintf(line, sizeof line, "%s\n", request);
	if (n < 0 || (size_t)n >= sizeof line)
		return -EMSGSIZE;
	ssize_t sent = send(fd, line, (size_t)n, MSG_NOSIGNAL);
	if (sent != n)
		return sent < 0 ? -errno : -EIO;

	char *buffer = malloc(capacity);
	while (buffer) {
		int rc = await(fd, POLLIN, deadline);
		ssize_t got =
			rc < 0 ? rc
			       : recv(fd, buffer + length, capacity - 1 - length, MSG_DONTWAIT);
		if (got == 0) {
			buffer[length] = '\0';
			*text = buffer;
			return 0;
		}
		if (got < 0 && (rc < 0 || (errno != EAGAIN && errno != EINTR))) {
			rc = rc < 0 ? rc : -errno;
			free(buffer);
			return rc;
		}
		length += got > 0 ? (size_t)got : 0;
		if (length == capacity - 1) {
			capacity *= 2;
			char *larger = capacity <= ANSWER_MAX ? realloc(buffer, capacity) : NULL;
			if (!larger)
				free(buffer);
			buffer = larger;
		}
	}
	return -ENOMEM;
}

/* Asks one process. -ECONNREFUSED: it is dead, and its socket has been removed. */
static int query_one(const struct sockaddr_un *address, const char *request, json_t **answer_out)
{
	const char *path = address->sun_path;
	char *text = NULL;
	/* connect() waits for a place in a full backlog as long as the send timeout says. */
	struct timeval limit = {.tv_sec = (time_t)(ANSWER_TIMEOUT_NS / 1000000000u)};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(errno, "cannot make a socket: %s", strerror(errno));
	int rc = 0;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
		connect(fd, (const struct sockaddr *)address, sizeof *address) < 0)
		rc = -errno;
	if (rc == -ECONNREFUSED) {
		unlink(path);
	} else if (rc == 0 && geteuid() != 0 && !peer_trusted(fd)) {
		rc = -EPERM;
	} else if (rc == 0) {
		rc = converse(fd, request, &text);
	}
	close(fd);
	if (rc < 0)
		return fail(-rc, "no answer from the doppel process behind %s: %s", path,
			strerror(-rc));
	*answer_out = json_loads(text, 0, NULL);
	if (!*answer_out)
		rc = fail(EBADMSG, "no answer from the doppel process behind %s: %s", path,
			*text ? "it sent something else than JSON" : "it closed the connection");
	free(text);
	return rc;
}

int control_query(const char *vm, const char *request,
	void (*each)(void *context, const char *path, json_t *answer), void *context)
{
	struct dirent **names = NULL;
	int answered = 0, silent = 0, last_error = 0;
	int rc = vm ? arbiter_check_name(vm) : 0;
	if (rc < 0)
		return rc;
	int count = scandir(run_dir(), &names, NULL, alphasort);
	if (count < 0 && errno != ENOENT)
		return fail(errno, "cannot look for doppel processes in %s: %s", run_dir(),
			strerror(errno));
	for (int i = 0; i < count; i++) {
		struct sockaddr_un address;
		struct stat st;
		json_t *json = NULL;
		bool ours = is_name_of(names[i]->d_name, vm);
		rc = address_of(&address, names[i]->d_name);
		free(names[i]);
		/* Connecting to a plain file is refused just as a dead process's socket is. */
		if (!ours ||
			(rc == 0 && (lstat(address.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))))
			continue;
		if (rc == 0)
			rc = query_one(&address, request, &json);
		/* It is dead, or ended between our look into the directory and now. */
		if (rc == -ENOENT || rc == -ECONNREFUSED)
			continue;
		if (rc == 0) {
			answered++;
		} else {
			silent++;
			last_error = rc;
		}
		each(context, address.sun_path, json);
		json_decref(json);
	}
	free(names);
	if (answered > 0)
		return answered;
	if (silent > 0)
		return fail(-last_error, "%d doppel process%s found in %s, but none answered",
			silent, silent == 1 ? "" : "es", run_dir());
	if (vm)
		return fail(ENOENT,
			"no doppel process runs VM %s here; looked in %s, DOPPEL_RUN_DIR names "
			"another place",
			vm, run_dir());
	return fail(ENOENT,
		"no doppel process runs here; looked in %s, DOPPEL_RUN_DIR names another place",
		run_dir());
}

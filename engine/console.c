#include "engine/console.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

struct console {
	size_t (*input)(void *context, const uint8_t *bytes, size_t count);
	void *context;
	struct event_base *base;
	struct event *readable, *connecting;
	int listener;
	/* The client's socket, -1: none. Set by the control thread; the dataplane thread only uses
	 * it. */
	_Atomic int client;
	_Atomic bool writing;
	bool terminal, raw;
	struct termios saved;
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
};

static void drop_client(struct console *console)
{
	int fd = atomic_exchange(&console->client, -1);
	if (fd < 0)
		return;
	event_free(console->readable);
	console->readable = NULL;
	/* C1: the writer announces itself before it looks at `client`. */
	while (atomic_load(&console->writing))
		usleep(50);
	close(fd);
}

static void on_readable(evutil_socket_t fd, short what, void *context)
{
	struct console *console = context;
	uint8_t bytes[512];
	(void)what;
	ssize_t n = read((int)fd, bytes, sizeof bytes);
	if (n > 0) {
		console->input(console->context, bytes, (size_t)n);
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (console->terminal)
		event_del(console->readable);
	else
		drop_client(console);
}

static void on_connect(evutil_socket_t fd, short what, void *context)
{
	struct console *console = context;
	(void)what;
	int client = accept4((int)fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (client < 0)
		return;
	/* The newest reader gets the console. */
	drop_client(console);
	console->readable =
		event_new(console->base, client, EV_READ | EV_PERSIST, on_readable, console);
	event_add(console->readable, NULL);
	atomic_store(&console->client, client);
}

static int open_terminal(struct console *console)
{
	console->terminal = true;
	atomic_store(&console->client, STDOUT_FILENO);
	if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &console->saved) == 0) {
		struct termios raw = console->saved;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		raw.c_iflag &= ~(tcflag_t)ICRNL;
		console->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
	}
	console->readable =
		event_new(console->base, STDIN_FILENO, EV_READ | EV_PERSIST, on_readable, console);
	/* A file or /dev/null as standard input cannot be polled: then there is no input. */
	if (console->readable && event_add(console->readable, NULL) < 0) {
		event_free(console->readable);
		console->readable = NULL;
	}
	return 0;
}

static int open_socket(struct console *console, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat status;
	if (strlen(path) == 0 || strlen(path) >= sizeof address.sun_path)
		return fail(ENAMETOOLONG, "--console unix:%s: give a path of 1 to %zu bytes", path,
			sizeof address.sun_path - 1);
	memcpy(address.sun_path, path, strlen(path) + 1);
	console->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (console->listener < 0)
		return fail(errno, "cannot make a socket for the console: %s", strerror(errno));
	/* What a killed process has left is taken over; what somebody listens on is not, nor what
	 * is no socket at all, though connecting to it is refused just the same. */
	if (lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
		return fail(EEXIST,
			"--console unix:%s: there is something else than a socket; give another "
			"path",
			path);
	if (connect(console->listener, (struct sockaddr *)&address, sizeof address) == 0)
		return fail(EADDRINUSE,
			"--console unix:%s: somebody listens there already; give another path",
			path);
	if (errno == ECONNREFUSED)
		unlink(path);
	if (bind(console->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
		listen(console->listener, 1) < 0)
		return fail(
			errno, "--console unix:%s: cannot listen there: %s", path, strerror(errno));
	memcpy(console->path, address.sun_path, sizeof console->path);
	console->connecting = event_new(
		console->base, console->listener, EV_READ | EV_PERSIST, on_connect, console);
	return event_add(console->connecting, NULL) < 0 ? fail(ENOMEM, "no memory for the console")
							: 0;
}

int console_open(struct console **out, const char *where, struct event_base *base,
	size_t (*input)(void *context, const uint8_t *bytes, size_t count), void *context)
{
	struct console *console = calloc(1, sizeof *console);
	if (!console)
		return fail(ENOMEM, "no memory for the console");
	*console = (struct console){
		.input = input, .context = context, .base = base, .listener = -1, .client = -1};
	int error = 0;
	if (where)
		error = strcmp(where, "-") == 0 ? open_terminal(console)
						: open_socket(console, where + strlen("unix:"));
	if (error) {
		console_close(console);
		return error;
	}
	*out = console;
	return 0;
}

size_t console_write(struct console *console, const void *bytes, size_t length)
{
	size_t done = length;
	/* C1: announced before the look at `client`; pairs with drop_client. */
	atomic_store(&console->writing, true);
	int fd = atomic_load(&console->client);
	if (fd >= 0) {
		struct pollfd poller = {.fd = fd, .events = POLLOUT};
		ssize_t n = 0;
		/* A terminal's descriptor blocks and is shared with others: never write without
		 * room. */
		if (poll(&poller, 1, 0) == 1)
			n = write(fd, bytes, console->terminal && length > 512 ? 512 : length);
		if (n > 0)
			done = (size_t)n;
		else if (console->terminal && (n == 0 || errno == EAGAIN || errno == EINTR))
			done = 0;
		else if (!console->terminal)
			shutdown(fd, SHUT_RDWR); /* which the event loop sees as its end */
	}
	atomic_store(&console->writing, false);
	return done;
}

void console_close(struct console *console)
{
	if (!console)
		return;
	if (console->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &console->saved);
	if (console->terminal) {
		if (console->readable)
			event_free(console->readable);
	} else {
		drop_client(console);
	}
	if (console->connecting)
		event_free(console->connecting);
	if (console->listener >= 0)
		close(console->listener);
	if (console->path[0])
		unlink(console->path);
	free(console);
}

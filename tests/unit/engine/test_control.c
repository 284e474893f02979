#include "engine/control.h"

#include "engine/arbiter.h"

#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

static char dir[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/doppel-control-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return setenv("DOPPEL_RUN_DIR", dir, 1);
}

static int tear_down(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- a process that serves; "stop" ends it ---- */

struct server {
	struct event_base *base;
	const char *vm;
	size_t padding;
	int asked;
};

static json_t *tell_status(void *context)
{
	struct server *server = context;
	if (strcmp(server->vm, "mute") == 0)
		return NULL;
	char *padding = calloc(1, server->padding + 1);
	memset(padding, 'x', server->padding);
	json_t *json = json_pack(
		"{s:s, s:i, s:s}", "vm", server->vm, "asked", ++server->asked, "padding", padding);
	free(padding);
	return json;
}

static void end(void *context)
{
	struct server *server = context;
	event_base_loopbreak(server->base);
}

static pid_t start_with(const char *vm, size_t padding)
{
	int ready[2];
	char byte;
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct server server = {.base = event_base_new(), .vm = vm, .padding = padding};
		const struct control_user user = {
			.status = tell_status, .stop = end, .context = &server};
		struct control *control;
		if (control_open(&control, server.base, vm, &user) < 0) {
			printf("%s\n", fail_message());
			_exit(1);
		}
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		event_base_dispatch(server.base);
		control_close(control);
		event_base_free(server.base);
		_exit(0);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static pid_t start(const char *vm)
{
	return start_with(vm, 0);
}

static void reap(pid_t child, int expected)
{
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, expected);
}

static void kill_it(pid_t child)
{
	assert_int_equal(kill(child, SIGKILL), 0);
	reap(child, SIGKILL);
}

static const char *path_of(const char *vm, pid_t pid)
{
	static char path[sizeof((struct sockaddr_un *)0)->sun_path];
	snprintf(path, sizeof path, "%s/%s.%d", dir, vm, (int)pid);
	return path;
}

static int connect_to(const char *vm, pid_t pid)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s", path_of(vm, pid));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
	return fd;
}

/* A client of our own, that says `text` and no more. */
static int say_to(const char *vm, pid_t pid, const char *text)
{
	int fd = connect_to(vm, pid);
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	return fd;
}

/* Everything until the other side ends; "" also when it was cut off. */
static const char *hear(int fd)
{
	static char text[512];
	size_t length = 0;
	for (ssize_t got; (got = recv(fd, text + length, sizeof text - 1 - length, 0)) > 0;)
		length += (size_t)got;
	text[length] = '\0';
	close(fd);
	return text;
}

struct heard {
	int calls, silent;
	char paths[8][128];
	json_t *answers[8];
};

static void note(void *context, const char *path, json_t *answer)
{
	struct heard *heard = context;
	snprintf(heard->paths[heard->calls], sizeof heard->paths[0], "%s", path);
	heard->answers[heard->calls++] = answer ? json_incref(answer) : NULL;
	heard->silent += !answer;
}

static void forget(struct heard *heard)
{
	for (int i = 0; i < heard->calls; i++)
		json_decref(heard->answers[i]);
	*heard = (struct heard){0};
}

static int names_in_dir(void)
{
	int count = 0;
	DIR *listing = opendir(dir);
	assert_non_null(listing);
	for (const struct dirent *entry; (entry = readdir(listing));)
		count += entry->d_name[0] != '.';
	closedir(listing);
	return count;
}

/* ---- tests ---- */

static void a_process_tells_its_status_and_stops_when_asked(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t server = start("ledger");
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(control_query("ledger", "status", note, &heard), 1);
		assert_int_equal(heard.calls, 1);
		assert_string_equal(heard.paths[0], path_of("ledger", server));
		assert_string_equal(
			json_string_value(json_object_get(heard.answers[0], "vm")), "ledger");
		assert_int_equal(json_integer_value(json_object_get(heard.answers[0], "asked")), i);
		forget(&heard);
	}
	assert_int_equal(control_query("ledger", "stop", note, &heard), 1);
	assert_true(json_is_true(json_object_get(heard.answers[0], "stopping")));
	forget(&heard);
	reap(server, 0);
	assert_int_equal(names_in_dir(), 0);
}

static void a_query_reaches_the_processes_of_its_vm_and_no_others(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t a1 = start("a"), a2 = start("a"), b = start("a.1");
	assert_int_equal(control_query("a", "status", note, &heard), 2);
	forget(&heard);
	assert_int_equal(control_query("a.1", "status", note, &heard), 1);
	assert_string_equal(heard.paths[0], path_of("a.1", b));
	forget(&heard);
	assert_int_equal(control_query(NULL, "status", note, &heard), 3);
	forget(&heard);
	kill_it(a1);
	kill_it(a2);
	kill_it(b);
}

static void a_dead_process_is_passed_over_and_its_socket_removed(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t dead = start("vm"), alive = start("vm");
	kill_it(dead);
	assert_int_equal(names_in_dir(), 2);
	assert_int_equal(control_query("vm", "status", note, &heard), 1);
	assert_int_equal(heard.calls, 1);
	assert_string_equal(heard.paths[0], path_of("vm", alive));
	assert_int_equal(names_in_dir(), 1);
	forget(&heard);
	kill_it(alive);
	assert_int_equal(control_query("vm", "status", note, &heard), -ENOENT);
	assert_int_equal(names_in_dir(), 0);
	assert_int_equal(heard.calls, 0);
}

static void what_is_no_socket_is_left_alone(void **state)
{
	(void)state;
	struct heard heard = {0};
	static const char *names[] = {"vm.2024", "vm.", ".17", "17", "vm.12x", "vm.17~"};
	char path[128];
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		close(open(path, O_WRONLY | O_CREAT, 0644));
	}
	assert_int_equal(control_query(NULL, "status", note, &heard), -ENOENT);
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		assert_int_equal(access(path, F_OK), 0);
	}
}

static void a_query_that_finds_nobody_says_where_it_looked(void **state)
{
	(void)state;
	struct heard heard = {0};
	assert_int_equal(control_query("vm", "status", note, &heard), -ENOENT);
	assert_non_null(strstr(fail_message(), "no doppel process runs VM vm here"));
	assert_non_null(strstr(fail_message(), dir));
	assert_int_equal(control_query(NULL, "status", note, &heard), -ENOENT);
	assert_non_null(strstr(fail_message(), dir));
	assert_int_equal(setenv("DOPPEL_RUN_DIR", "/nonexistent/doppel", 1), 0);
	assert_int_equal(control_query(NULL, "status", note, &heard), -ENOENT);
	assert_int_equal(control_query("a/b", "status", note, &heard), -EINVAL);
	assert_int_equal(heard.calls, 0);
}

static void a_process_that_hangs_is_reported_and_the_others_answer(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t hung = start("a"), well = start("b");
	assert_int_equal(kill(hung, SIGSTOP), 0);
	assert_int_equal(control_query(NULL, "status", note, &heard), 1);
	assert_int_equal(heard.calls, 2);
	assert_int_equal(heard.silent, 1);
	assert_string_equal(heard.paths[0], path_of("a", hung));
	assert_null(heard.answers[0]);
	assert_int_equal(names_in_dir(), 2);
	forget(&heard);
	kill_it(hung);
	kill_it(well);
}

static void a_long_answer_arrives_whole(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t server = start_with("vm", 700000); /* more than a socket buffer */
	assert_int_equal(control_query("vm", "status", note, &heard), 1);
	assert_int_equal(json_string_length(json_object_get(heard.answers[0], "padding")), 700000);
	forget(&heard);
	kill_it(server);
}

static void an_answer_without_end_is_cut_off(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t server = start_with("vm", 1 << 20);
	assert_true(control_query("vm", "status", note, &heard) < 0);
	assert_non_null(strstr(fail_message(), "none answered"));
	assert_int_equal(heard.silent, 1);
	forget(&heard);
	kill_it(server);
}

static void unknown_requests_and_missing_statuses_are_answered(void **state)
{
	(void)state;
	pid_t server = start("mute");
	assert_non_null(
		strstr(hear(say_to("mute", server, "dance\n")), "\"error\":\"unknown request"));
	assert_non_null(strstr(
		hear(say_to("mute", server, "status now\n")), "\"error\":\"unknown request"));
	assert_non_null(strstr(hear(say_to("mute", server, "\n")), "\"error\":\"unknown request"));
	assert_string_equal(
		hear(say_to("mute", server, "status\n")), "{\"error\":\"there is no status\"}\n");
	assert_string_equal(hear(say_to("mute", server, "stop\nstop\n")), "{\"stopping\":true}\n");
	reap(server, 0);
}

static void a_request_may_come_in_pieces_but_not_without_end(void **state)
{
	(void)state;
	char endless[65];
	pid_t server = start("vm");
	int fd = say_to("vm", server, "sta");
	assert_non_null(strstr(hear(say_to("vm", server, "status\n")), "\"asked\":1"));
	assert_int_equal(send(fd, "tus\n", 4, MSG_NOSIGNAL), 4);
	assert_non_null(strstr(hear(fd), "\"asked\":2"));
	memset(endless, 's', 64);
	endless[64] = '\0';
	assert_string_equal(hear(say_to("vm", server, endless)), "");
	kill_it(server);
}

static void clients_that_vanish_do_no_harm(void **state)
{
	(void)state;
	pid_t server = start_with("vm", 400000);
	for (int i = 0; i < 20; i++) {
		close(say_to("vm", server, ""));
		close(say_to("vm", server, "sta"));
		close(say_to("vm", server, "status\n"));
	}
	struct heard heard = {0};
	assert_int_equal(control_query("vm", "status", note, &heard), 1);
	forget(&heard);
	kill_it(server);
}

static void silent_clients_are_dropped_and_hold_up_nobody_for_long(void **state)
{
	(void)state;
	struct heard heard = {0};
	pid_t server = start("vm"), greedy = start_with("big", 400000);
	int silent[6], slow[6];
	for (int i = 0; i < 6; i++) {
		silent[i] = say_to("vm", server, i % 2 ? "stat" : "");
		slow[i] = say_to("big", greedy, "status\n"); /* and never reads */
	}
	assert_int_equal(control_query("vm", "status", note, &heard), 1);
	assert_int_equal(control_query("big", "status", note, &heard), 1);
	forget(&heard);
	for (int i = 0; i < 6; i++) {
		assert_string_equal(hear(silent[i]), "");
		close(slow[i]);
	}
	kill_it(server);
	kill_it(greedy);
}

static void a_strangers_process_is_not_served(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		printf("skip: becoming another user needs root\n");
		skip();
	}
	pid_t server = start("vm");
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(chmod(path_of("vm", server), 0777), 0);
	pid_t stranger = fork();
	assert_true(stranger >= 0);
	if (stranger == 0) {
		if (setuid(65534) < 0)
			_exit(2);
		int fd = connect_to("vm", server);
		if (send(fd, "stop\n", 5, MSG_NOSIGNAL) < 0 && errno != EPIPE)
			_exit(3);
		_exit(*hear(fd) != '\0');
	}
	reap(stranger, 0);
	assert_non_null(strstr(hear(say_to("vm", server, "status\n")), "\"asked\":1"));
	kill_it(server);
}

static void the_run_directory_is_made_for_its_user_alone(void **state)
{
	(void)state;
	char below[80];
	struct stat st;
	snprintf(below, sizeof below, "%s/run", dir);
	assert_int_equal(setenv("DOPPEL_RUN_DIR", below, 1), 0);
	kill_it(start("vm"));
	assert_int_equal(stat(below, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

static void a_socket_left_by_an_earlier_process_with_our_pid_is_replaced(void **state)
{
	(void)state;
	struct event_base *base = event_base_new();
	struct server server = {.base = base, .vm = "vm"};
	const struct control_user user = {.status = tell_status, .stop = end, .context = &server};
	struct control *control;
	char path[128];
	snprintf(path, sizeof path, "%s~", path_of("vm", getpid()));
	close(open(path, O_WRONLY | O_CREAT, 0644));
	close(open(path_of("vm", getpid()), O_WRONLY | O_CREAT, 0644));
	assert_int_equal(control_open(&control, base, "vm", &user), 0);
	assert_int_equal(names_in_dir(), 1);
	control_close(control);
	assert_int_equal(names_in_dir(), 0);
	event_base_free(base);
}

static void a_socket_that_cannot_be_made_is_refused_with_a_reason(void **state)
{
	(void)state;
	struct event_base *base = event_base_new();
	const struct control_user user = {.status = tell_status, .stop = end};
	struct control *control;
	char long_name[ARBITER_NAME_MAX + 1], deep[100];
	assert_int_equal(control_open(&control, base, "a/b", &user), -EINVAL);
	memset(long_name, 'x', sizeof long_name);
	long_name[ARBITER_NAME_MAX] = '\0';
	snprintf(deep, sizeof deep, "%s/%s", dir, "a-directory-of-some-length");
	assert_int_equal(setenv("DOPPEL_RUN_DIR", deep, 1), 0);
	assert_int_equal(control_open(&control, base, long_name, &user), -ENAMETOOLONG);
	assert_non_null(strstr(fail_message(), "DOPPEL_RUN_DIR"));
	assert_int_equal(setenv("DOPPEL_RUN_DIR", "/nonexistent/doppel", 1), 0);
	assert_int_equal(control_open(&control, base, "vm", &user), -ENOENT);
	assert_non_null(strstr(fail_message(), "/nonexistent/doppel"));
	assert_int_equal(setenv("DOPPEL_RUN_DIR", "/dev/null", 1), 0);
	assert_int_equal(control_open(&control, base, "vm", &user), -ENOTDIR);
	control_close(NULL);
	event_base_free(base);
}

static void closing_drops_the_clients_that_are_being_served(void **state)
{
	(void)state;
	struct event_base *base = event_base_new();
	struct server server = {.base = base, .vm = "vm", .padding = 400000};
	const struct control_user user = {.status = tell_status, .stop = end, .context = &server};
	struct control *control;
	assert_int_equal(control_open(&control, base, "vm", &user), 0);
	int silent = say_to("vm", getpid(), "sta"), slow = say_to("vm", getpid(), "status\n");
	while (server.asked == 0)
		event_base_loop(base, EVLOOP_ONCE);
	control_close(control);
	assert_string_equal(hear(silent), "");
	close(slow);
	assert_int_equal(event_base_get_num_events(base, EVENT_BASE_COUNT_ADDED), 0);
	event_base_free(base);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_process_tells_its_status_and_stops_when_asked),
		TEST(a_query_reaches_the_processes_of_its_vm_and_no_others),
		TEST(a_dead_process_is_passed_over_and_its_socket_removed),
		TEST(what_is_no_socket_is_left_alone),
		TEST(a_query_that_finds_nobody_says_where_it_looked),
		TEST(a_process_that_hangs_is_reported_and_the_others_answer),
		TEST(a_long_answer_arrives_whole),
		TEST(an_answer_without_end_is_cut_off),
		TEST(unknown_requests_and_missing_statuses_are_answered),
		TEST(a_request_may_come_in_pieces_but_not_without_end),
		TEST(clients_that_vanish_do_no_harm),
		TEST(silent_clients_are_dropped_and_hold_up_nobody_for_long),
		TEST(a_strangers_process_is_not_served),
		TEST(the_run_directory_is_made_for_its_user_alone),
		TEST(a_socket_left_by_an_earlier_process_with_our_pid_is_replaced),
		TEST(a_socket_that_cannot_be_made_is_refused_with_a_reason),
		TEST(closing_drops_the_clients_that_are_being_served),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

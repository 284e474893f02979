#include "pair.h"

#include "transport/tcp_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

/* Shorter than what is noticed only by luck: a silence is noticed by probes a second apart. */
#define NOTICED_MS (TCP_SILENCE_MS + 4000u)

static void impossible_addresses_are_refused(void **state)
{
	(void)state;
	static char longest[300];
	memset(longest, 'x', 290);
	memcpy(longest + 290, ":7", 3);
	const char *addresses[] = {"", ":", "host", "127.0.0.1", "127.0.0.1:", ":7000",
		"127.0.0.1:x", "127.0.0.1:7000x", "127.0.0.1:-1", "::1:7000", "[::1]", "[::1]7000",
		"[]:7000", "[127.0.0.1:7000", longest};
	for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		assert_int_equal(tcp_listen(addresses[i]), -EINVAL);
		assert_int_equal(tcp_connect(addresses[i], 0), -EINVAL);
		assert_non_null(strstr(fail_message(), "address tcp:"));
	}
}

static void a_taken_port_is_said_to_be_taken(void **state)
{
	(void)state;
	char address[48];
	free_port(address, sizeof address);
	int fd = tcp_listen(address);
	assert_true(fd >= 0);
	assert_int_equal(tcp_listen(address), -EADDRINUSE);
	assert_non_null(strstr(fail_message(), address));
	close(fd);
}

static void an_address_of_another_host_cannot_be_listened_on(void **state)
{
	(void)state;
	assert_int_equal(tcp_listen("192.0.2.1:7000"), -EADDRNOTAVAIL);
}

static void ipv6_addresses_are_taken_in_brackets(void **state)
{
	(void)state;
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t length = sizeof any;
	char address[48];
	int probe = socket(AF_INET6, SOCK_STREAM, 0);
	if (probe < 0 || bind(probe, (struct sockaddr *)&any, length) < 0) {
		printf("skip: this machine has no IPv6\n");
		if (probe >= 0)
			close(probe);
		skip();
	}
	getsockname(probe, (struct sockaddr *)&any, &length);
	close(probe);
	snprintf(address, sizeof address, "[::1]:%u", ntohs(any.sin6_port));
	int listener = tcp_listen(address), fd = tcp_connect(address, LONG_MS);
	assert_true(listener >= 0);
	assert_true(fd >= 0);
	close(fd);
	close(listener);
}

/* ---- In a network of their own ---- */

static int switch_loopback(bool on)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = on ? IFF_UP | IFF_RUNNING : 0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int error = fd < 0 ? -1 : ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return error;
}

/* Runs in a child; its exit status is the verdict, and 77 means that the network could not be had.
 */
static void in_own_network(void (*function)(void))
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (unshare(CLONE_NEWNET) < 0 || switch_loopback(true) < 0)
			_exit(77);
		function();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		printf("skip: a network namespace needs root\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void connect_where_only_we_are(void)
{
	/* The kernel has hardly any port to give but the one that is called. */
	int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY);
	REQUIRE(fd >= 0 && write(fd, "40000 40001", 11) == 11);
	close(fd);
	for (int i = 0; i < 20; i++)
		REQUIRE(tcp_connect("127.0.0.1:40000", LONG_MS) == -ECONNREFUSED);
}

static void a_socket_that_meets_itself_has_met_nobody(void **state)
{
	(void)state;
	in_own_network(connect_where_only_we_are);
}

static void *await_the_end(void *argument)
{
	static _Thread_local uint8_t bytes[64];
	size_t length;
	int error = provider_tcp.recv(argument, bytes, sizeof bytes, &length, NOTICED_MS);
	return error == -ECONNRESET ? NULL : argument;
}

/* One connection is idle; two have something to send, from either side. Another one sends too, whose
 * guest memory was withdrawn: others watch it. */
static void go_silent(void)
{
	enum { IDLE, PRIMARY_SENDS, STANDBY_SENDS, PAIRS, WATCHED = PAIRS };
	struct pair pairs[PAIRS + 1];
	pthread_t threads[2 * PAIRS];
	struct listener *listener;
	REQUIRE(provider_tcp.listen("127.0.0.1:5000", &listener) == 0);
	provider = &provider_tcp;
	for (int i = 0; i <= PAIRS; i++) {
		REQUIRE(provider_tcp.connect("127.0.0.1:5000", LONG_MS, &pairs[i].primary) == 0);
		pairs[i].standby = pair_accept(listener);
		REQUIRE(pairs[i].standby);
	}
	provider_tcp.withdraw_memory(pairs[WATCHED].primary);
	provider_tcp.withdraw_memory(pairs[WATCHED].standby);
	REQUIRE(switch_loopback(false) == 0);
	REQUIRE(provider_tcp.send(pairs[WATCHED].primary, "x", 1) == 0);
	REQUIRE(provider_tcp.send(pairs[PRIMARY_SENDS].primary, "x", 1) == 0);
	REQUIRE(provider_tcp.send(pairs[STANDBY_SENDS].standby, "x", 1) == 0);
	for (int i = 0; i < PAIRS; i++) {
		pthread_create(&threads[2 * i], NULL, await_the_end, pairs[i].primary);
		pthread_create(&threads[2 * i + 1], NULL, await_the_end, pairs[i].standby);
	}
	for (int i = 0; i < 2 * PAIRS; i++) {
		void *failed;
		pthread_join(threads[i], &failed);
		REQUIRE(!failed);
	}
	uint8_t byte;
	size_t length;
	REQUIRE(provider_tcp.recv(pairs[WATCHED].primary, &byte, 1, &length, 0) == -ETIMEDOUT);
	REQUIRE(provider_tcp.recv(pairs[WATCHED].standby, &byte, 1, &length, 0) == -ETIMEDOUT);
	provider_tcp.close(pairs[WATCHED].primary);
	provider_tcp.close(pairs[WATCHED].standby);
	for (int i = 0; i < PAIRS; i++) {
		REQUIRE(provider_tcp.send(pairs[i].primary, "x", 1) == -ECONNRESET);
		provider_tcp.close(pairs[i].primary);
		provider_tcp.close(pairs[i].standby);
	}
}

static void a_peer_that_vanishes_without_a_word_is_noticed_until_others_watch_it(void **state)
{
	(void)state;
	in_own_network(go_silent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
		TEST(impossible_addresses_are_refused),
		TEST(a_taken_port_is_said_to_be_taken),
		TEST(an_address_of_another_host_cannot_be_listened_on),
		TEST(ipv6_addresses_are_taken_in_brackets),
		TEST(a_socket_that_meets_itself_has_met_nobody),
		TEST(a_peer_that_vanishes_without_a_word_is_noticed_until_others_watch_it),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

/* Who knows the key is accepted, on both sides; nobody else is, and is told so. */
#include "engine/auth.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

#define MESSAGE 40u

/* A connection is one end of a socket pair; `heard` keeps what it has received. */
struct connection {
	int fd;
	unsigned count;
	uint8_t heard[4][MESSAGE];
};

static int fake_send(struct connection *c, const void *message, size_t length)
{
	return send(c->fd, message, length, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -ECONNRESET;
}

static int fake_recv(
	struct connection *c, void *message, size_t capacity, size_t *length, unsigned timeout_ms)
{
	struct pollfd pollfd = {.fd = c->fd, .events = POLLIN};
	if (poll(&pollfd, 1, (int)timeout_ms) != 1)
		return -ETIMEDOUT;
	ssize_t got = recv(c->fd, message, capacity, 0);
	if (got <= 0)
		return -ECONNRESET;
	*length = (size_t)got;
	if (got == MESSAGE && c->count < 4)
		memcpy(c->heard[c->count++], message, MESSAGE);
	return 0;
}

static const struct provider fake = {.send = fake_send, .recv = fake_recv};

static struct connection primary, standby;
static const struct auth_key key = {.size = 16, .bytes = "sixteen bytes..."};
static const struct auth_key other = {.size = 16, .bytes = "sixteen bytes,.."};

static int set_up(void **state)
{
	(void)state;
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) < 0)
		return -1;
	primary = (struct connection){.fd = fds[0]};
	standby = (struct connection){.fd = fds[1]};
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	close(primary.fd);
	close(standby.fd);
	return 0;
}

struct side {
	const struct auth_key *key;
	int error;
	uint64_t secret;
	char message[256];
};

static void *be_standby(void *argument)
{
	struct side *side = argument;
	side->error = auth_as_standby(side->key, &fake, &standby, &side->secret);
	snprintf(side->message, sizeof side->message, "%s", fail_message());
	return NULL;
}

/* Both sides at once, each with its key. */
static void meet(struct side *first, struct side *second)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, be_standby, second), 0);
	first->error = auth_as_primary(first->key, &fake, &primary, &first->secret);
	snprintf(first->message, sizeof first->message, "%s", fail_message());
	pthread_join(thread, NULL);
}

static void both_sides_know_the_key_and_have_one_secret(void **state)
{
	(void)state;
	struct side first = {.key = &key}, second = {.key = &key}, again = {.key = &key};
	meet(&first, &second);
	assert_int_equal(first.error, 0);
	assert_int_equal(second.error, 0);
	assert_true(first.secret == second.secret);
	meet(&again, &second);
	assert_true(again.secret == second.secret);
	assert_true(again.secret != first.secret);
}

static void without_a_key_the_empty_one_is_known(void **state)
{
	(void)state;
	struct auth_key none;
	assert_int_equal(auth_key_read(&none, NULL), 0);
	struct side first = {.key = &none}, second = {.key = &none};
	meet(&first, &second);
	assert_int_equal(first.error, 0);
	assert_int_equal(second.error, 0);
}

static void assert_strangers(const struct auth_key *one, const struct auth_key *another)
{
	struct side first = {.key = one}, second = {.key = another};
	meet(&first, &second);
	assert_int_equal(first.error, -EACCES);
	assert_int_equal(second.error, -EACCES);
	assert_non_null(strstr(first.message, "--key"));
	assert_non_null(strstr(second.message, "--key"));
}

static void another_key_is_refused_on_both_sides(void **state)
{
	(void)state;
	const struct auth_key none = {.size = 0},
			      longer = {.size = 17, .bytes = "sixteen bytes...!"};
	assert_strangers(&other, &key);
	assert_strangers(&key, &other);
	assert_strangers(&none, &key);
	assert_strangers(&key, &none);
	assert_strangers(&longer, &key);
}

/* A standby that claims to accept, and proves nothing. */
static void *claim(void *argument)
{
	uint8_t message[MESSAGE] = {0};
	uint32_t magic = 0x50504f44u;
	(void)argument;
	for (unsigned i = 0; i < 2; i++) {
		size_t length;
		if (fake_recv(&standby, message, sizeof message, &length, 5000) < 0)
			return NULL;
		/* The last one returns the primary's own proof. */
		uint32_t answer = magic + 1 + 2 * i;
		memcpy(message, &answer, sizeof answer);
		fake_send(&standby, message, sizeof message);
	}
	return NULL;
}

static void a_standby_that_proves_nothing_is_refused(void **state)
{
	(void)state;
	pthread_t thread;
	uint64_t secret = 0;
	assert_int_equal(pthread_create(&thread, NULL, claim, NULL), 0);
	assert_int_equal(auth_as_primary(&key, &fake, &primary, &secret), -EACCES);
	pthread_join(thread, NULL);
	assert_true(secret == 0);
}

static void what_was_overheard_proves_nothing_later(void **state)
{
	(void)state;
	struct side first = {.key = &key}, second = {.key = &key};
	meet(&first, &second);
	assert_int_equal(second.error, 0);
	assert_int_equal(standby.count, 2);
	second.error = 0;
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, be_standby, &second), 0);
	fake_send(&primary, standby.heard[0], MESSAGE);
	uint8_t challenge[MESSAGE];
	size_t length;
	assert_int_equal(fake_recv(&primary, challenge, sizeof challenge, &length, 5000), 0);
	fake_send(&primary, standby.heard[1], MESSAGE);
	pthread_join(thread, NULL);
	assert_int_equal(second.error, -EACCES);
}

/* The standby says nothing that needs the key before the primary has proved it. */
static void a_stranger_gets_nothing_to_try_keys_on(void **state)
{
	(void)state;
	struct side first = {.key = &other}, second = {.key = &key};
	meet(&first, &second);
	static const uint8_t nothing[32];
	assert_int_equal(primary.count, 2);
	assert_memory_equal(primary.heard[1] + 8, nothing, sizeof nothing);
}

static void what_is_no_proof_ends_it(void **state)
{
	(void)state;
	static const struct {
		size_t length;
		uint32_t magic;
	} bad[] = {
		{MESSAGE, 0}, {MESSAGE, 0x50504f45u}, {MESSAGE - 1, 0x50504f44u}, {4, 0x50504f44u}};
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		uint8_t message[MESSAGE] = {0};
		uint64_t secret;
		memcpy(message, &bad[i].magic, 4);
		fake_send(&primary, message, bad[i].length);
		assert_int_equal(auth_as_standby(&key, &fake, &standby, &secret), -EPROTO);
	}
	shutdown(primary.fd, SHUT_RDWR);
	uint64_t secret;
	assert_int_equal(auth_as_standby(&key, &fake, &standby, &secret), -ECONNRESET);
}

/* ---- files ---- */

static int read_file(size_t size, mode_t mode)
{
	struct auth_key read;
	char path[] = "/tmp/doppel-test-XXXXXX";
	static uint8_t bytes[AUTH_KEY_MAX + 1];
	int fd = mkstemp(path);
	assert_true(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && fchmod(fd, mode) == 0);
	close(fd);
	int error = auth_key_read(&read, path);
	unlink(path);
	if (error)
		assert_non_null(strstr(fail_message(), path));
	else
		assert_int_equal(read.size, size);
	return error;
}

static void a_key_is_a_private_file_of_some_bytes(void **state)
{
	(void)state;
	struct auth_key read;
	assert_int_equal(read_file(AUTH_KEY_MIN, 0600), 0);
	assert_int_equal(read_file(AUTH_KEY_MAX, 0400), 0);
	assert_int_equal(read_file(0, 0600), -EINVAL);
	assert_int_equal(read_file(AUTH_KEY_MIN - 1, 0600), -EINVAL);
	assert_int_equal(read_file(AUTH_KEY_MAX + 1, 0600), -EINVAL);
	assert_int_equal(read_file(AUTH_KEY_MIN, 0640), -EINVAL);
	assert_int_equal(read_file(AUTH_KEY_MIN, 0604), -EINVAL);
	assert_int_equal(auth_key_read(&read, "/nonexistent/key"), -ENOENT);
	assert_int_equal(auth_key_read(&read, "/"), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(both_sides_know_the_key_and_have_one_secret),
		TEST(without_a_key_the_empty_one_is_known),
		TEST(another_key_is_refused_on_both_sides),
		TEST(a_standby_that_proves_nothing_is_refused),
		TEST(what_was_overheard_proves_nothing_later),
		TEST(a_stranger_gets_nothing_to_try_keys_on),
		TEST(what_is_no_proof_ends_it),
		TEST(a_key_is_a_private_file_of_some_bytes),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

#include "engine/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MS 3000u
#define NONCE 32u
#define MAC crypto_auth_hmacsha256_BYTES

/* Another version may have other messages behind these, but not others here. */
enum { MAGIC_OPEN = 0x50504f44u, MAGIC_CHALLENGE, MAGIC_PROOF, MAGIC_ANSWER };

struct message {
	uint32_t magic, refused;
	uint8_t bytes[32]; /* a nonce or a MAC */
};
_Static_assert(sizeof(struct message) == 40 && NONCE == 32 && MAC == 32, "shared between hosts");

static const char *const stranger =
	"it does not know this VM's key; give both sides the same --key FILE";

static int read_all(int fd, struct auth_key *key, const char *path)
{
	struct stat st;
	ssize_t got;
	uint8_t more;
	if (fstat(fd, &st) < 0)
		return fail(errno, "cannot look at the key %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(EINVAL, "the key %s is not a regular file; check its name", path);
	if (st.st_mode & 077)
		return fail(EINVAL,
			"others may read the key %s; make it private with `chmod 600 %s`", path,
			path);
	while (key->size < AUTH_KEY_MAX &&
		(got = read(fd, key->bytes + key->size, AUTH_KEY_MAX - key->size)) != 0) {
		if (got < 0)
			return fail(errno, "cannot read the key %s: %s", path, strerror(errno));
		key->size += (size_t)got;
	}
	if (key->size < AUTH_KEY_MIN || read(fd, &more, 1) != 0)
		return fail(EINVAL,
			"the key %s has not between %u and %u bytes; make one with `head -c 32 "
			"/dev/urandom >%s`",
			path, AUTH_KEY_MIN, AUTH_KEY_MAX, path);
	return 0;
}

int auth_key_read(struct auth_key *key, const char *path)
{
	*key = (struct auth_key){0};
	if (sodium_init() < 0)
		return fail(EIO, "libsodium does not start: the kernel gives no random bytes");
	if (!path)
		return 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return fail(errno, "cannot open the key %s: %s", path, strerror(errno));
	int error = read_all(fd, key, path);
	close(fd);
	return error;
}

/* The MAC of `name` and both nonces. */
static void sign(const struct auth_key *key, const char *name, const struct message *open,
	const struct message *challenge, uint8_t mac[MAC])
{
	crypto_auth_hmacsha256_state state;
	crypto_auth_hmacsha256_init(&state, key->bytes, key->size);
	crypto_auth_hmacsha256_update(&state, (const uint8_t *)name, strlen(name) + 1);
	crypto_auth_hmacsha256_update(&state, open->bytes, NONCE);
	crypto_auth_hmacsha256_update(&state, challenge->bytes, NONCE);
	crypto_auth_hmacsha256_final(&state, mac);
}

static void make_secret(const struct auth_key *key, const struct message *open,
	const struct message *challenge, uint64_t *secret)
{
	uint8_t mac[MAC];
	sign(key, "secret", open, challenge, mac);
	memcpy(secret, mac, sizeof *secret);
}

static int receive(const struct provider *provider, struct connection *connection, uint32_t magic,
	struct message *message)
{
	size_t length;
	int error = provider->recv(connection, message, sizeof *message, &length, ANSWER_MS);
	if (error)
		return error;
	if (length != sizeof *message || message->magic != magic)
		return fail(EPROTO,
			"what the peer says is no proof of a key; is it the same version of "
			"Doppel?");
	return 0;
}

int auth_as_primary(const struct auth_key *key, const struct provider *provider,
	struct connection *connection, uint64_t *secret)
{
	struct message open = {.magic = MAGIC_OPEN}, proof = {.magic = MAGIC_PROOF};
	struct message challenge, answer;
	uint8_t expected[MAC];
	randombytes_buf(open.bytes, NONCE);
	int error = provider->send(connection, &open, sizeof open);
	if (!error)
		error = receive(provider, connection, MAGIC_CHALLENGE, &challenge);
	if (error)
		return error;
	sign(key, "primary", &open, &challenge, proof.bytes);
	error = provider->send(connection, &proof, sizeof proof);
	if (!error)
		error = receive(provider, connection, MAGIC_ANSWER, &answer);
	if (error)
		return error;
	sign(key, "standby", &open, &challenge, expected);
	if (answer.refused)
		return fail(EACCES,
			"the standby refuses: this primary does not know its key; give both "
			"sides the same --key FILE");
	if (sodium_memcmp(answer.bytes, expected, MAC) != 0)
		return fail(EACCES, "the standby was not accepted: %s", stranger);
	make_secret(key, &open, &challenge, secret);
	return 0;
}

int auth_as_standby(const struct auth_key *key, const struct provider *provider,
	struct connection *connection, uint64_t *secret)
{
	struct message challenge = {.magic = MAGIC_CHALLENGE}, answer = {.magic = MAGIC_ANSWER};
	struct message open, proof;
	uint8_t expected[MAC];
	int error = receive(provider, connection, MAGIC_OPEN, &open);
	if (error)
		return error;
	randombytes_buf(challenge.bytes, NONCE);
	error = provider->send(connection, &challenge, sizeof challenge);
	if (!error)
		error = receive(provider, connection, MAGIC_PROOF, &proof);
	if (error)
		return error;
	sign(key, "primary", &open, &challenge, expected);
	bool known = sodium_memcmp(proof.bytes, expected, MAC) == 0;
	if (known)
		sign(key, "standby", &open, &challenge, answer.bytes);
	answer.refused = !known;
	error = provider->send(connection, &answer, sizeof answer);
	if (!known)
		return fail(EACCES, "%s", stranger);
	if (!error)
		make_secret(key, &open, &challenge, secret);
	return error;
}

/* Command lines: what they become, and that a mistake is told in one line. */
#include "engine/config.h"

#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

#define ARGUMENTS_MAX 24

static struct config config;
static char said[1024];

/* Splits at spaces, parses, and keeps what goes to standard error in `said`. */
static int parse(const char *line)
{
	static char text[512];
	char *argv[ARGUMENTS_MAX + 1] = {"doppel"};
	int argc = 1;
	snprintf(text, sizeof text, "%s", line);
	for (char *word = strtok(text, " "); word && argc < ARGUMENTS_MAX; word = strtok(NULL, " "))
		argv[argc++] = word;
	FILE *caught = tmpfile();
	assert_non_null(caught);
	fflush(stderr);
	int kept = dup(STDERR_FILENO);
	dup2(fileno(caught), STDERR_FILENO);
	optind = 0; /* a new command line for getopt */
	int status = config_parse(&config, argc, argv);
	fflush(stderr);
	dup2(kept, STDERR_FILENO);
	close(kept);
	rewind(caught);
	said[fread(said, 1, sizeof said - 1, caught)] = '\0';
	fclose(caught);
	return status;
}

static void what_is_not_given_has_a_default(void **state)
{
	(void)state;
	assert_int_equal(parse("run --kernel k"), -1);
	assert_int_equal(config.command, COMMAND_RUN);
	assert_string_equal(config.name, "vm");
	assert_string_equal(config.kernel, "k");
	assert_string_equal(config.append, "");
	assert_string_equal(config.heartbeat, "127.0.0.1");
	assert_null(config.net);
	assert_null(config.console);
	assert_null(config.record);
	assert_int_equal(config.memory, 0);
	assert_int_equal(config.ring, 16u << 20);
	assert_int_equal(config.commit, COMMIT_RECEIVED);
	assert_int_equal(config.timeout_ms, 500);
	assert_int_equal(config.lag_ms, 100);
	assert_false(config.take_over);
	assert_false(config.json);
	assert_string_equal(said, "");
}

static void what_is_given_is_taken(void **state)
{
	(void)state;
	assert_int_equal(parse("primary --kernel k --standby shm:b --arbiter dir:/a --memory 24M "
			       "--ring 2M --commit "
			       "replayed --take-over --heartbeat-timeout 60000"),
		-1);
	assert_int_equal(config.command, COMMAND_PRIMARY);
	assert_int_equal(config.memory, 24u << 20);
	assert_int_equal(config.ring, 2u << 20);
	assert_int_equal(config.commit, COMMIT_REPLAYED);
	assert_int_equal(config.timeout_ms, 60000);
	assert_true(config.take_over);
	assert_string_equal(config.standby, "shm:b");
	assert_string_equal(config.arbiter, "dir:/a");
	assert_int_equal(parse("status db --json"), -1);
	assert_string_equal(config.file, "db");
	assert_true(config.json);
	assert_int_equal(parse("replay file"), -1);
	assert_string_equal(config.file, "file");
	assert_false(config.has_until);
	assert_int_equal(parse("replay file --until 12345 --progress"), -1);
	assert_true(config.has_until);
	assert_true(config.progress);
	assert_true(config.until_lsn == 12345);
	assert_true(config.until_ns == UINT64_MAX);
	assert_int_equal(parse("replay file --until 3.5s"), -1);
	assert_true(config.until_lsn == UINT64_MAX);
	assert_true(config.until_ns == 3500000000u);
	assert_int_equal(parse("replay file --until 20ms"), -1);
	assert_true(config.until_ns == 20000000u);
	assert_int_equal(parse("standby --listen l --arbiter a --lag 250"), -1);
	assert_int_equal(config.lag_ms, 250);
	assert_int_equal(parse("stop"), -1);
	assert_null(config.file);
}

static void sizes_have_units(void **state)
{
	(void)state;
	const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {{"1048576", 1u << 20}, {"1024K", 1u << 20}, {"1024k", 1u << 20},
		{"17m", 17u << 20}, {"1M", 1u << 20}, {"3G", 3ull << 30}, {"3g", 3ull << 30},
		{"1028K", 1028u << 10}};
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		char line[64];
		snprintf(line, sizeof line, "run --kernel k --memory %s", sizes[i].text);
		assert_int_equal(parse(line), -1);
		assert_true(config.memory == sizes[i].bytes);
	}
	/* 2^64 + 16 MiB, in bytes and in units */
	assert_int_equal(parse("run --kernel k --memory 18446744073726328832"), STATUS_USAGE);
	assert_int_equal(parse("run --kernel k --memory 17179869185G"), STATUS_USAGE);
}

static void a_mac_address_comes_from_the_name_unless_it_is_given(void **state)
{
	(void)state;
	uint8_t first[6];
	assert_int_equal(parse("run --kernel k --name a"), -1);
	memcpy(first, config.mac, 6);
	assert_int_equal(first[0], 0x52);
	assert_int_equal(parse("primary --kernel k --name a --standby s --arbiter a"), -1);
	assert_memory_equal(config.mac, first, 6);
	assert_int_equal(parse("run --kernel k --name b"), -1);
	assert_memory_not_equal(config.mac, first, 6);
	assert_int_equal(parse("run --kernel k --mac 02:aB:00:00:00:ff"), -1);
	assert_memory_equal(config.mac, ((const uint8_t[]){2, 0xab, 0, 0, 0, 0xff}), 6);
}

static void a_mistake_is_one_line_that_names_it(void **state)
{
	(void)state;
	const struct {
		const char *line, *named;
	} mistakes[] = {
		{"", "no command"},
		{"jump", "jump"},
		{"run", "--kernel"},
		{"run --kernel", "--kernel"},
		{"run --kernel k extra", "extra"},
		{"run --kernel k --arbiter dir:x", "--arbiter"},
		{"run --kernel k --ring 1M", "--ring"},
		{"standby --listen shm:b --arbiter dir:x --kernel k", "--kernel"},
		{"standby --arbiter dir:x", "--listen"},
		{"standby --listen shm:b", "--arbiter"},
		{"standby --listen shm:b --arbiter dir:x --log-size 1G", "--log PATH"},
		{"standby --listen shm:b --arbiter dir:x --log-keep all", "--log PATH"},
		{"primary --kernel k --standby shm:b", "--arbiter"},
		{"primary --kernel k --arbiter dir:x", "--standby"},
		{"primary --standby shm:b --arbiter dir:x", "--kernel"},
		{"replay", "FILE"},
		{"dump", "FILE"},
		{"dump a b", "b"},
		{"status --json=yes", "--json=yes"},
		{"stop -v", "-v"},
		{"run --kernel k --memory 16384", "16384"},
		{"run --kernel k --memory 1048577", "1048577"},
		{"run --kernel k --mac 52:54:00:12:34:5", "52:54:00:12:34:5"},
		{"run --kernel k --mac +2:54:00:12:34:56", "+2:54"},
		{"run --kernel k --mac 53:54:00:12:34:56", "53:54"},
		{"run --kernel k --name a/b", "a/b"},
		{"run --kernel k --console tcp:1", "tcp:1"},
		{"standby --listen l --arbiter a --heartbeat-timeout 49", "49"},
		{"run --kernel k --interrupt-wait 0", "0"},
		{"standby --listen l --arbiter a --when-diverged often", "often"},
		{"run --kernel k --interrupt-wait 10001", "10001"},
		{"primary --kernel k --standby s --arbiter a --interrupt-wait 5ms", "5ms"},
		{"standby --listen l --arbiter a --heartbeat-timeout +50", "+50"},
		{"standby --listen l --arbiter a --lag 49", "49"},
		{"primary --kernel k --standby s --arbiter a --lag 1s", "1s"},
		{"run --kernel k --lag 100", "--lag"},
		{"replay f --until", "--until"},
		{"replay f --until soon", "soon"},
		{"replay f --until 3x", "3x"},
		{"replay f --until 1.5", "1.5"},
		{"replay f --until .5s", ".5s"},
		{"replay f --until -5", "-5"},
		{"replay f --until 1.2.3s", "1.2.3s"},
		{"replay f --until 0x10", "0x10"},
		{"replay f --until 1e3s", "1e3s"},
		{"replay f --until 99999999999s", "99999999999s"},
		{"replay f --until 18446744073709551616", "18446744073709551616"},
		{"dump f --until 5", "--until"},
		{"primary --kernel k --standby s --arbiter a --commit sometimes", "sometimes"},
		{"primary --kernel k --standby s --arbiter a --ring 1000000", "1000000"},
	};
	for (unsigned i = 0; i < sizeof mistakes / sizeof mistakes[0]; i++) {
		const char *newline;
		assert_int_equal(parse(mistakes[i].line), STATUS_USAGE);
		newline = strchr(said, '\n');
		if (!strstr(said, mistakes[i].named) || strncmp(said, "doppel", 6) != 0 ||
			!newline || newline[1])
			fail_msg("%s: %s", mistakes[i].line, said);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_given_has_a_default),
		cmocka_unit_test(what_is_given_is_taken),
		cmocka_unit_test(sizes_have_units),
		cmocka_unit_test(a_mac_address_comes_from_the_name_unless_it_is_given),
		cmocka_unit_test(a_mistake_is_one_line_that_names_it),
	};
	return !!cmocka_run_group_tests(tests, NULL, NULL);
}

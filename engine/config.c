#include "engine/config.h"

#include "engine/arbiter.h"
#include "engine/boot.h"
#include "engine/memory.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define LOG_SIZE_DEFAULT (1u << 30)
#define RUN (1u << COMMAND_RUN)
#define STANDBY (1u << COMMAND_STANDBY)
#define PRIMARY (1u << COMMAND_PRIMARY)
#define REPLAY (1u << COMMAND_REPLAY)
#define STATUS (1u << COMMAND_STATUS)

static const struct {
	const char *name, *arguments, *what;
} commands[COMMANDS] = {
	[COMMAND_RUN] = {"run", "", "Runs a guest alone, and records it if asked."},
	[COMMAND_STANDBY] = {"standby", "",
		"Waits to become the backup of a running guest, and follows it."},
	[COMMAND_PRIMARY] = {"primary", "", "Runs a guest and protects it with a standby."},
	[COMMAND_REPLAY] = {"replay", "FILE",
		"Replays a recording and says whether every digest matched."},
	[COMMAND_DUMP] = {"dump", "FILE", "Prints a recording's entries, one a line."},
	[COMMAND_STATUS] = {"status", "[VM]",
		"Shows the processes of a VM, or of all, on this machine."},
	[COMMAND_STOP] = {"stop", "[VM]", "Ends a VM in order, on both sides."},
};

enum key {
	KEY_NAME = 256,
	KEY_KERNEL,
	KEY_INITRD,
	KEY_APPEND,
	KEY_MEMORY,
	KEY_NET,
	KEY_MAC,
	KEY_CONSOLE,
	KEY_RECORD,
	KEY_STANDBY,
	KEY_LISTEN,
	KEY_ARBITER,
	KEY_TAKE_OVER,
	KEY_COMMIT,
	KEY_KEY,
	KEY_LOG,
	KEY_LOG_SIZE,
	KEY_LOG_KEEP,
	KEY_HEARTBEAT,
	KEY_TIMEOUT,
	KEY_RING,
	KEY_LAG,
	KEY_UNTIL,
	KEY_PROGRESS,
	KEY_INTERRUPT_WAIT,
	KEY_WHEN_DIVERGED,
	KEY_JSON,
	KEY_HELP,
};

static const struct {
	unsigned commands;
	struct argp_option option;
} options[] = {
	{RUN | PRIMARY | STANDBY, {"name", KEY_NAME, "VM", 0, "the VM's name (default: vm)", 0}},
	{RUN | PRIMARY, {"kernel", KEY_KERNEL, "FILE", 0,
				"the guest: a bzImage as distributions have it, or an ELF64, for "
				"x86-64",
				0}},
	{RUN | PRIMARY, {"initrd", KEY_INITRD, "FILE", 0, "its initial RAM disk", 0}},
	{RUN | PRIMARY,
		{"append", KEY_APPEND, "TEXT", 0,
			"added to the guest's command line, which is: " BOOT_COMMAND_DEFAULT, 0}},
	{RUN | PRIMARY | STANDBY, {"memory", KEY_MEMORY, "SIZE", 0,
					  "guest memory, 1M to 3G, such as 256M (the default); a "
					  "standby refuses a guest of another size if it is given",
					  0}},
	{RUN | PRIMARY | STANDBY,
		{"net", KEY_NET, "DEV", 0,
			"the guest's network: a DPDK device string, such as net_tap0,iface=dop0",
			0}},
	{RUN | PRIMARY, {"mac", KEY_MAC, "MAC", 0,
				"the guest's MAC address (default: made from the VM's name)", 0}},
	{RUN | PRIMARY | STANDBY,
		{"console", KEY_CONSOLE, "-|unix:PATH", 0,
			"the guest's serial console: this terminal, or a socket to connect to", 0}},
	{RUN, {"record", KEY_RECORD, "FILE", 0, "write a recording that `doppel replay` verifies",
		      0}},
	{STANDBY, {"listen", KEY_LISTEN, "ADDR", 0,
			  "where to wait for a primary: rdma:HOST:PORT, tcp:HOST:PORT, or "
			  "shm:NAME on one machine; each also behind link:rate=1G,delay=50us/, on "
			  "both sides",
			  0}},
	{PRIMARY, {"standby", KEY_STANDBY, "ADDR", 0,
			  "where a standby waits: rdma:HOST:PORT, tcp:HOST:PORT, or shm:NAME "
			  "on one machine; each also behind link:rate=1G,delay=50us/, on both sides",
			  0}},
	{STANDBY, {"standby", KEY_STANDBY, "ADDR", 0,
			  "where to look for a standby after having gone live", 0}},
	{PRIMARY | STANDBY,
		{"arbiter", KEY_ARBITER, "dir:PATH", 0,
			"a directory that both hosts see: who may run the VM is decided there", 0}},
	{PRIMARY | STANDBY, {"key", KEY_KEY, "FILE", 0,
				    "the VM's key, a file with the same bytes on both hosts: who "
				    "does not know it is "
				    "not talked to; only shm: goes without",
				    0}},
	{PRIMARY | STANDBY, {"commit", KEY_COMMIT, "LEVEL", 0,
				    "what an output of a protected guest waits for: placed (rdma: "
				    "alone), received "
				    "(default), durable or replayed by the backup",
				    0}},
	{STANDBY, {"log", KEY_LOG, "PATH", 0,
			  "keep a durable log here, which `doppel replay` and `dump` read; on "
			  "persistent memory or any file system",
			  0}},
	{STANDBY, {"log-size", KEY_LOG_SIZE, "SIZE", 0,
			  "its size, 4M to 1024G, all set aside at once (default: 1G)", 0}},
	{STANDBY, {"log-keep", KEY_LOG_KEEP, "all|newest", 0,
			  "when the log is full: take no more (default), or drop the oldest "
			  "entries, after which it cannot be replayed",
			  0}},
	{PRIMARY,
		{"take-over", KEY_TAKE_OVER, NULL, 0,
			"start although the VM has run before: whoever runs it now is deposed", 0}},
	{PRIMARY | STANDBY, {"heartbeat", KEY_HEARTBEAT, "HOST", 0,
				    "local address for heartbeats (default: 127.0.0.1)", 0}},
	{PRIMARY | STANDBY,
		{"heartbeat-timeout", KEY_TIMEOUT, "MS", 0,
			"silence after which the other side is suspected, 50 to 60000 (default: 500)", 0}},
	{PRIMARY, {"ring", KEY_RING, "SIZE", 0,
			  "log that may be on its way: a power of two from 1M to 1G (default: 16M)",
			  0}},
	{PRIMARY | STANDBY,
		{"lag", KEY_LAG, "MS", 0,
			"how far a backup may be behind its primary, 50 to 60000 (default: "
			"100): when it is further, the guest is slowed until it is not; "
			"counted until the ack is here, so give a slow network more",
			0}},
	{REPLAY, {"until", KEY_UNTIL, "LSN|TIME", 0,
			 "stop before the first entry at this LSN or behind it, such as 12345, or "
			 "behind this time of the guest, such as 3.5s or 800ms, and say where that "
			 "is",
			 0}},
	{REPLAY, {"progress", KEY_PROGRESS, NULL, 0,
			 "tell every two seconds how far it is; a terminal for errors alone shows "
			 "it "
			 "anyway",
			 0}},
	{RUN | PRIMARY | STANDBY,
		{"interrupt-wait", KEY_INTERRUPT_WAIT, "MS", 0,
			"for how long a guest that is recorded or protected may compute without "
			"any I/O while an interrupt waits, until that is taken by a resync: 1 to "
			"10000 (default: 10)",
			0}},
	{STANDBY, {"when-diverged", KEY_WHEN_DIVERGED, "rejoin|end", 0,
			  "what a backup does when it is not what its primary is: forget its "
			  "guest and wait to be copied anew (default; not with --log), or end",
			  0}},
	{STATUS, {"json", KEY_JSON, NULL, 0, "as JSON", 0}},
	{~0u, {"help", KEY_HELP, NULL, 0, "says this, and the exit statuses", 0}},
};
#define OPTIONS (sizeof options / sizeof options[0])

static const char *const statuses =
	"\vExit statuses:\n"
	"  0  ended in order (power-off, restart, or somebody asked for it)\n"
	"  1  the host failed: KVM, a permission, memory, a file, the network\n"
	"  2  a bad option, argument, file name or kernel, or an address in use; nothing was "
	"started\n"
	"  3  a replay or a backup diverged from its log\n"
	"  4  not a recording, damaged, or cut short\n"
	"  5  deposed: another process holds the VM's generation\n"
	"  6  refused: the VM has run before, or the peer does not fit\n"
	"  7  the guest ended badly (triple fault, halt with interrupts off, power-off value not "
	"0)\n"
	"  8  no process runs that VM here";

void config_usage(void)
{
	printf("Usage: doppel COMMAND [OPTION...]\n"
	       "Keeps a virtual machine alive through the death of its host.\n\n");
	for (unsigned i = 0; i < COMMANDS; i++)
		printf("  %-8s %-5s %s\n", commands[i].name, commands[i].arguments,
			commands[i].what);
	printf("\n`doppel COMMAND --help` tells a command's options.\n\n%s\n", statuses + 1);
}

const char *const commit_names[COMMIT_LEVELS] = {"placed", "received", "durable", "replayed"};

/* "16M" and the like, in bytes; 0: not a size. */
static uint64_t parse_size(const char *text)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);
	unsigned shift = 0;
	if (end == text || text[0] == '-')
		return 0;
	if (*end == 'K' || *end == 'k')
		shift = 10;
	else if (*end == 'M' || *end == 'm')
		shift = 20;
	else if (*end == 'G' || *end == 'g')
		shift = 30;
	if (shift)
		end++;
	if (*end != '\0' || value > (UINT64_MAX >> shift))
		return 0;
	return (uint64_t)value << shift;
}

static bool parse_number(const char *text, unsigned least, unsigned most, unsigned *number)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < least || value > most)
		return false;
	*number = (unsigned)value;
	return true;
}

/* An LSN, or a time with its unit. */
static bool parse_until(const char *text, struct config *config)
{
	char *end;
	config->has_until = true;
	config->until_lsn = config->until_ns = UINT64_MAX;
	size_t digits = strspn(text, "0123456789"), number = strspn(text, "0123456789.");
	if (digits == 0)
		return false;
	if (text[digits] == '\0') {
		errno = 0;
		config->until_lsn = strtoull(text, NULL, 10);
		return errno == 0;
	}
	double value = strtod(text, &end);
	if (end != text + number)
		return false;
	double unit = strcmp(end, "s") == 0 ? 1e9 : strcmp(end, "ms") == 0 ? 1e6 : 0;
	if (unit == 0 || value * unit > 9e18)
		return false;
	config->until_ns = (uint64_t)(value * unit + 0.5);
	return true;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	static const uint8_t none[6];
	if (strlen(text) != 17)
		return false;
	for (unsigned i = 0; i < 6; i++, text += 3) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
			text[2] != (i < 5 ? ':' : '\0'))
			return false;
		mac[i] = (uint8_t)strtoul(text, NULL, 16);
	}
	return (mac[0] & 1) == 0 && memcmp(mac, none, 6) != 0;
}

/* Takes an option's value; the message says what is wrong with it. */
static int take(struct config *config, int key, char *value)
{
	switch (key) {
	case KEY_NAME:
		config->name = value;
		return arbiter_check_name(value);
	case KEY_KERNEL:
		config->kernel = value;
		break;
	case KEY_INITRD:
		config->initrd = value;
		break;
	case KEY_APPEND:
		config->append = value;
		break;
	case KEY_MEMORY:
		config->memory = parse_size(value);
		if (config->memory < GUEST_MEMORY_MIN || config->memory > GUEST_MEMORY_MAX ||
			config->memory % 4096 != 0)
			return fail(EINVAL, "--memory %s: give a size from 1M to 3G, such as 256M",
				value);
		break;
	case KEY_NET:
		config->net = value;
		break;
	case KEY_MAC:
		if (!parse_mac(value, config->mac))
			return fail(EINVAL,
				"--mac %s: give six bytes such as 52:54:00:12:34:56, not a group's "
				"and not all zero",
				value);
		break;
	case KEY_CONSOLE:
		if (strcmp(value, "-") != 0 &&
			(strncmp(value, "unix:", 5) != 0 || value[5] == '\0'))
			return fail(EINVAL, "--console %s: give - or unix:PATH", value);
		config->console = value;
		break;
	case KEY_RECORD:
		config->record = value;
		break;
	case KEY_STANDBY:
		config->standby = value;
		break;
	case KEY_LISTEN:
		config->listen = value;
		break;
	case KEY_ARBITER:
		config->arbiter = value;
		break;
	case KEY_TAKE_OVER:
		config->take_over = true;
		break;
	case KEY_COMMIT:
		config->commit = 0;
		while (config->commit < COMMIT_LEVELS &&
			strcmp(value, commit_names[config->commit]) != 0)
			config->commit++;
		if (config->commit == COMMIT_LEVELS)
			return fail(EINVAL,
				"--commit %s: give placed, received, durable or replayed", value);
		break;
	case KEY_KEY:
		config->key = value;
		break;
	case KEY_LOG:
		config->log = value;
		break;
	case KEY_LOG_SIZE:
		config->log_size = parse_size(value);
		if (config->log_size < (4u << 20) || config->log_size > (1ull << 40) ||
			config->log_size % 4096 != 0)
			return fail(EINVAL,
				"--log-size %s: give a size from 4M to 1024G in steps of 4K, such "
				"as 1G",
				value);
		config->log_described = true;
		break;
	case KEY_LOG_KEEP:
		if (strcmp(value, "all") != 0 && strcmp(value, "newest") != 0)
			return fail(EINVAL, "--log-keep %s: give all or newest", value);
		config->log_newest = value[0] == 'n';
		config->log_described = true;
		break;
	case KEY_HEARTBEAT:
		config->heartbeat = value;
		break;
	case KEY_TIMEOUT:
		if (!parse_number(value, 50, 60000, &config->timeout_ms))
			return fail(EINVAL, "--heartbeat-timeout %s: give 50 to 60000 ms", value);
		break;
	case KEY_LAG:
		if (!parse_number(value, 50, 60000, &config->lag_ms))
			return fail(EINVAL, "--lag %s: give 50 to 60000 ms", value);
		break;
	case KEY_WHEN_DIVERGED:
		if (strcmp(value, "rejoin") != 0 && strcmp(value, "end") != 0)
			return fail(EINVAL, "--when-diverged %s: give rejoin or end", value);
		config->end_diverged = value[0] == 'e';
		break;
	case KEY_INTERRUPT_WAIT:
		if (!parse_number(value, 1, 10000, &config->interrupt_wait_ms))
			return fail(EINVAL, "--interrupt-wait %s: give 1 to 10000 ms", value);
		break;
	case KEY_RING:
		config->ring = parse_size(value);
		if (config->ring < (1u << 20) || config->ring > (1u << 30) ||
			(config->ring & (config->ring - 1)) != 0)
			return fail(EINVAL, "--ring %s: give a power of two from 1M to 1G", value);
		break;
	case KEY_UNTIL:
		if (!parse_until(value, config))
			return fail(EINVAL,
				"--until %s: give an LSN such as 12345, or a time of the guest "
				"such as 3.5s or 800ms",
				value);
		break;
	case KEY_PROGRESS:
		config->progress = true;
		break;
	default:
		config->json = true;
		break;
	}
	return 0;
}

static const char *missing(const struct config *config)
{
	switch (config->command) {
	case COMMAND_RUN:
		return config->kernel ? NULL : "give a guest with --kernel FILE";
	case COMMAND_PRIMARY:
		if (!config->kernel)
			return "give a guest with --kernel FILE";
		if (!config->standby)
			return "give the standby's address with --standby ADDR";
		return config->arbiter
			       ? NULL
			       : "give a directory that both hosts see with --arbiter dir:PATH";
	case COMMAND_STANDBY:
		if (!config->listen)
			return "give an address to wait at with --listen ADDR";
		if (config->log_described && !config->log)
			return "give a log with --log PATH, or no --log-size and --log-keep";
		return config->arbiter
			       ? NULL
			       : "give a directory that both hosts see with --arbiter dir:PATH";
	case COMMAND_REPLAY:
	case COMMAND_DUMP:
		return config->file ? NULL : "give the recording's FILE";
	default:
		return NULL;
	}
}

/* One line, whatever the mistake is. */
static int mistake(const char *program, const char *what)
{
	fprintf(stderr, "%s: %s; `%s --help` lists the options\n", program, what, program);
	return STATUS_USAGE;
}

static int help(enum command command, char *program)
{
	struct argp_option mine[OPTIONS + 1] = {{0}};
	unsigned count = 0;
	for (unsigned i = 0; i < OPTIONS; i++) {
		if (options[i].commands & 1u << command)
			mine[count++] = options[i].option;
	}
	char doc[1024];
	snprintf(doc, sizeof doc, "%s%s", commands[command].what, statuses);
	const struct argp argp = {
		.options = mine, .args_doc = commands[command].arguments, .doc = doc};
	argp_help(&argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC, program);
	return STATUS_OK;
}

/* argp tells the options, but its complaints take two lines: they are read with getopt. */
static int parse(struct config *config, char *program, int argc, char **argv)
{
	struct option mine[OPTIONS + 1] = {{0}};
	unsigned count = 0;
	for (unsigned i = 0; i < OPTIONS; i++) {
		const struct argp_option *option = &options[i].option;
		if (options[i].commands & 1u << config->command)
			mine[count++] = (struct option){option->name,
				option->arg ? required_argument : no_argument, NULL, option->key};
	}
	int key;
	char what[256];
	opterr = 0;
	while ((key = getopt_long(argc, argv, ":", mine, NULL)) != -1) {
		if (key == KEY_HELP)
			return help(config->command, program);
		if (key == '?' || key == ':') {
			const char letter[] = {'-', (char)optopt, '\0'};
			snprintf(what, sizeof what, "%s: %s",
				optopt > 0 && optopt < KEY_NAME ? letter : argv[optind - 1],
				key == ':'           ? "its value is missing"
				: optopt >= KEY_NAME ? "it takes no value"
						     : "no such option");
			return mistake(program, what);
		}
		if (take(config, key, optarg) < 0)
			return mistake(program, fail_message());
	}
	for (; optind < argc; optind++) {
		if (commands[config->command].arguments[0] == '\0' || config->file) {
			snprintf(what, sizeof what, "%s: one argument too many", argv[optind]);
			return mistake(program, what);
		}
		config->file = argv[optind];
	}
	return -1;
}

int config_parse(struct config *config, int argc, char **argv)
{
	*config = (struct config){.name = "vm",
		.append = "",
		.commit = COMMIT_RECEIVED,
		.timeout_ms = 500,
		.lag_ms = LAG_DEFAULT_MS,
		.interrupt_wait_ms = 10,
		.ring = 16u << 20,
		.heartbeat = "127.0.0.1",
		.command = COMMANDS};
	for (unsigned i = 0; i < COMMANDS; i++) {
		if (argc > 1 && strcmp(argv[1], commands[i].name) == 0)
			config->command = (enum command)i;
	}
	if (config->command == COMMANDS) {
		if (argc > 1 && strcmp(argv[1], "--help") == 0) {
			config_usage();
			return STATUS_OK;
		}
		fprintf(stderr, "doppel: %s%s; `doppel --help` lists the commands\n",
			argc > 1 ? "no such command: " : "no command given",
			argc > 1 ? argv[1] : "");
		return STATUS_USAGE;
	}

	char program[32];
	snprintf(program, sizeof program, "doppel %s", commands[config->command].name);
	int status = parse(config, program, argc - 1, argv + 1);
	if (status >= 0)
		return status;
	const char *what = missing(config);
	if (what)
		return mistake(program, what);
	if (config->log_size == 0)
		config->log_size = LOG_SIZE_DEFAULT;
	static const uint8_t none[6];
	if (memcmp(config->mac, none, 6) == 0) {
		uint64_t hash = XXH3_64bits(config->name, strlen(config->name));
		memcpy(config->mac, &hash, 6);
		config->mac[0] = 0x52, config->mac[1] = 0x54, config->mac[2] = 0x00;
	}
	return -1;
}

int command_failed(int error)
{
	say("%s", fail_message());
	switch (-error) {
	/* What was asked for cannot be: another command line will do. */
	case EINVAL:
	case ENOEXEC:
	case E2BIG:
	case ENODEV:
	case ENOENT:
	case ENOTDIR:
	case EISDIR:
	case ENAMETOOLONG:
	case EEXIST:
	case EBUSY:
	case EADDRINUSE:
	case EADDRNOTAVAIL:
		return STATUS_USAGE;
	case EALREADY: /* no system call that we use says so */
		return STATUS_REFUSED;
	/* The host does not let us, or does not do its part. */
	default:
		return STATUS_HOST;
	}
}

/*
 * The test client of the `ledger` guest: asks, checks what it was answered, and says in one line
 * what it found. The demo, the kill sweep and the bench are built on it.
 */
#include "tests/client/check.h"
#include "tests/client/history.h"
#include "tests/client/load.h"
#include "tests/client/wire.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_GOOD = 0, EXIT_BAD = 1, EXIT_USAGE = 2, EXIT_NO_GUEST = 3 };

#define VIOLATIONS_SHOWN 20

static const char help[] =
	"usage: client [options] load         make requests, check the answers, print a summary\n"
	"       client [options] ask REQUEST  send a datagram until it is answered; print that\n"
	"       client check FILE             check what `load --history` has written (-: stdin)\n"
	"\n"
	"  --server ADDRESS:PORT  the ledger service (10.77.0.2:4000)\n"
	"  --rate N               ADDs a second (500)\n"
	"  --closed N             instead of a rate: always N ADDs without an answer\n"
	"  --seconds S            how long to make requests (10); SIGTERM or SIGINT ends it early\n"
	"  --window N             the most ADDs without an answer, with a rate (256)\n"
	"  --every N              after N ADDs, a GET and a TIME in turn; 0: none (15)\n"
	"  --retry MS             the least time before a request is sent again (50), which is\n"
	"                         longer while the guest is slow\n"
	"  --deadline S           how long to wait for answers in the end (10)\n"
	"  --wait S               how long to wait for the guest's first answer (10)\n"
	"  --shared               other clients use the same ledger: totals may rise between ours\n"
	"  --history FILE         write all requests and answers as text\n"
	"  --progress             a line to standard error each second\n"
	"\n"
	"SIGUSR1 says that the guest's host has been killed just now: pause_ms and pause_us in\n"
	"the summary have, for each, the time until the next answer, or - when none came. p50_us\n"
	"and so on are of answered ADDs, from the first sending; max_gap_ms is the longest time "
	"in\n"
	"which requests were waiting and no answer came. repeated counts requests sent again,\n"
	"duplicates answers that came again, lost what was never answered.\n"
	"\n"
	"Exit status: 0 all answered and no violation; 1 lost or violated; 2 usage or a file;\n"
	"3 the guest never answered.\n";

struct options {
	struct load_options load;
	unsigned closed;
	const char *history;
};

static bool take_number(const char *name, const char *text, double least, double *value)
{
	char *end;
	*value = strtod(text, &end);
	if (end != text && !*end && *value >= least && *value <= 1e9)
		return true;
	fprintf(stderr, "client: --%s takes a number from %g up, not '%s'\n", name, least, text);
	return false;
}

static bool take_unsigned(const char *name, const char *text, double least, unsigned *value)
{
	double number;
	if (!take_number(name, text, least, &number))
		return false;
	*value = (unsigned)number;
	return true;
}

static const struct option long_options[] = {
	{"server", required_argument, NULL, 's'},
	{"rate", required_argument, NULL, 'r'},
	{"closed", required_argument, NULL, 'c'},
	{"seconds", required_argument, NULL, 't'},
	{"window", required_argument, NULL, 'w'},
	{"every", required_argument, NULL, 'e'},
	{"retry", required_argument, NULL, 'y'},
	{"deadline", required_argument, NULL, 'd'},
	{"wait", required_argument, NULL, 'a'},
	{"shared", no_argument, NULL, 'S'},
	{"history", required_argument, NULL, 'H'},
	{"progress", no_argument, NULL, 'p'},
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* False when the usage is wrong, said on standard error. */
static bool take_option(struct options *options, int option, const char *name, const char *text)
{
	struct load_options *load = &options->load;
	switch (option) {
	case 's':
		if (wire_address(&load->server, text) == 0)
			return true;
		fprintf(stderr, "client: --server takes ADDRESS:PORT, not '%s'\n", text);
		return false;
	case 'r':
		return take_number(name, text, 0.001, &load->rate);
	case 'c':
		return take_unsigned(name, text, 1, &options->closed);
	case 't':
		return take_number(name, text, 0, &load->seconds);
	case 'w':
		return take_unsigned(name, text, 1, &load->window);
	case 'e':
		return take_unsigned(name, text, 0, &load->every);
	case 'y':
		return take_unsigned(name, text, 1, &load->retry_ms);
	case 'd':
		return take_number(name, text, 0, &load->deadline);
	case 'a':
		return take_number(name, text, 0, &load->wait);
	case 'S':
		load->shared = true;
		return true;
	case 'H':
		options->history = text;
		return true;
	case 'p':
		load->progress = true;
		return true;
	}
	return false;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

struct latencies {
	uint64_t p50, p99, p999, most;
};

/* Exact, from all answered ADDs: the history has them anyway. */
static struct latencies measure(const struct history *history)
{
	struct latencies latencies = {0};
	const struct request_list *adds = &history->adds;
	uint64_t *ns = calloc(adds->count + 1, sizeof *ns);
	size_t count = 0;
	for (size_t i = 0; ns && i < adds->count; i++)
		if (adds->all[i].answered)
			ns[count++] = adds->all[i].answered_ns - adds->all[i].sent_ns;
	if (count) {
		qsort(ns, count, sizeof *ns, by_number);
		latencies.p50 = ns[count / 2];
		latencies.p99 = ns[count - 1 - count / 100];
		latencies.p999 = ns[count - 1 - count / 1000];
		latencies.most = ns[count - 1];
	}
	free(ns);
	return latencies;
}

static void print_pauses(const char *name, uint64_t unit_ns, const struct history *history,
	const struct load_result *result)
{
	printf(" %s=", name);
	for (size_t i = 0; i < history->kill_count; i++) {
		const char *comma = i ? "," : "";
		if (result->pauses[i])
			printf("%s%" PRIu64, comma, (result->pauses[i] + unit_ns - 1) / unit_ns);
		else
			printf("%s-", comma);
	}
}

static uint64_t count_answered(const struct request_list *list)
{
	uint64_t answered = 0;
	for (size_t i = 0; i < list->count; i++)
		answered += list->all[i].answered;
	return answered;
}

static void print_summary(const struct history *history, const struct load_result *result,
	uint64_t lost, uint64_t violations)
{
	struct latencies latencies = measure(history);
	uint64_t adds = count_answered(&history->adds);
	double seconds = (double)result->sending_ns / 1e9;
	printf("requests=%zu answered=%" PRIu64 " lost=%" PRIu64 " repeated=%" PRIu64
	       " violations=%" PRIu64,
		history->adds.count + history->queries.count,
		adds + count_answered(&history->queries), lost, result->repeated, violations);
	printf(" adds=%zu duplicates=%" PRIu64 " skipped=%" PRIu64 " total=%" PRId64 " seconds=%.3f"
	       " adds_per_s=%.1f",
		history->adds.count, result->duplicates, result->skipped,
		(int64_t)(history->final.total - history->base.total), seconds,
		seconds > 0 ? (double)adds / seconds : 0);
	printf(" p50_us=%.0f p99_us=%.0f p999_us=%.0f max_us=%.0f max_gap_ms=%.1f",
		(double)latencies.p50 / 1e3, (double)latencies.p99 / 1e3,
		(double)latencies.p999 / 1e3, (double)latencies.most / 1e3,
		(double)result->longest_gap_ns / 1e6);
	print_pauses("pause_ms", 1000000, history, result);
	print_pauses("pause_us", 1000, history, result);
	putchar('\n');
}

static int write_history(const struct history *history, const char *path)
{
	FILE *file = fopen(path, "w");
	int status = file ? history_write(history, file) : -errno;
	if (file && fclose(file) && !status)
		status = -errno;
	if (status)
		fprintf(stderr, "client: cannot write the history to %s: %s\n", path,
			strerror(-status));
	return status;
}

static int load(const struct options *options)
{
	static struct history history;
	static struct load_result result;
	int status = load_run(&options->load, &history, &result);
	if (status) {
		fprintf(stderr, "client: no answer from the guest: %s\n", strerror(-status));
		return EXIT_NO_GUEST;
	}
	uint64_t violations = check_history(&history, stderr, VIOLATIONS_SHOWN);
	uint64_t requests = history.adds.count + history.queries.count;
	uint64_t lost = requests - count_answered(&history.adds) - count_answered(&history.queries);
	if (!history.final.known) {
		fprintf(stderr,
			"client: the last GET, which shows what is in the total, has no answer\n");
		lost++;
	}
	print_summary(&history, &result, lost, violations);
	bool kept = !options->history || write_history(&history, options->history) == 0;
	history_free(&history);
	if (violations || lost)
		return EXIT_BAD;
	return kept ? EXIT_GOOD : EXIT_USAGE;
}

static int ask(const struct options *options, const char *request)
{
	char answer[WIRE_MOST + 1];
	int status =
		load_ask(&options->load.server, request, options->load.wait, answer, sizeof answer);
	if (status) {
		fprintf(stderr, "client: no answer to '%s': %s\n", request, strerror(-status));
		return EXIT_NO_GUEST;
	}
	fputs(answer, stdout);
	return EXIT_GOOD;
}

static int check(const char *path)
{
	static struct history history;
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
	if (!file) {
		fprintf(stderr, "client: cannot open %s: %s\n", path, strerror(errno));
		return EXIT_USAGE;
	}
	unsigned line;
	int status = history_read(&history, file, &line);
	fclose(file);
	if (status) {
		fprintf(stderr, "client: %s is no history: line %u\n", path, line);
		return EXIT_USAGE;
	}
	uint64_t violations = check_history(&history, stderr, VIOLATIONS_SHOWN);
	uint64_t requests = history.adds.count + history.queries.count;
	uint64_t answered = count_answered(&history.adds) + count_answered(&history.queries);
	printf("requests=%" PRIu64 " answered=%" PRIu64 " lost=%" PRIu64 " violations=%" PRIu64
	       "\n",
		requests, answered, requests - answered, violations);
	history_free(&history);
	return violations || answered != requests ? EXIT_BAD : EXIT_GOOD;
}

int main(int argc, char **argv)
{
	struct options options = {
		.load = {.rate = 500,
			.seconds = 10,
			.window = 256,
			.every = 15,
			.retry_ms = 50,
			.deadline = 10,
			.wait = 10},
	};
	(void)wire_address(&options.load.server, "10.77.0.2:4000");
	setvbuf(stderr, NULL, _IOLBF, 4096);
	int option, index = 0;
	while ((option = getopt_long(argc, argv, "", long_options, &index)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return EXIT_GOOD;
		}
		if (option == '?' ||
			!take_option(&options, option, long_options[index].name, optarg))
			return EXIT_USAGE;
	}
	if (options.closed) {
		options.load.rate = 0;
		options.load.window = options.closed;
	}
	const char *command = optind < argc ? argv[optind] : "";
	int operands = argc - optind - 1;
	if (strcmp(command, "load") == 0 && operands == 0)
		return load(&options);
	if (strcmp(command, "ask") == 0 && operands == 1)
		return ask(&options, argv[optind + 1]);
	if (strcmp(command, "check") == 0 && operands == 1)
		return check(argv[optind + 1]);
	fputs("client: wants load, ask REQUEST or check FILE; --help says more\n", stderr);
	return EXIT_USAGE;
}

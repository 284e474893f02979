#include "tests/client/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

struct checker {
	const struct history *history;
	FILE *out;
	unsigned most;
	uint64_t violations;
	const struct request **chain; /* the answered ADDs by total */
	size_t length;
	uint64_t added;   /* the sum of the answered amounts */
	uint64_t pending; /* the sum of the unanswered amounts */
};

static void violation(struct checker *checker, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void violation(struct checker *checker, const char *format, ...)
{
	if (checker->violations++ >= checker->most)
		return;
	va_list args;
	va_start(args, format);
	fprintf(checker->out, "violation: ");
	vfprintf(checker->out, format, args);
	fputc('\n', checker->out);
	va_end(args);
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size);
	if (!memory) {
		fprintf(stderr, "client: no memory to check %zu requests\n", count);
		abort();
	}
	return memory;
}

static double seconds(const struct checker *checker, uint64_t ns)
{
	return (double)(ns - checker->history->start_ns) / 1e9;
}

static int compare(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static int by_value(const void *a, const void *b)
{
	const struct request *const *x = a, *const *y = b;
	return compare((*x)->value, (*y)->value);
}

static void gather_chain(struct checker *checker)
{
	const struct request_list *adds = &checker->history->adds;
	checker->chain = allocate(adds->count, sizeof *checker->chain);
	for (size_t i = 0; i < adds->count; i++) {
		const struct request *add = &adds->all[i];
		if (add->answered) {
			checker->chain[checker->length++] = add;
			checker->added += add->amount;
		} else {
			checker->pending += add->amount;
		}
	}
	qsort(checker->chain, checker->length, sizeof *checker->chain, by_value);
}

/* The amounts that no ADD of ours explains, given the steps up to here. */
static void check_gap(struct checker *checker, uint64_t from, uint64_t to, const char *before,
	uint64_t id, uint64_t *unexplained)
{
	if (checker->history->shared)
		return;
	*unexplained += to - from;
	if (*unexplained > checker->pending) {
		violation(checker,
			"the total rises by %" PRIu64 " from %" PRIu64 " before %s %" PRIu64
			" although no ADD accounts for it: one was counted twice, or its answer "
			"was wrong",
			to - from, from, before, id);
		*unexplained = checker->pending;
	}
}

static void check_chain(struct checker *checker)
{
	const struct history *history = checker->history;
	uint64_t at = history->base.known ? history->base.total : 0;
	uint64_t unexplained = 0;
	const struct request *last = NULL;
	for (size_t i = 0; i < checker->length; i++) {
		const struct request *add = checker->chain[i];
		if (add->value < add->amount) {
			violation(checker,
				"ADD %" PRIu64 " of %" PRIu64
				" was answered with the total %" PRIu64,
				add->id, add->amount, add->value);
			continue;
		}
		uint64_t from = add->value - add->amount;
		if (from < at && last)
			violation(checker,
				"ADD %" PRIu64 " (at %.6f s) and ADD %" PRIu64
				" (at %.6f s) overlap: both count %" PRIu64 " to %" PRIu64
				": one of them was forgotten",
				last->id, seconds(checker, last->answered_ns), add->id,
				seconds(checker, add->answered_ns), from,
				add->value < at ? add->value : at);
		else if (from < at)
			violation(checker,
				"ADD %" PRIu64 " starts at %" PRIu64
				", but the ledger held %" PRIu64 " before",
				add->id, from, at);
		else if (from > at)
			check_gap(checker, at, from, "ADD", add->id, &unexplained);
		if (add->value >= at) {
			at = add->value;
			last = add;
		}
	}
	if (!history->final.known)
		return;
	if (history->final.total < at)
		violation(checker,
			"the final total %" PRIu64 " is below the answered total %" PRIu64,
			history->final.total, at);
	else if (history->final.total > at)
		check_gap(checker, at, history->final.total, "the end at", history->final.total,
			&unexplained);
}

/* The sum and the number of what was added: the check a reader would make first. */
static void check_final(struct checker *checker)
{
	const struct history *history = checker->history;
	if (!history->final.known || !history->base.known)
		return;
	if (history->final.total < history->base.total ||
		history->final.count < history->base.count) {
		violation(checker,
			"the ledger held %" PRIu64 " in %" PRIu64 " ADDs before and holds %" PRIu64
			" in %" PRIu64 " in the end",
			history->base.total, history->base.count, history->final.total,
			history->final.count);
		return;
	}
	uint64_t grown = history->final.total - history->base.total;
	uint64_t counted = history->final.count - history->base.count;
	uint64_t unanswered = history->adds.count - checker->length;
	if (grown < checker->added ||
		(!history->shared && grown - checker->added > checker->pending))
		violation(checker,
			"the total grew by %" PRIu64 ", but the answered ADDs are %" PRIu64
			" and the unanswered %" PRIu64,
			grown, checker->added, checker->pending);
	if (counted < checker->length ||
		(!history->shared && counted - checker->length > unanswered))
		violation(checker,
			"the guest counted %" PRIu64 " ADDs, but %zu were answered and %" PRIu64
			" were not",
			counted, checker->length, unanswered);
}

/* A GET's count is the number of steps up to its total. Only a chain without gaps can say it. */
static void check_points(struct checker *checker)
{
	const struct history *history = checker->history;
	if (history->shared || !history->base.known || checker->length != history->adds.count)
		return;
	for (size_t i = 0; i < history->queries.count; i++) {
		const struct request *get = &history->queries.all[i];
		if (get->kind != REQUEST_GET || !get->answered)
			continue;
		size_t low = 0, high = checker->length;
		while (low < high) {
			size_t middle = low + (high - low) / 2;
			if (checker->chain[middle]->value <= get->value)
				low = middle + 1;
			else
				high = middle;
		}
		uint64_t total = low ? checker->chain[low - 1]->value : history->base.total;
		uint64_t count = history->base.count + low;
		if (get->value != total || get->count != count)
			violation(checker,
				"a GET at %.6f s saw %" PRIu64 " in %" PRIu64
				" ADDs; the ADDs make it %" PRIu64 " in %" PRIu64,
				seconds(checker, get->answered_ns), get->value, get->count, total,
				count);
	}
}

static void check_repeats(struct checker *checker)
{
	const struct request_list *adds = &checker->history->adds;
	for (size_t i = 0; i < adds->count; i++)
		if (adds->all[i].contradicted && adds->all[i].other != adds->all[i].value)
			violation(checker,
				"ADD %" PRIu64 " was answered with %" PRIu64
				" and later with %" PRIu64,
				adds->all[i].id, adds->all[i].value, adds->all[i].other);
}

/* One answer about a value that must never go back: at a moment between the two times the guest
 * found `found` and left `value`. */
struct sight {
	uint64_t sent_ns, answered_ns;
	uint64_t found, value;
};

static int by_sent(const void *a, const void *b)
{
	const struct sight *x = a, *y = b;
	return compare(x->sent_ns, y->sent_ns);
}

static int by_answered(const void *a, const void *b)
{
	const struct sight *const *x = a, *const *y = b;
	return compare((*x)->answered_ns, (*y)->answered_ns);
}

static void check_order(
	struct checker *checker, struct sight *sights, size_t count, const char *what)
{
	const struct sight **answers = allocate(count, sizeof *answers);
	qsort(sights, count, sizeof *sights, by_sent);
	for (size_t i = 0; i < count; i++)
		answers[i] = &sights[i];
	qsort(answers, count, sizeof *answers, by_answered);
	const struct sight *highest = NULL;
	size_t next = 0;
	for (size_t i = 0; i < count; i++) {
		for (; next < count && answers[next]->answered_ns < sights[i].sent_ns; next++)
			if (!highest || answers[next]->value > highest->value)
				highest = answers[next];
		if (highest && sights[i].found < highest->value)
			violation(checker,
				"%s went back: %" PRIu64
				" was known at %.6f s, but what was asked at "
				"%.6f s was answered from %" PRIu64,
				what, highest->value, seconds(checker, highest->answered_ns),
				seconds(checker, sights[i].sent_ns), sights[i].found);
	}
	free(answers);
}

static size_t gather_sights(struct sight *sights, size_t count, const struct request_list *list,
	enum request_kind kind, bool counts)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct request *request = &list->all[i];
		if (request->kind != kind || !request->answered)
			continue;
		uint64_t value = counts ? request->count : request->value;
		uint64_t amount = request->amount; /* 0 but for an ADD */
		sights[count++] = (struct sight){
			.sent_ns = request->sent_ns,
			.answered_ns = request->answered_ns,
			.found = value > amount ? value - amount : 0,
			.value = value,
		};
	}
	return count;
}

static void check_orders(struct checker *checker)
{
	const struct history *history = checker->history;
	const struct request_list *adds = &history->adds, *queries = &history->queries;
	struct sight *sights = allocate(adds->count + queries->count, sizeof *sights);
	size_t count = gather_sights(sights, 0, adds, REQUEST_ADD, false);
	count = gather_sights(sights, count, queries, REQUEST_GET, false);
	check_order(checker, sights, count, "the total");
	count = gather_sights(sights, 0, queries, REQUEST_GET, true);
	check_order(checker, sights, count, "the count");
	count = gather_sights(sights, 0, queries, REQUEST_TIME, false);
	check_order(checker, sights, count, "the guest's clock");
	free(sights);
}

uint64_t check_history(const struct history *history, FILE *out, unsigned most)
{
	struct checker checker = {.history = history, .out = out, .most = most};
	gather_chain(&checker);
	check_chain(&checker);
	check_final(&checker);
	check_points(&checker);
	check_repeats(&checker);
	check_orders(&checker);
	for (uint64_t i = 0; i < history->odd_count; i++)
		violation(&checker, "the guest sent what answers nothing: %s",
			i < HISTORY_ODD ? history->odd[i] : "(not kept)");
	free(checker.chain);
	if (checker.violations > most)
		fprintf(out, "violation: and %" PRIu64 " more\n", checker.violations - most);
	return checker.violations;
}

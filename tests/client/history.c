#include "tests/client/history.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct request *request_append(struct request_list *list)
{
	if (list->count == list->room) {
		size_t room = list->room ? list->room * 2 : 4096;
		struct request *all = realloc(list->all, room * sizeof *all);
		if (!all) {
			fprintf(stderr, "client: no memory to keep %zu requests\n", room);
			abort();
		}
		list->all = all;
		list->room = room;
	}
	struct request *request = &list->all[list->count++];
	*request = (struct request){0};
	return request;
}

void history_add_odd(struct history *history, const char *text, size_t length)
{
	if (history->odd_count < HISTORY_ODD) {
		char *to = history->odd[history->odd_count];
		size_t n = length < sizeof history->odd[0] ? length : sizeof history->odd[0] - 1;
		for (size_t i = 0; i < n; i++)
			to[i] = isprint((unsigned char)text[i]) ? text[i] : '.';
		to[n] = 0;
	}
	history->odd_count++;
}

void history_free(struct history *history)
{
	free(history->adds.all);
	free(history->queries.all);
	*history = (struct history){0};
}

/* Times as the file has them; 0 stands for no answer only where `answered` says so. */
static uint64_t since_start(const struct history *history, uint64_t ns)
{
	return ns - history->start_ns;
}

static void write_answer(FILE *file, const struct history *history, const struct request *request)
{
	fprintf(file, " %" PRIu64, since_start(history, request->sent_ns));
	if (request->answered)
		fprintf(file, " %" PRIu64 " %" PRIu64, since_start(history, request->answered_ns),
			request->value);
	else
		fprintf(file, " - -");
}

static void write_request(FILE *file, const struct history *history, const struct request *request)
{
	switch (request->kind) {
	case REQUEST_ADD:
		fprintf(file, "add %" PRIu64 " %" PRIu64, request->id, request->amount);
		write_answer(file, history, request);
		fprintf(file, " %" PRIu32, request->sends);
		if (request->contradicted)
			fprintf(file, " %" PRIu64, request->other);
		break;
	case REQUEST_GET:
		fprintf(file, "get");
		write_answer(file, history, request);
		if (request->answered)
			fprintf(file, " %" PRIu64 " %" PRIu32, request->count, request->sends);
		else
			fprintf(file, " - %" PRIu32, request->sends);
		break;
	case REQUEST_TIME:
		fprintf(file, "time");
		write_answer(file, history, request);
		fprintf(file, " %" PRIu32, request->sends);
		break;
	}
	fputc('\n', file);
}

static void write_state(FILE *file, const char *name, const struct ledger_state *state)
{
	if (state->known)
		fprintf(file, "%s %" PRIu64 " %" PRIu64 "\n", name, state->total, state->count);
}

int history_write(const struct history *history, FILE *file)
{
	if (history->shared)
		fprintf(file, "shared\n");
	write_state(file, "base", &history->base);
	const struct request_list *adds = &history->adds, *queries = &history->queries;
	size_t a = 0, q = 0, k = 0;
	while (a < adds->count || q < queries->count || k < history->kill_count) {
		uint64_t add_at = a < adds->count ? adds->all[a].sent_ns : UINT64_MAX;
		uint64_t query_at = q < queries->count ? queries->all[q].sent_ns : UINT64_MAX;
		uint64_t kill_at = k < history->kill_count ? history->kills[k] : UINT64_MAX;
		if (kill_at <= add_at && kill_at <= query_at) {
			fprintf(file, "kill %" PRIu64 "\n", since_start(history, kill_at));
			k++;
		} else if (add_at <= query_at) {
			write_request(file, history, &adds->all[a++]);
		} else {
			write_request(file, history, &queries->all[q++]);
		}
	}
	for (size_t i = 0; i < history->odd_count && i < HISTORY_ODD; i++)
		fprintf(file, "odd %s\n", history->odd[i]);
	write_state(file, "final", &history->final);
	return fflush(file) || ferror(file) ? -EIO : 0;
}

/* The next field of a line as a number; `absent` says whether "-" is allowed there, and was found.
 */
static bool read_number(char **rest, uint64_t *value, bool *absent)
{
	char *field = strsep(rest, " ");
	if (!field || !*field)
		return false;
	if (absent && strcmp(field, "-") == 0) {
		*absent = true;
		return true;
	}
	char *end;
	errno = 0;
	*value = strtoull(field, &end, 10);
	return isdigit((unsigned char)*field) && !*end && !errno;
}

static bool read_request(struct history *history, enum request_kind kind, char *rest)
{
	bool is_add = kind == REQUEST_ADD, unanswered = false;
	struct request *request = request_append(is_add ? &history->adds : &history->queries);
	request->kind = kind;
	if (is_add && (!read_number(&rest, &request->id, NULL) ||
			      !read_number(&rest, &request->amount, NULL)))
		return false;
	if (!read_number(&rest, &request->sent_ns, NULL) ||
		!read_number(&rest, &request->answered_ns, &unanswered) ||
		!read_number(&rest, &request->value, &unanswered))
		return false;
	if (kind == REQUEST_GET && !read_number(&rest, &request->count, &unanswered))
		return false;
	uint64_t sends;
	if (!read_number(&rest, &sends, NULL))
		return false;
	request->sends = (uint32_t)sends;
	request->answered = !unanswered;
	if (is_add && rest) {
		request->contradicted = true;
		return read_number(&rest, &request->other, NULL) && !rest;
	}
	return !rest;
}

static bool read_state(struct ledger_state *state, char *rest)
{
	state->known = true;
	return read_number(&rest, &state->total, NULL) && read_number(&rest, &state->count, NULL) &&
	       !rest;
}

static bool read_line(struct history *history, char *text)
{
	char *rest = text;
	const char *word = strsep(&rest, " ");
	if (strcmp(word, "add") == 0)
		return read_request(history, REQUEST_ADD, rest);
	if (strcmp(word, "get") == 0)
		return read_request(history, REQUEST_GET, rest);
	if (strcmp(word, "time") == 0)
		return read_request(history, REQUEST_TIME, rest);
	if (strcmp(word, "base") == 0)
		return read_state(&history->base, rest);
	if (strcmp(word, "final") == 0)
		return read_state(&history->final, rest);
	if (strcmp(word, "odd") == 0) {
		history_add_odd(history, rest ? rest : "", rest ? strlen(rest) : 0);
		return true;
	}
	if (strcmp(word, "shared") == 0) {
		history->shared = true;
		return !rest;
	}
	if (strcmp(word, "kill") == 0 && history->kill_count < HISTORY_KILLS)
		return read_number(&rest, &history->kills[history->kill_count++], NULL) && !rest;
	return false;
}

int history_read(struct history *history, FILE *file, unsigned *line)
{
	char text[256];
	*history = (struct history){0};
	for (*line = 1; fgets(text, sizeof text, file); ++*line) {
		text[strcspn(text, "\n")] = 0;
		if (*text && *text != '#' && !read_line(history, text))
			return -EINVAL;
	}
	return ferror(file) ? -EIO : 0;
}

#include "tests/client/load.h"

#include "tests/client/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u
#define SECOND 1000000000u

#define SEQUENCE_BITS 24 /* of an id: the rest is the run's own number */
#define QUERIES 64       /* the most GETs and TIMEs without an answer */
#define BURST 64         /* the most ADDs sent before answers are looked at again */

/*
 * Repetitions must not drown a guest that is only slow. A request is repeated when it has waited
 * for longer than answers have lately taken (as in RFC 6298), and each repetition takes a credit.
 * Answers bring credits, and a few come with time, for a guest that does not answer at all.
 */
#define CREDIT_MOST 64
#define ANSWERS_PER_CREDIT 4
#define CREDIT_EACH_TICK 4
#define RETRY_MOST_NS (2ull * SECOND)

/* The guest remembers the last 65,536 ids; one without an answer must stay among them. */
#define MOST_AHEAD 32768

/* What the dead host had sent may still be on its way to us when we hear of its death. */
#define IN_FLIGHT_NS (2 * MS)

/* After a time in which nothing could be sent, this much of it is made up for. */
#define CATCH_UP_NS (100 * MS)

struct waiting {
	size_t index;    /* in the history's list */
	int fd;          /* of a query; an ADD uses the common socket */
	uint64_t due_ns; /* to be sent again */
};

struct load {
	const struct load_options *options;
	struct history *history;
	struct load_result *result;
	int fd;
	uint64_t run; /* the high bits of this run's ids */
	uint64_t random;

	struct waiting *adds; /* those answered since the last repeat_due included */
	size_t add_count, add_room;
	size_t outstanding; /* ADDs without an answer */
	size_t oldest;      /* no ADD before this one is without an answer */
	struct waiting queries[QUERIES];
	size_t query_count;
	unsigned until_query;
	bool time_is_next;

	uint64_t answer_ns, deviation_ns; /* smoothed; 0 before the first answer */
	unsigned credit;
	uint64_t credit_ns; /* when the next ones come with time */

	uint64_t next_send_ns, end_ns;
	/* While requests wait: when the last answer came, or the first of them began to wait. */
	uint64_t silent_since_ns;
	size_t pauses_open; /* the first kill whose pause has not ended */

	uint64_t answered, report_ns, report_answered, report_slowest_ns, report_gap_ns;
};

/* Written by the handlers: release in on_kill, acquire in note_kills. */
static _Atomic uint64_t kill_times[HISTORY_KILLS];
static _Atomic size_t kill_count;
static _Atomic bool stop;

static void on_kill(int number)
{
	(void)number;
	size_t n = atomic_load_explicit(&kill_count, memory_order_relaxed);
	if (n == HISTORY_KILLS)
		return;
	kill_times[n] = wire_now_ns();
	atomic_store_explicit(&kill_count, n + 1, memory_order_release);
}

static void on_stop(int number)
{
	(void)number;
	stop = true;
}

static void catch_signals(void)
{
	/* No SA_RESTART: a signal ends the sleep in ppoll. */
	struct sigaction action = {.sa_handler = on_kill};
	sigaction(SIGUSR1, &action, NULL);
	action.sa_handler = on_stop;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
}

static uint64_t to_ns(double seconds)
{
	return (uint64_t)(seconds * 1e9);
}

static void sleep_until(struct pollfd *fds, size_t count, uint64_t until_ns)
{
	uint64_t now = wire_now_ns();
	uint64_t left = until_ns > now ? until_ns - now : 0;
	struct timespec timeout = {
		.tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND)};
	/* Whoever slept looks at all its sockets, whatever ended the sleep. */
	(void)ppoll(fds, count, &timeout, NULL);
}

int load_ask(const struct sockaddr_in *server, const char *request, double wait, char *answer,
	size_t room)
{
	char text[WIRE_MOST + 1], line[WIRE_MOST];
	int written = snprintf(line, sizeof line, "%s\n", request);
	if (written < 0 || (size_t)written >= sizeof line)
		return -EMSGSIZE;
	int fd = wire_open_fresh(server);
	if (fd < 0)
		return fd;
	int received = -1;
	uint64_t end = wire_now_ns() + to_ns(wait);
	while (received < 0 && wire_now_ns() < end && !stop) {
		wire_send(fd, line, (size_t)written);
		struct pollfd poll = {.fd = fd, .events = POLLIN};
		uint64_t again = wire_now_ns() + 100 * MS;
		while (received < 0 && wire_now_ns() < again && !stop) {
			sleep_until(&poll, 1, again);
			received = wire_receive(fd, text);
		}
	}
	close(fd);
	if (received < 0)
		return stop ? -EINTR : -ETIMEDOUT;
	snprintf(answer, room, "%s", text);
	return 0;
}

/* What the ledger holds, from a GET of its own. */
static int read_ledger(struct load *load, struct ledger_state *state, double wait)
{
	char text[WIRE_MOST + 1];
	struct answer answer;
	int status = load_ask(&load->options->server, "GET", wait, text, sizeof text);
	if (status)
		return status;
	if (!wire_parse(&answer, text) || answer.kind != REQUEST_GET)
		return -EPROTO;
	*state = (struct ledger_state){.known = true, .total = answer.value, .count = answer.count};
	return 0;
}

static void note_silence(struct load *load, uint64_t now)
{
	uint64_t gap = now - load->silent_since_ns;
	if (gap > load->result->longest_gap_ns)
		load->result->longest_gap_ns = gap;
	if (gap > load->report_gap_ns)
		load->report_gap_ns = gap;
}

/* RFC 6298, section 2 */
static void note_delay(struct load *load, uint64_t delay)
{
	if (load->answer_ns == 0) {
		load->answer_ns = delay;
		load->deviation_ns = delay / 2;
		return;
	}
	uint64_t difference =
		delay > load->answer_ns ? delay - load->answer_ns : load->answer_ns - delay;
	load->deviation_ns += difference / 4 - load->deviation_ns / 4;
	load->answer_ns += delay / 8 - load->answer_ns / 8;
}

static uint64_t retry_ns(const struct load *load)
{
	uint64_t least = (uint64_t)load->options->retry_ms * MS;
	uint64_t usual = load->answer_ns + 4 * load->deviation_ns;
	uint64_t most = least > RETRY_MOST_NS ? least : RETRY_MOST_NS;
	return usual < least ? least : usual > most ? most : usual;
}

static void note_answer(struct load *load, const struct request *request)
{
	uint64_t now = request->answered_ns;
	note_silence(load, now);
	load->silent_since_ns = now;
	load->answered++;
	if (load->credit < CREDIT_MOST && load->answered % ANSWERS_PER_CREDIT == 0)
		load->credit++;
	/* Of a repeated request too: an error on the long side only makes repetitions fewer. */
	note_delay(load, now - request->sent_ns);
	if (now - request->sent_ns > load->report_slowest_ns)
		load->report_slowest_ns = now - request->sent_ns;

	const struct history *history = load->history;
	for (; load->pauses_open < history->kill_count; load->pauses_open++) {
		uint64_t kill = history->kills[load->pauses_open];
		if (now <= kill || (request->sent_ns <= kill && now < kill + IN_FLIGHT_NS))
			return;
		load->result->pauses[load->pauses_open] = now - kill;
	}
}

static void note_kills(struct load *load)
{
	struct history *history = load->history;
	size_t count = atomic_load_explicit(&kill_count, memory_order_acquire);
	for (; history->kill_count < count; history->kill_count++)
		history->kills[history->kill_count] = kill_times[history->kill_count];
}

/* Before a request is sent for the first time. */
static void start_request(struct load *load, struct request *request, struct waiting *waiting)
{
	request->sent_ns = wire_now_ns();
	request->sends = 1;
	if (load->outstanding + load->query_count == 0)
		load->silent_since_ns = request->sent_ns;
	waiting->due_ns = request->sent_ns + retry_ns(load);
}

static void send_query(struct load *load)
{
	if (load->query_count == QUERIES) {
		load->result->skipped++;
		return;
	}
	int fd = wire_open_fresh(&load->options->server);
	if (fd < 0) {
		load->result->skipped++;
		return;
	}
	struct request_list *list = &load->history->queries;
	struct request *request = request_append(list);
	struct waiting *waiting = &load->queries[load->query_count];
	waiting->fd = fd;
	waiting->index = list->count - 1;
	request->kind = load->time_is_next ? REQUEST_TIME : REQUEST_GET;
	load->time_is_next = !load->time_is_next;
	start_request(load, request, waiting);
	load->query_count++;
	wire_send_request(fd, request);
}

static void send_add(struct load *load)
{
	struct request_list *list = &load->history->adds;
	struct request *request = request_append(list);
	struct waiting *waiting = &load->adds[load->add_count++];
	waiting->index = list->count - 1;
	request->kind = REQUEST_ADD;
	request->id = load->run << SEQUENCE_BITS | waiting->index;
	/* xorshift64 */
	load->random ^= load->random << 13;
	load->random ^= load->random >> 7;
	load->random ^= load->random << 17;
	request->amount = 1 + load->random % 100;
	start_request(load, request, waiting);
	load->outstanding++;
	wire_send_request(load->fd, request);
}

/* When the request is to be sent again, after having done so if that is now. */
static uint64_t repeat(
	struct load *load, struct waiting *waiting, struct request *request, int fd, uint64_t now)
{
	if (waiting->due_ns > now)
		return waiting->due_ns;
	if (load->credit == 0)
		return load->credit_ns;
	load->credit--;
	load->result->repeated++;
	request->sends++;
	waiting->due_ns = now + retry_ns(load);
	wire_send_request(fd, request);
	return waiting->due_ns;
}

/* Sends again what is due, the oldest first, and forgets what is answered. When to look again. */
static uint64_t repeat_due(struct load *load, uint64_t now)
{
	if (now >= load->credit_ns) {
		load->credit_ns = now + (uint64_t)load->options->retry_ms * MS;
		if (load->credit < CREDIT_EACH_TICK)
			load->credit = CREDIT_EACH_TICK;
	}
	uint64_t next = UINT64_MAX;
	for (size_t i = 0; i < load->query_count; i++) {
		struct waiting *waiting = &load->queries[i];
		struct request *request = &load->history->queries.all[waiting->index];
		uint64_t due = repeat(load, waiting, request, waiting->fd, now);
		next = due < next ? due : next;
	}
	size_t kept = 0;
	for (size_t i = 0; i < load->add_count; i++) {
		struct waiting *waiting = &load->adds[i];
		struct request *request = &load->history->adds.all[waiting->index];
		if (request->answered)
			continue;
		uint64_t due = repeat(load, waiting, request, load->fd, now);
		next = due < next ? due : next;
		load->adds[kept++] = *waiting;
	}
	load->add_count = kept;
	return next;
}

static bool may_send(struct load *load)
{
	const struct request_list *adds = &load->history->adds;
	while (load->oldest < adds->count && adds->all[load->oldest].answered)
		load->oldest++;
	return load->outstanding < load->options->window && load->add_count < load->add_room &&
	       adds->count - load->oldest < MOST_AHEAD && adds->count < (1u << SEQUENCE_BITS);
}

/* Sends what is due; when to send next, as far as that is known. */
static uint64_t send_due(struct load *load, uint64_t now)
{
	const struct load_options *options = load->options;
	if (now >= load->end_ns)
		return UINT64_MAX;
	if (load->next_send_ns + CATCH_UP_NS < now)
		load->next_send_ns = now - CATCH_UP_NS;
	for (unsigned sent = 0; load->next_send_ns <= now && may_send(load); sent++) {
		if (sent == BURST)
			return now;
		send_add(load);
		if (options->rate > 0)
			load->next_send_ns += to_ns(1 / options->rate);
		if (options->every && --load->until_query == 0) {
			load->until_query = options->every;
			send_query(load);
		}
	}
	if (load->next_send_ns <= now)
		return load->end_ns; /* the window is full: an answer or a repetition comes first */
	/* Many wake-ups for one ADD each would take the processor from the guest. */
	if (options->rate > 1000 && load->next_send_ns < now + MS)
		return now + MS;
	return load->next_send_ns;
}

static void take_add(struct load *load, const char *text, int length)
{
	struct answer answer;
	uint64_t now = wire_now_ns();
	if (!wire_parse(&answer, text) || answer.kind != REQUEST_ADD) {
		history_add_odd(load->history, text, (size_t)length);
		return;
	}
	struct request_list *adds = &load->history->adds;
	uint64_t index = answer.id & ((1u << SEQUENCE_BITS) - 1);
	/* Another run's id: its client had this port before us, and was answered once more. */
	if (answer.id >> SEQUENCE_BITS != load->run)
		return;
	if (index >= adds->count) {
		history_add_odd(load->history, text, (size_t)length);
		return;
	}
	struct request *request = &adds->all[index];
	request->answers++;
	if (request->answered) {
		load->result->duplicates++;
		if (answer.value != request->value) {
			request->contradicted = true;
			request->other = answer.value;
		}
		return;
	}
	request->answered = true;
	request->answered_ns = now;
	request->value = answer.value;
	note_answer(load, request);
	load->outstanding--;
}

/* True when the query is answered and its place free. */
static bool take_query(struct load *load, struct waiting *waiting)
{
	char text[WIRE_MOST + 1];
	struct answer answer;
	int length = wire_receive(waiting->fd, text);
	if (length < 0)
		return false;
	struct request *request = &load->history->queries.all[waiting->index];
	if (!wire_parse(&answer, text) || answer.kind != request->kind) {
		history_add_odd(load->history, text, (size_t)length);
		return false;
	}
	request->answers = 1;
	request->answered = true;
	request->answered_ns = wire_now_ns();
	request->value = answer.value;
	request->count = answer.count;
	note_answer(load, request);
	close(waiting->fd);
	*waiting = load->queries[--load->query_count];
	return true;
}

static void receive_all(struct load *load)
{
	char text[WIRE_MOST + 1];
	int length;
	while ((length = wire_receive(load->fd, text)) >= 0)
		take_add(load, text, length);
	for (size_t i = 0; i < load->query_count;)
		if (!take_query(load, &load->queries[i]))
			i++;
}

static void report(struct load *load, uint64_t now)
{
	if (!load->options->progress || now < load->report_ns)
		return;
	if (load->outstanding + load->query_count)
		note_silence(load, now);
	const struct history *history = load->history;
	uint64_t asked = history->adds.count + history->queries.count;
	uint64_t second = (load->report_ns - history->start_ns) / SECOND;
	fprintf(stderr,
		"%4" PRIu64 " s: %6" PRIu64 " asked, %6" PRIu64 " answered (%" PRIu64
		"/s); slowest %.1f ms, longest silence %.1f ms\n",
		second, asked, load->answered, load->answered - load->report_answered,
		(double)load->report_slowest_ns / MS, (double)load->report_gap_ns / MS);
	load->report_ns += SECOND;
	load->report_answered = load->answered;
	load->report_slowest_ns = 0;
	load->report_gap_ns = 0;
}

static void exchange(struct load *load)
{
	uint64_t give_up = UINT64_MAX;
	for (;;) {
		uint64_t now = wire_now_ns();
		note_kills(load);
		if (stop && load->end_ns > now)
			load->end_ns = now;
		if (now >= load->end_ns && give_up == UINT64_MAX) {
			load->result->sending_ns = load->end_ns - load->history->start_ns;
			give_up = now + to_ns(load->options->deadline);
		}
		uint64_t wake = send_due(load, now);
		uint64_t repetition = repeat_due(load, now);
		wake = repetition < wake ? repetition : wake;
		wake = give_up < wake ? give_up : wake;
		wake = load->end_ns > now && load->end_ns < wake ? load->end_ns : wake;
		if (load->options->progress && load->report_ns < wake)
			wake = load->report_ns;
		if (now >= give_up ||
			(now >= load->end_ns && load->outstanding + load->query_count == 0))
			break;

		struct pollfd fds[1 + QUERIES] = {{.fd = load->fd, .events = POLLIN}};
		for (size_t i = 0; i < load->query_count; i++)
			fds[1 + i] = (struct pollfd){.fd = load->queries[i].fd, .events = POLLIN};
		sleep_until(fds, 1 + load->query_count, wake);
		receive_all(load);
		report(load, wire_now_ns());
	}
	if (load->outstanding + load->query_count)
		note_silence(load, wire_now_ns());
}

int load_run(
	const struct load_options *options, struct history *history, struct load_result *result)
{
	struct load load = {
		.options = options,
		.history = history,
		.result = result,
		.add_room = (size_t)options->window * 2,
		.until_query = options->every,
	};
	uint32_t run;
	if (getrandom(&run, sizeof run, 0) != sizeof run)
		run = (uint32_t)getpid();
	load.run = run;
	load.random = (uint64_t)run << 32 | 1;
	catch_signals();
	int status = read_ledger(&load, &history->base, options->wait);
	if (status)
		return status;
	history->shared = options->shared;
	load.fd = wire_open(&options->server);
	if (load.fd < 0)
		return load.fd;
	load.adds = calloc(load.add_room, sizeof *load.adds);
	if (!load.adds) {
		close(load.fd);
		return -ENOMEM;
	}
	history->start_ns = wire_now_ns();
	load.next_send_ns = history->start_ns;
	load.end_ns = history->start_ns + to_ns(options->seconds);
	load.report_ns = history->start_ns + SECOND;
	exchange(&load);

	stop = false;
	if (read_ledger(&load, &history->final, options->deadline))
		history->final.known = false;
	receive_all(&load); /* what came twice */
	for (size_t i = 0; i < load.query_count; i++)
		close(load.queries[i].fd);
	close(load.fd);
	free(load.adds);
	return 0;
}

#include "crash_file.h"

#include "transport/durable.h"
#include "transport/recording_format.h"

#define SECRET 0x5151u
#define START 0x4000u
#define PAGE 4096u
#define MEMORY (8u * PAGE)
#define ENDS_AT (3u * PAGE) /* with the state and the pages below */
#define ENTRIES_AT (5u * PAGE)
#define AREA ((uint64_t)DURABLE_AREA_MIN)
#define SIZE (ENTRIES_AT + AREA)
#define ENTRIES_MAX 4096u

static char folder[64];
static uint8_t memory[MEMORY], state_blob[101], payload[LOG_PAYLOAD_MAX];
static const struct recording_origin origin = {.vm = "ledger",
	.generation = 5,
	.secret = SECRET,
	.start = START,
	.state = state_blob,
	.state_size = sizeof state_blob,
	.memory = memory,
	.memory_size = MEMORY};

/* A log being written, and what is known of it. */
struct written {
	struct crash_file *file;
	struct durable *durable;
	enum durable_keep keep;
	uint64_t random;
	uint64_t ends[ENTRIES_MAX]; /* LSN behind each entry encoded */
	size_t count;
	uint64_t next;     /* LSN behind all that was handed to durable_append */
	uint64_t reported; /* what durable_persist has promised */
	size_t looks;
};

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/doppel-test-XXXXXX");
	assert_non_null(mkdtemp(folder));
	fill_random(state_blob, sizeof state_blob, 1);
	fill_random(memory + 2 * PAGE, PAGE, 2);
	memory[6 * PAGE - 1] = 1;
	fill_random(payload, sizeof payload, 3);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return rmdir(folder);
}

/* Encodes the next entry to `out`. Its payload depends on its number alone. */
static uint64_t encode(struct written *w, uint8_t *out, uint32_t length)
{
	assert_true(w->count < ENTRIES_MAX);
	memcpy(payload, &w->count, sizeof w->count);
	log_encode(out, SECRET, w->next, LOG_NET_RX, w->count, (uint32_t)w->count, payload, length);
	w->next += log_entry_size(length);
	w->ends[w->count++] = w->next;
	return log_entry_size(length);
}

/* What is read must be what was written: from the start, or from a whole entry, to the end that is
 * promised at least. */
static void compare(const struct written *w, struct recording_view *view)
{
	struct log_entry entry;
	size_t n = 0;
	assert_true(view->is_durable);
	assert_int_equal(view->is_dropped, view->entries.next != START);
	assert_true(w->keep == DURABLE_KEEP_NEWEST || !view->is_dropped);
	if (view->is_dropped) {
		while (n < w->count && w->ends[n] < view->entries.next)
			n++;
		assert_true(n < w->count && w->ends[n++] == view->entries.next);
	}
	assert_true(view->entries.end >= w->reported && view->entries.end <= w->next);
	if (view->is_dropped)
		assert_true(view->entries.end - view->entries.next >= AREA * 12 / 16);
	while (log_reader_peek(&view->entries, &entry) == LOG_VALID) {
		assert_int_equal(entry.end, w->ends[n]);
		assert_int_equal(entry.position, n);
		assert_memory_equal(entry.payload, &n, sizeof n);
		assert_memory_equal(
			entry.payload + sizeof n, payload + sizeof n, entry.length - sizeof n);
		log_reader_take(&view->entries, &entry);
		n++;
	}
	assert_int_equal(view->entries.next, view->entries.end);
}

static void look(void *context, const char *path)
{
	struct written *w = context;
	struct recording_view view;
	int error = recording_open(&view, path);
	if (error)
		print_error("%s\n", fail_message());
	assert_int_equal(error, 0);
	assert_string_equal(view.vm, "ledger");
	compare(w, &view);
	recording_view_close(&view);
	w->looks++;
}

static void begin(struct written *w, enum durable_keep keep)
{
	*w = (struct written){.keep = keep, .random = 7, .next = START, .reported = START};
	w->file = crash_file_new(folder, SIZE);
	w->file->look = look;
	w->file->context = w;
	assert_int_equal(durable_create(&w->durable, &w->file->base, keep, &origin), 0);
}

static void end(struct written *w)
{
	durable_close(w->durable);
	assert_true(w->file->is_closed);
	crash_file_free(w->file);
}

/* Appends up to three entries at once; 0 or the error. */
static int append(struct written *w, uint32_t longest)
{
	uint8_t *bytes = malloc(3 * log_entry_size(LOG_PAYLOAD_MAX));
	uint64_t length = 0;
	for (uint64_t n = next_random(&w->random) % 3 + 1; n > 0; n--)
		length += encode(w, bytes + length,
			(uint32_t)(26 + next_random(&w->random) % (longest - 25)));
	int error = durable_append(w->durable, bytes, length);
	free(bytes);
	return error;
}

static void persist(struct written *w)
{
	assert_int_equal(durable_persist(w->durable), 0);
	w->reported = durable_next(w->durable);
	assert_int_equal(w->reported, w->next);
}

/* Appends and persists until so many bytes are written, through crashes at each step. */
static void write_through_crashes(
	struct written *w, enum durable_keep keep, bool by_pages, uint64_t bytes)
{
	begin(w, keep);
	w->file->by_pages = by_pages;
	persist(w);
	while (w->next + 3 * log_entry_size(LOG_PAYLOAD_MAX) < START + bytes) {
		/* Mostly small ones, now and then a large one; some persists find nothing to do. */
		uint32_t longest = next_random(&w->random) % 4 ? 6000 : LOG_PAYLOAD_MAX;
		for (uint64_t n = next_random(&w->random) % 4; n > 0; n--)
			assert_int_equal(append(w, longest), 0);
		persist(w);
	}
	assert_true(w->looks > 100);
	end(w);
}

static void what_was_durable_survives_a_crash_at_any_step(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	write_through_crashes(w, DURABLE_KEEP_ALL, false, AREA / 2);
	write_through_crashes(w, DURABLE_KEEP_ALL, true, AREA / 2);
	free(w);
}

static void a_log_that_keeps_the_newest_survives_a_crash_at_any_step(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	write_through_crashes(w, DURABLE_KEEP_NEWEST, false, 9 * AREA / 4);
	write_through_crashes(w, DURABLE_KEEP_NEWEST, true, 9 * AREA / 4);
	free(w);
}

static void a_log_that_keeps_the_newest_needs_no_persist_between(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	begin(w, DURABLE_KEEP_NEWEST);
	w->file->look = NULL;
	while (w->next < START + 3 * AREA)
		assert_int_equal(append(w, LOG_PAYLOAD_MAX), 0);
	w->file->look = look;
	persist(w);
	assert_true(w->looks > 0);
	assert_true(durable_begin(w->durable) > START);
	end(w);
	free(w);
}

static void the_first_state_is_read_again(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	begin(w, DURABLE_KEEP_ALL);
	assert_false(w->file->published);
	persist(w);
	assert_true(w->file->published);
	assert_int_equal(append(w, 100), 0);
	persist(w);
	struct recording_view view;
	assert_int_equal(recording_open(&view, w->file->path), 0);
	assert_int_equal(view.generation, 5);
	assert_int_equal(view.entries.secret, SECRET);
	assert_int_equal(view.state_size, sizeof state_blob);
	assert_memory_equal(view.state, state_blob, sizeof state_blob);
	assert_int_equal(view.memory_size, MEMORY);
	uint8_t *copy = calloc(1, MEMORY);
	recording_load_memory(&view, copy);
	assert_memory_equal(copy, memory, MEMORY);
	free(copy);
	recording_view_close(&view);
	end(w);
	free(w);
}

static void a_full_log_takes_no_more_and_keeps_what_it_has(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	begin(w, DURABLE_KEEP_ALL);
	w->file->look = NULL;
	int error = 0;
	while (!error)
		error = append(w, 30000);
	assert_int_equal(error, -ENOSPC);
	assert_non_null(strstr(fail_message(), w->file->path));
	uint64_t kept = durable_next(w->durable);
	assert_true(kept > START + AREA - 3 * log_entry_size(30000) && kept <= START + AREA);
	uint8_t bytes[4096];
	w->next = kept;
	w->count = 0;
	while (w->ends[w->count] <= kept)
		w->count++;
	uint64_t length = encode(w, bytes, 3000);
	if (kept + length > START + AREA)
		assert_int_equal(durable_append(w->durable, bytes, length), -ENOSPC);
	w->count--;
	w->next = kept;
	persist(w);
	look(w, w->file->path);
	end(w);
	free(w);
}

static void the_last_byte_of_the_area_is_used(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	uint8_t *bytes = malloc(log_entry_size(LOG_PAYLOAD_MAX));
	begin(w, DURABLE_KEEP_ALL);
	w->file->look = NULL;
	while (START + AREA - w->next > log_entry_size(65536)) {
		uint64_t length = encode(w, bytes, 30000);
		assert_int_equal(durable_append(w->durable, bytes, length), 0);
	}
	uint64_t length = encode(w, bytes, (uint32_t)(START + AREA - w->next - 40));
	assert_int_equal(durable_append(w->durable, bytes, length), 0);
	assert_int_equal(w->next, START + AREA);
	persist(w);
	look(w, w->file->path);
	length = encode(w, bytes, 26);
	assert_int_equal(durable_append(w->durable, bytes, length), -ENOSPC);
	free(bytes);
	end(w);
	free(w);
}

static void what_is_no_whole_entry_is_not_appended(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	uint8_t bytes[600];
	begin(w, DURABLE_KEEP_ALL);
	uint64_t first = encode(w, bytes, 100), second = encode(w, bytes + first, 100);
	/* A peer changes the second one behind the receiver's back. */
	bytes[first + 50] ^= 1;
	assert_int_equal(durable_append(w->durable, bytes, first + second), -EBADMSG);
	assert_int_equal(durable_next(w->durable), START + first);
	bytes[first + 50] ^= 1;
	assert_int_equal(durable_append(w->durable, bytes + first, second - 8), -EBADMSG);
	assert_int_equal(durable_next(w->durable), START + first);
	assert_int_equal(durable_append(w->durable, bytes + first, second), 0);
	persist(w);
	look(w, w->file->path);
	end(w);
	free(w);
}

static void an_error_of_the_storage_is_for_good(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	/* The settling of the entries, the copy of the end, and its settling. */
	for (int which = 1; which <= 3; which++) {
		begin(w, DURABLE_KEEP_ALL);
		persist(w);
		assert_int_equal(append(w, 1000), 0);
		persist(w);
		assert_int_equal(append(w, 1000), 0);
		w->file->fails_at = w->file->steps + which;
		assert_int_equal(durable_persist(w->durable), -EIO);
		assert_int_equal(durable_persist(w->durable), -EIO);
		assert_non_null(strstr(fail_message(), w->file->path));
		assert_int_equal(append(w, 1000), 0);
		assert_int_equal(durable_persist(w->durable), -EIO);
		look(w, w->file->path);
		end(w);
	}
	free(w);
}

static void a_log_that_was_never_persisted_is_not_published(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	begin(w, DURABLE_KEEP_ALL);
	assert_int_equal(append(w, 1000), 0);
	assert_false(w->file->published);
	end(w);
	begin(w, DURABLE_KEEP_ALL);
	assert_int_equal(append(w, 1000), 0);
	w->file->fails_at = w->file->steps + 1;
	assert_int_equal(durable_persist(w->durable), -EIO);
	assert_false(w->file->published);
	end(w);
	free(w);
}

static void nothing_new_costs_nothing(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	begin(w, DURABLE_KEEP_ALL);
	persist(w);
	long steps = w->file->steps;
	persist(w);
	assert_int_equal(w->file->steps, steps);
	end(w);
	free(w);
}

static void the_smallest_size_suffices_for_any_guest(void **state)
{
	(void)state;
	uint8_t *full = malloc(64 * PAGE);
	memset(full, 1, 64 * PAGE);
	struct recording_origin large = origin;
	large.memory = full;
	large.memory_size = 64 * PAGE;
	uint64_t size = durable_size_min(sizeof state_blob, large.memory_size);
	assert_int_equal(size % PAGE, 0);
	struct durable *durable;
	struct crash_file *file = crash_file_new(folder, size);
	assert_int_equal(durable_create(&durable, &file->base, DURABLE_KEEP_ALL, &large), 0);
	assert_int_equal(durable_persist(durable), 0);
	struct recording_view view;
	assert_int_equal(recording_open(&view, file->path), 0);
	recording_view_close(&view);
	durable_close(durable);
	crash_file_free(file);

	file = crash_file_new(folder, size - PAGE);
	assert_int_equal(durable_create(&durable, &file->base, DURABLE_KEEP_ALL, &large), -ENOSPC);
	assert_non_null(strstr(fail_message(), "--log-size"));
	assert_true(file->is_closed);
	crash_file_free(file);
	free(full);
}

/* Writes an end into the image as a hostile writer would, with the check word that belongs to it.
 */
static void forge(
	struct written *w, unsigned which, uint64_t sequence, uint64_t first, uint64_t last)
{
	struct recording_end forged = {.sequence = sequence, .begin = first, .end = last};
	forged.check = recording_end_check(SECRET, &forged);
	memcpy((uint8_t *)w->file->stored + ENDS_AT + which * PAGE, &forged, sizeof forged);
}

static void of_two_ends_the_newest_right_one_counts(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	struct recording_view view;
	begin(w, DURABLE_KEEP_ALL);
	persist(w);
	for (int i = 0; i < 4; i++) {
		uint64_t before = w->next;
		assert_int_equal(append(w, 500), 0);
		persist(w);
		unsigned newest = (unsigned)(i % 2); /* sequences 2, 3, 4, 5 */
		uint8_t *at = (uint8_t *)w->file->stored + ENDS_AT + newest * PAGE;
		for (size_t byte = 0; byte < sizeof(struct recording_end); byte++) {
			at[byte] ^= 4;
			assert_int_equal(recording_open(&view, w->file->path), 0);
			assert_int_equal(view.entries.end, before);
			recording_view_close(&view);
			at[byte] ^= 4;
		}
		look(w, w->file->path);
	}
	memset((uint8_t *)w->file->stored + ENDS_AT, 0, 2 * PAGE);
	assert_int_equal(recording_open(&view, w->file->path), -EBADMSG);
	assert_non_null(strstr(fail_message(), "neither"));
	end(w);
	free(w);
}

static void ends_that_lie_are_not_followed(void **state)
{
	(void)state;
	static const struct {
		uint64_t begin, end;
	} lies[] = {
		{START - 8, START},
		{START + 4, START + 8},
		{START, START + 4},
		{START + 8, START},
		{START, START + AREA + 8},
		{START, UINT64_MAX - 7},
		{UINT64_MAX - 7, UINT64_MAX - 7},
		{UINT64_MAX - 15, 8},
		{1ull << 63, (1ull << 63) + 8},
	};
	struct written *w = malloc(sizeof *w);
	struct recording_view view;
	struct log_entry entry;
	begin(w, DURABLE_KEEP_ALL);
	persist(w);
	assert_int_equal(append(w, 500), 0);
	persist(w);
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		forge(w, 0, 99, lies[i].begin, lies[i].end);
		forge(w, 1, 98, lies[i].begin, lies[i].end);
		assert_int_equal(recording_open(&view, w->file->path), -EBADMSG);
	}
	/* These may be: there is no entry at such places, and nothing outside the area is read. */
	static const uint64_t begins[] = {
		START + 8, START + AREA, START + AREA + 8, START + 2 * AREA - 8, (1ull << 62) + 24};
	for (size_t i = 0; i < sizeof begins / sizeof begins[0]; i++) {
		forge(w, 0, 99, begins[i], begins[i] + AREA);
		assert_int_equal(recording_open(&view, w->file->path), 0);
		assert_true(view.is_dropped);
		assert_int_not_equal(log_reader_peek(&view.entries, &entry), LOG_VALID);
		recording_view_close(&view);
	}
	end(w);
	free(w);
}

static void a_durable_log_of_another_length_is_damaged(void **state)
{
	(void)state;
	struct written *w = malloc(sizeof *w);
	struct recording_view view;
	begin(w, DURABLE_KEEP_ALL);
	persist(w);
	assert_int_equal(truncate(w->file->path, SIZE + 1), 0);
	assert_int_equal(recording_open(&view, w->file->path), -EBADMSG);
	assert_non_null(strstr(fail_message(), "behind"));
	for (uint64_t cut = 1; cut < SIZE; cut += cut < ENTRIES_AT ? 211 : 100003) {
		assert_int_equal(truncate(w->file->path, (off_t)(SIZE - cut)), 0);
		assert_int_equal(recording_open(&view, w->file->path), -EBADMSG);
	}
	end(w);
	free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_durable_survives_a_crash_at_any_step),
		cmocka_unit_test(a_log_that_keeps_the_newest_survives_a_crash_at_any_step),
		cmocka_unit_test(a_log_that_keeps_the_newest_needs_no_persist_between),
		cmocka_unit_test(the_first_state_is_read_again),
		cmocka_unit_test(a_full_log_takes_no_more_and_keeps_what_it_has),
		cmocka_unit_test(the_last_byte_of_the_area_is_used),
		cmocka_unit_test(what_is_no_whole_entry_is_not_appended),
		cmocka_unit_test(an_error_of_the_storage_is_for_good),
		cmocka_unit_test(a_log_that_was_never_persisted_is_not_published),
		cmocka_unit_test(nothing_new_costs_nothing),
		cmocka_unit_test(the_smallest_size_suffices_for_any_guest),
		cmocka_unit_test(of_two_ends_the_newest_right_one_counts),
		cmocka_unit_test(ends_that_lie_are_not_followed),
		cmocka_unit_test(a_durable_log_of_another_length_is_damaged),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

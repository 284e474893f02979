#include "support.h"

#include "transport/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define SECRET 0x7777u
#define START 0x10000u
#define PAGE 4096u
#define MEMORY (16u * PAGE)

static char folder[64], path[128], damaged[128];
static uint8_t memory[MEMORY];
static uint8_t state_blob[101];
static uint8_t *file; /* the bytes of a small recording */
static size_t file_size, entries_at;
static const struct recording_origin origin = {.vm = "ledger",
	.generation = 3,
	.secret = SECRET,
	.start = START,
	.state = state_blob,
	.state_size = sizeof state_blob,
	.memory = memory,
	.memory_size = MEMORY};
static const struct recording_origin stateless = {
	.secret = 1, .memory = memory, .memory_size = MEMORY};

static const uint32_t lengths[] = {60, 26, 100};
#define FRAMES (sizeof lengths / sizeof lengths[0])

static void write_recording(void)
{
	struct recording *recording;
	struct log_writer *writer;
	assert_int_equal(recording_create(&recording, path, &origin), 0);
	assert_int_equal(
		log_writer_create(&writer, &recording_sink, recording, 65536, SECRET, START), 0);
	for (uint64_t i = 0; i < FRAMES; i++) {
		assert_int_equal(
			log_writer_append(writer, LOG_NET_RX, i, 7, memory, lengths[i], NULL), 0);
		if (i != 1)
			assert_int_equal(log_writer_flush(writer), 0);
	}
	struct log_ending ending = {.reason = LOG_END_STOPPED};
	assert_int_equal(
		log_writer_append(writer, LOG_END, FRAMES, 7, &ending, sizeof ending, NULL), 0);
	assert_int_equal(log_writer_flush(writer), 0);
	log_writer_destroy(writer);
	assert_int_equal(recording_close(recording), 0);
}

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/doppel-test-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof path, "%s/recording", folder);
	snprintf(damaged, sizeof damaged, "%s/damaged", folder);
	fill_random(state_blob, sizeof state_blob, 1);
	/* Two pages with something in them, one of them in its last byte alone. */
	fill_random(memory + 3 * PAGE, PAGE, 2);
	memory[9 * PAGE - 1] = 1;
	write_recording();
	int fd = open(path, O_RDONLY);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	file_size = (size_t)st.st_size;
	file = malloc(file_size);
	assert_int_equal(read(fd, file, file_size), file_size);
	close(fd);
	entries_at = 144 + 104 + 2 * (8 + PAGE);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	free(file);
	unlink(path);
	unlink(damaged);
	return rmdir(folder);
}

static int open_bytes(struct recording_view *view, const uint8_t *bytes, size_t size)
{
	unlink(damaged);
	int fd = open(damaged, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
	return recording_open(view, damaged);
}

/* The number of entries that can be read; the last one must be END in a whole recording. */
static size_t count_entries(struct recording_view *view, enum log_kind *last)
{
	struct log_entry entry;
	size_t count = 0;
	while (log_reader_peek(&view->entries, &entry) == LOG_VALID) {
		log_reader_take(&view->entries, &entry);
		*last = entry.kind;
		count++;
	}
	return count;
}

static void what_was_recorded_is_read_again(void **state)
{
	(void)state;
	struct recording_view view;
	assert_int_equal(recording_open(&view, path), 0);
	assert_int_equal(view.state_size, sizeof state_blob);
	assert_memory_equal(view.state, state_blob, sizeof state_blob);
	assert_int_equal(view.memory_size, MEMORY);
	assert_int_equal(view.page_count, 2);
	assert_string_equal(view.vm, "ledger");
	assert_int_equal(view.generation, 3);
	assert_false(view.is_durable);
	assert_false(view.is_dropped);
	uint8_t *copy = calloc(1, MEMORY);
	recording_load_memory(&view, copy);
	assert_memory_equal(copy, memory, MEMORY);
	free(copy);
	assert_int_equal(view.entries.secret, SECRET);
	struct log_entry entry;
	for (uint64_t i = 0; i < FRAMES; i++) {
		assert_int_equal(log_reader_peek(&view.entries, &entry), LOG_VALID);
		assert_int_equal(entry.position, i);
		assert_int_equal(entry.length, lengths[i]);
		if (i == 0)
			assert_int_equal(entry.lsn, START);
		log_reader_take(&view.entries, &entry);
	}
	assert_int_equal(log_reader_peek(&view.entries, &entry), LOG_VALID);
	assert_int_equal(entry.kind, LOG_END);
	log_reader_take(&view.entries, &entry);
	assert_int_equal(log_reader_peek(&view.entries, &entry), LOG_ABSENT);
	recording_view_close(&view);
	recording_view_close(&view);
}

static void the_file_lies_as_the_specification_says(void **state)
{
	(void)state;
	uint32_t half;
	uint64_t word;
	assert_memory_equal(file, "DOPPELRC", 8);
	memcpy(&half, file + 8, 4);
	assert_int_equal(half, RECORDING_VERSION);
	memcpy(&half, file + 12, 4);
	assert_int_equal(half, sizeof state_blob);
	memcpy(&word, file + 16, 8);
	assert_int_equal(word, SECRET);
	memcpy(&word, file + 24, 8);
	assert_int_equal(word, START);
	memcpy(&word, file + 32, 8);
	assert_int_equal(word, MEMORY);
	memcpy(&word, file + 40, 8);
	assert_int_equal(word, 2);
	memcpy(&word, file + 48, 8);
	assert_int_equal(word, 0);
	memcpy(&word, file + 56, 8);
	assert_int_equal(word, 3);
	assert_memory_equal(file + 64, "ledger\0\0", 8);
	assert_memory_equal(file + 144, state_blob, sizeof state_blob);
	memcpy(&word, file + 248, 8);
	assert_int_equal(word, 3);
	assert_memory_equal(file + 256, memory + 3 * PAGE, PAGE);
	memcpy(&word, file + 256 + PAGE, 8);
	assert_int_equal(word, 8);
	uint32_t crc = crc32c(UINT32_MAX, file, 136);
	crc = crc32c(crc, file + 144, sizeof state_blob);
	crc = ~crc32c(crc, file + 248, 2 * (PAGE + 8));
	memcpy(&half, file + 136, 4);
	assert_int_equal(half, crc);
}

static void a_recording_cut_anywhere_is_an_error_or_ends_early(void **state)
{
	(void)state;
	for (size_t cut = 0; cut < file_size; cut++) {
		/* Within pages one byte is like the next. */
		if (cut > 400 && cut < entries_at - 40 && cut % 97)
			continue;
		struct recording_view view;
		int error = open_bytes(&view, file, cut);
		if (cut < entries_at) {
			assert_int_equal(error, -EBADMSG);
			assert_non_null(strstr(fail_message(), damaged));
			assert_non_null(strstr(fail_message(), cut < 1 ? "empty" : "cut short"));
			assert_null(view.map);
			continue;
		}
		assert_int_equal(error, 0);
		enum log_kind last = 0;
		assert_true(count_entries(&view, &last) <= FRAMES);
		assert_int_not_equal(last, LOG_END);
		recording_view_close(&view);
	}
}

static void a_wrong_byte_before_the_entries_is_noticed(void **state)
{
	(void)state;
	for (size_t at = 0; at < entries_at; at++) {
		if (at > 200 && at < entries_at - 8 && at % 101 && !(at >= 4352 && at < 4360))
			continue;
		file[at] ^= 0x40;
		struct recording_view view;
		int error = open_bytes(&view, file, file_size);
		file[at] ^= 0x40;
		assert_int_equal(error, -EBADMSG);
		assert_non_null(strstr(fail_message(), damaged));
	}
}

static void a_wrong_byte_within_the_entries_ends_them_there(void **state)
{
	(void)state;
	size_t end = entries_at, number = 0;
	for (size_t at = entries_at; at < file_size; at++) {
		if (at == end + (number < FRAMES ? log_entry_size(lengths[number]) : 48)) {
			end = at;
			number++;
		}
		file[at] ^= 0x10;
		struct recording_view view;
		int error = open_bytes(&view, file, file_size);
		file[at] ^= 0x10;
		assert_int_equal(error, 0);
		enum log_kind last;
		assert_int_equal(count_entries(&view, &last), number);
		recording_view_close(&view);
	}
}

/* Headers that lie, with a checksum that is right for what is there. */
static void lengths_that_lie_are_not_followed(void **state)
{
	(void)state;
	static const struct {
		size_t offset, size;
		uint64_t value;
	} lies[] = {
		{12, 4, UINT32_MAX},
		{12, 4, UINT32_MAX - 7},
		{12, 4, 1u << 30},
		{24, 8, UINT64_MAX - 7},
		{24, 8, START + 4},
		{32, 8, MEMORY + 1},
		{32, 8, PAGE},
		{32, 8, 8 * PAGE},
		{40, 8, UINT64_MAX},
		{40, 8, UINT64_MAX / 4104 + 1},
		{40, 8, 17},
		{40, 8, 3},
		{48, 8, PAGE},
		{48, 8, 1u << 30},
		{48, 8, 100},
		{48, 8, UINT64_MAX - PAGE + 1},
		{128, 8, 1ull << 40},
		{140, 4, 1},
		{8, 4, RECORDING_VERSION + 1},
		{8, 4, 0},
		{248, 8, 16},
		{248, 8, 8},
		{248, 8, UINT64_MAX},
		{4352, 8, 3},
		{4352, 8, 0},
		{4352, 8, 1ull << 52},
	};
	uint8_t *copy = malloc(file_size);
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		memcpy(copy, file, file_size);
		memcpy(copy + lies[i].offset, &lies[i].value, lies[i].size);
		uint32_t crc = crc32c(UINT32_MAX, copy, 136);
		crc = crc32c(crc, copy + 144, sizeof state_blob);
		crc = ~crc32c(crc, copy + 248, 2 * (PAGE + 8));
		memcpy(copy + 136, &crc, 4);
		struct recording_view view;
		assert_int_equal(open_bytes(&view, copy, file_size), -EBADMSG);
	}
	free(copy);
	/* The memory may be as large as it likes: it is the engine that decides whether it has as
	 * much. */
}

static void what_is_no_recording_is_said_to_be_none(void **state)
{
	(void)state;
	struct recording_view view;
	static const uint8_t text[200] = "#!/bin/sh\n";
	assert_int_equal(open_bytes(&view, text, sizeof text), -EBADMSG);
	assert_non_null(strstr(fail_message(), "not a recording"));
	assert_int_equal(open_bytes(&view, text, 3), -EBADMSG);
	assert_non_null(strstr(fail_message(), "not a recording"));
	assert_int_equal(recording_open(&view, folder), -EBADMSG);
	assert_int_equal(recording_open(&view, "/dev/null"), -EBADMSG);
	assert_int_equal(recording_open(&view, "/nonexistent/file"), -ENOENT);
	assert_non_null(strstr(fail_message(), "/nonexistent/file"));
}

static void an_existing_file_is_not_overwritten(void **state)
{
	(void)state;
	struct recording *recording;
	assert_int_equal(recording_create(&recording, path, &origin), -EEXIST);
	assert_non_null(strstr(fail_message(), path));
	struct recording_view view;
	assert_int_equal(recording_open(&view, path), 0);
	recording_view_close(&view);
	assert_int_equal(recording_create(&recording, "/nonexistent/file", &stateless), -ENOENT);
}

static void what_is_not_a_regular_file_can_be_written(void **state)
{
	(void)state;
	struct recording *recording;
	assert_int_equal(recording_create(&recording, "/dev/null", &stateless), 0);
	assert_int_equal(recording_close(recording), 0);
	assert_int_equal(recording_create(&recording, "/dev/full", &stateless), -ENOSPC);
	assert_non_null(strstr(fail_message(), "/dev/full"));
	assert_int_equal(access("/dev/full", F_OK), 0);
}

static void a_recording_that_cannot_be_finished_leaves_no_file(void **state)
{
	(void)state;
	/* A link to a full device would be a device; a size limit is what a regular file can run
	 * into. */
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		signal(SIGXFSZ, SIG_IGN);
		REQUIRE(setrlimit(RLIMIT_FSIZE, &(struct rlimit){5000, 5000}) == 0);
		struct recording *recording;
		unlink(damaged);
		REQUIRE(recording_create(&recording, damaged, &stateless) == -EFBIG);
		REQUIRE(access(damaged, F_OK) < 0);
		_exit(0);
	}
	assert_exits_with_0(child);
}

static void memory_with_many_pages_survives(void **state)
{
	(void)state;
	enum { PAGES = 1000 };
	uint8_t *large = calloc(PAGES, PAGE), *copy = calloc(PAGES, PAGE);
	uint64_t random = 4, expected = 0;
	for (size_t i = 0; i < PAGES; i++) {
		if (i != 10 && next_random(&random) % 4 == 0)
			continue;
		large[i * PAGE + next_random(&random) % PAGE] = (uint8_t)(i | 1);
		expected++;
	}
	/* A page of one byte repeated is not a zero page. */
	memset(large + 10 * PAGE, 0xff, PAGE);
	unlink(damaged);
	struct recording *recording;
	assert_int_equal(
		recording_create(&recording, damaged,
			&(struct recording_origin){
				.secret = 1, .memory = large, .memory_size = PAGES * PAGE}),
		0);
	assert_int_equal(recording_close(recording), 0);
	struct recording_view view;
	assert_int_equal(recording_open(&view, damaged), 0);
	assert_int_equal(view.page_count, expected);
	recording_load_memory(&view, copy);
	assert_memory_equal(copy, large, PAGES * PAGE);
	recording_view_close(&view);
	free(large);
	free(copy);
}

static void write_out_of_order(void *argument)
{
	struct iovec piece = {memory, 8};
	_exit(recording_sink.write(argument, 8, &piece, 1) == 0 ? 0 : 1);
}

static void a_gap_in_a_recording_stops_the_process(void **state)
{
	(void)state;
	struct recording *recording;
	assert_int_equal(recording_create(&recording, "/dev/null", &stateless), 0);
	assert_aborts(write_out_of_order, recording);
	assert_int_equal(recording_close(recording), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_recorded_is_read_again),
		cmocka_unit_test(the_file_lies_as_the_specification_says),
		cmocka_unit_test(a_recording_cut_anywhere_is_an_error_or_ends_early),
		cmocka_unit_test(a_wrong_byte_before_the_entries_is_noticed),
		cmocka_unit_test(a_wrong_byte_within_the_entries_ends_them_there),
		cmocka_unit_test(lengths_that_lie_are_not_followed),
		cmocka_unit_test(what_is_no_recording_is_said_to_be_none),
		cmocka_unit_test(an_existing_file_is_not_overwritten),
		cmocka_unit_test(what_is_not_a_regular_file_can_be_written),
		cmocka_unit_test(a_recording_that_cannot_be_finished_leaves_no_file),
		cmocka_unit_test(memory_with_many_pages_survives),
		cmocka_unit_test(a_gap_in_a_recording_stops_the_process),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

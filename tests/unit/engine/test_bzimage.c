/* A distribution's kernel file: unpacked whatever it is compressed with, or refused with a reason; and what
 * the kernel is told of its machine. */
#include "engine/boot.h"

#include <archive.h>
#include <archive_entry.h>
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h> /* last: its macro fail() hides base/fail.h's function */

#define MEMORY (16u << 20)
#define LOAD 0x200000u
#define SETUP_SECTORS 3u
#define PAYLOAD 0x123u /* behind the setup's sectors */
#define INIT_SIZE 0x100000u

struct kernel {
	Elf64_Ehdr header;
	Elf64_Phdr segment;
	uint8_t code[4096];
};

static struct kernel kernel;
static struct guest_memory memory;
static char path[64], initrd[64];
static uint64_t entry;
static uint8_t file[65536];
static size_t file_size;

static struct setup_header *header_of(uint8_t *bytes)
{
	return (struct setup_header *)(bytes + 0x1f1);
}

/* Packs `kernel` into `file`, with the size behind it that all formats but gzip have. */
static void make_bzimage(int filter)
{
	memset(file, 0, sizeof file);
	struct archive *archive = archive_write_new();
	struct archive_entry *e = archive_entry_new();
	uint8_t *payload = file + (SETUP_SECTORS + 1) * 512 + PAYLOAD;
	size_t used = 0;
	assert_int_equal(archive_write_add_filter(archive, filter), ARCHIVE_OK);
	assert_int_equal(archive_write_set_format_raw(archive), ARCHIVE_OK);
	archive_write_set_bytes_in_last_block(archive, 1);
	assert_int_equal(archive_write_open_memory(
				 archive, payload, sizeof file - (size_t)(payload - file), &used),
		ARCHIVE_OK);
	archive_entry_set_filetype(e, AE_IFREG);
	assert_int_equal(archive_write_header(archive, e), ARCHIVE_OK);
	assert_int_equal(
		archive_write_data(archive, &kernel, sizeof kernel), (la_ssize_t)sizeof kernel);
	assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
	archive_entry_free(e);
	archive_write_free(archive);
	if (filter != ARCHIVE_FILTER_GZIP) {
		const uint32_t size = sizeof kernel;
		memcpy(payload + used, &size, sizeof size);
		used += sizeof size;
	}
	file[0x201] = 0x6a; /* the length of the header behind the jump */
	*header_of(file) = (struct setup_header){.setup_sects = SETUP_SECTORS,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb,
		.header = 0x53726448,
		.version = 0x20f,
		.initrd_addr_max = 0x7fffffff,
		.xloadflags = XLF_KERNEL_64,
		.cmdline_size = 2047,
		.payload_offset = PAYLOAD,
		.payload_length = (uint32_t)used,
		.pref_address = LOAD,
		.init_size = INIT_SIZE};
	file_size = (size_t)(payload + used - file);
}

static void write_file(const char *to, const void *bytes, size_t size)
{
	FILE *out = fopen(to, "w");
	assert_non_null(out);
	assert_int_equal(fwrite(bytes, 1, size, out), size);
	assert_int_equal(fclose(out), 0);
}

static int load(const char *with_initrd)
{
	write_file(path, file, file_size);
	return boot_load(&memory, path, with_initrd, "quiet", &entry);
}

static const struct boot_params *params(void)
{
	return (const struct boot_params *)(memory.base + BOOT_PARAMS);
}

static void make_name(char name[64])
{
	strcpy(name, "/tmp/doppel-boot-XXXXXX");
	int fd = mkstemp(name);
	assert_true(fd >= 0);
	close(fd);
}

static int set_up(void **state)
{
	(void)state;
	kernel = (struct kernel){.header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3,
						    ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
					 .e_type = ET_EXEC,
					 .e_machine = EM_X86_64,
					 .e_entry = LOAD,
					 .e_phoff = offsetof(struct kernel, segment),
					 .e_phentsize = sizeof(Elf64_Phdr),
					 .e_phnum = 1},
		.segment = {.p_type = PT_LOAD,
			.p_offset = offsetof(struct kernel, code),
			.p_vaddr = LOAD,
			.p_paddr = LOAD,
			.p_filesz = sizeof kernel.code,
			.p_memsz = sizeof kernel.code}};
	for (size_t i = 0; i < sizeof kernel.code; i++)
		kernel.code[i] = (uint8_t)(i * 7 + i / 256);
	make_name(path);
	make_name(initrd);
	make_bzimage(ARCHIVE_FILTER_GZIP);
	return memory_create(&memory, MEMORY);
}

static int tear_down(void **state)
{
	(void)state;
	memory_destroy(&memory);
	unlink(initrd);
	return unlink(path);
}

static void every_compression_is_undone(void **state)
{
	(void)state;
	const int filters[] = {ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_XZ, ARCHIVE_FILTER_ZSTD,
		ARCHIVE_FILTER_LZ4, ARCHIVE_FILTER_BZIP2, ARCHIVE_FILTER_LZMA};
	for (unsigned i = 0; i < sizeof filters / sizeof filters[0]; i++) {
		memset(memory.base + LOAD, 0, sizeof kernel.code);
		make_bzimage(filters[i]);
		assert_int_equal(load(NULL), 0);
		assert_int_equal(entry, LOAD);
		assert_memory_equal(memory.base + LOAD, kernel.code, sizeof kernel.code);
	}
}

static void the_kernel_is_told_of_its_machine(void **state)
{
	(void)state;
	assert_int_equal(load(NULL), 0);
	assert_int_equal(params()->hdr.type_of_loader, 0xff);
	assert_int_equal(params()->hdr.version, 0x20f);
	assert_int_equal(params()->hdr.init_size, INIT_SIZE);
	assert_int_equal(params()->hdr.ramdisk_size, 0);
	assert_string_equal(
		(char *)memory.base + params()->hdr.cmd_line_ptr, BOOT_COMMAND_DEFAULT " quiet");
	uint64_t usable = 0;
	for (unsigned i = 0; i < params()->e820_entries; i++) {
		bool is_usable = params()->e820_table[i].type == 1;
		usable += is_usable ? params()->e820_table[i].size : 0;
	}
	assert_int_equal(usable, 0x9fc00 + MEMORY - (1u << 20));
}

static void each_start_has_a_seed_of_its_own(void **state)
{
	(void)state;
	uint8_t first[32];
	struct setup_data head;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(load(NULL), 0);
		const uint8_t *seed = memory.base + params()->hdr.setup_data;
		memcpy(&head, seed, sizeof head);
		assert_int_equal(head.next, 0);
		assert_int_equal(head.type, SETUP_RNG_SEED);
		assert_int_equal(head.len, sizeof first);
		if (i == 1)
			assert_memory_not_equal(seed + sizeof head, first, sizeof first);
		memcpy(first, seed + sizeof head, sizeof first);
	}
}

static void an_initrd_lies_as_high_as_it_may(void **state)
{
	(void)state;
	static uint8_t bytes[5000];
	memset(bytes, 0x1d, sizeof bytes);
	write_file(initrd, bytes, sizeof bytes);
	assert_int_equal(load(initrd), 0);
	assert_int_equal(params()->hdr.ramdisk_image, MEMORY - 8192);
	assert_int_equal(params()->hdr.ramdisk_size, sizeof bytes);
	assert_memory_equal(memory.base + MEMORY - 8192, bytes, sizeof bytes);
	header_of(file)->initrd_addr_max = 0x7fffff;
	assert_int_equal(load(initrd), 0);
	assert_int_equal(params()->hdr.ramdisk_image, 0x800000 - 8192);
	make_bzimage(ARCHIVE_FILTER_GZIP);
}

static void an_initrd_has_to_fit_beside_the_kernel(void **state)
{
	(void)state;
	write_file(initrd, "x", 1);
	assert_int_equal(truncate(initrd, MEMORY - LOAD - INIT_SIZE), 0);
	assert_int_equal(load(initrd), 0);
	assert_int_equal(truncate(initrd, MEMORY - LOAD - INIT_SIZE + 1), 0);
	assert_int_equal(load(initrd), -E2BIG);
	assert_non_null(strstr(fail_message(), "--memory"));
	assert_int_equal(truncate(initrd, 1ll << 40), 0);
	assert_int_equal(load(initrd), -E2BIG);
	assert_int_equal(truncate(initrd, 0), 0);
	assert_int_equal(load(initrd), -ENOEXEC);
	assert_int_equal(load("/nonexistent/initrd"), -ENOENT);
	assert_non_null(strstr(fail_message(), "/nonexistent/initrd"));
}

static void a_kernel_that_does_not_fit_is_refused(void **state)
{
	(void)state;
	header_of(file)->init_size = MEMORY - LOAD;
	assert_int_equal(load(NULL), 0);
	header_of(file)->init_size = MEMORY - LOAD + 1;
	assert_int_equal(load(NULL), -E2BIG);
	header_of(file)->pref_address = UINT64_MAX - 10;
	assert_true(load(NULL) <= 0);
	make_bzimage(ARCHIVE_FILTER_GZIP);
}

static void a_kernel_for_another_processor_is_refused(void **state)
{
	(void)state;
	header_of(file)->xloadflags = 0; /* 32 bits */
	assert_int_equal(load(NULL), -ENOEXEC);
	assert_non_null(strstr(fail_message(), "x86-64"));
	make_bzimage(ARCHIVE_FILTER_GZIP);
	header_of(file)->version = 0x20b;
	assert_int_equal(load(NULL), -ENOEXEC);
	kernel.header.e_machine = EM_AARCH64;
	make_bzimage(ARCHIVE_FILTER_GZIP);
	assert_int_equal(load(NULL), -ENOEXEC);
	kernel.header.e_machine = EM_X86_64;
	make_bzimage(ARCHIVE_FILTER_GZIP);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
	(void)state;
	size_t whole = file_size;
	for (file_size = 1; file_size < whole; file_size += file_size < 1024 ? 1 : 13) {
		assert_int_equal(load(NULL), -ENOEXEC);
		assert_non_null(strstr(fail_message(), path));
	}
	file_size = whole;
	assert_int_equal(load(NULL), 0);
}

static void a_kernel_has_the_size_that_it_says(void **state)
{
	(void)state;
	make_bzimage(ARCHIVE_FILTER_XZ);
	const uint32_t sizes[] = {0, sizeof kernel - 1, sizeof kernel + 1, UINT32_MAX};
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		memcpy(file + file_size - sizeof sizes[i], &sizes[i], sizeof sizes[i]);
		assert_int_equal(load(NULL), -ENOEXEC);
		assert_non_null(strstr(fail_message(), "get it again"));
	}
	make_bzimage(ARCHIVE_FILTER_GZIP);
}

static void any_byte_may_be_anything(void **state)
{
	(void)state;
	const uint8_t values[] = {0x00, 0x01, 0x7f, 0xff};
	for (size_t at = 0x1f1; at < file_size; at += at < 0x270 ? 1 : 29) {
		uint8_t was = file[at];
		for (unsigned i = 0; i < sizeof values; i++) {
			file[at] = values[i];
			int error = load(NULL);
			assert_true(error == 0 || error == -ENOEXEC || error == -E2BIG);
		}
		file[at] = was;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_compression_is_undone),
		cmocka_unit_test(the_kernel_is_told_of_its_machine),
		cmocka_unit_test(each_start_has_a_seed_of_its_own),
		cmocka_unit_test(an_initrd_lies_as_high_as_it_may),
		cmocka_unit_test(an_initrd_has_to_fit_beside_the_kernel),
		cmocka_unit_test(a_kernel_that_does_not_fit_is_refused),
		cmocka_unit_test(a_kernel_for_another_processor_is_refused),
		cmocka_unit_test(a_file_cut_anywhere_is_refused),
		cmocka_unit_test(a_kernel_has_the_size_that_it_says),
		cmocka_unit_test(any_byte_may_be_anything),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

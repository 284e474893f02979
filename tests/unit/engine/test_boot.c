/* Kernels that are not what they should be: whatever the file says, it is refused or loaded, and no
 * byte outside the guest's memory is touched (which the sanitizers see). */
#include "engine/acpi.h"
#include "engine/boot.h"

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

#define MEMORY (2u << 20)
#define LOAD 0x100000u
#define SECOND 0x180000u

/* A kernel with code, and with data that has zeros behind it. */
struct image {
	Elf64_Ehdr header;
	Elf64_Phdr segment[2];
	uint8_t code[64], data[32];
};

static struct image good;
static struct guest_memory memory;
static char path[64];
static uint64_t entry;

static int set_up(void **state)
{
	(void)state;
	good = (struct image){
		.header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				   EV_CURRENT},
			.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_entry = LOAD + 16,
			.e_phoff = offsetof(struct image, segment),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2},
		.segment = {{.p_type = PT_LOAD,
				    .p_offset = offsetof(struct image, code),
				    .p_vaddr = LOAD,
				    .p_paddr = LOAD,
				    .p_filesz = sizeof good.code,
				    .p_memsz = sizeof good.code},
			{.p_type = PT_LOAD,
				.p_offset = offsetof(struct image, data),
				.p_vaddr = SECOND,
				.p_paddr = SECOND,
				.p_filesz = sizeof good.data,
				.p_memsz = 4096}},
	};
	memset(good.code, 0x90, sizeof good.code);
	memset(good.data, 0xda, sizeof good.data);
	strcpy(path, "/tmp/doppel-elf-XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	return memory_create(&memory, MEMORY);
}

static int tear_down(void **state)
{
	(void)state;
	memory_destroy(&memory);
	return unlink(path);
}

static int load_bytes(const void *bytes, size_t size)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, size, file), size);
	assert_int_equal(fclose(file), 0);
	return boot_load(&memory, path, NULL, "", &entry);
}

static int load(const struct image *image)
{
	return load_bytes(image, sizeof *image);
}

static void a_kernel_lies_where_its_segments_say(void **state)
{
	(void)state;
	memset(memory.base + SECOND, 0, 4096);
	assert_int_equal(load(&good), 0);
	assert_int_equal(entry, LOAD + 16);
	assert_memory_equal(memory.base + LOAD, good.code, sizeof good.code);
	assert_memory_equal(memory.base + SECOND, good.data, sizeof good.data);
	assert_int_equal(memory.base[SECOND + sizeof good.data], 0);
}

static void the_first_four_gigabytes_are_mapped_one_to_one(void **state)
{
	(void)state;
	assert_int_equal(load(&good), 0);
	for (uint64_t address = 0; address < 4ull << 30; address += 123u << 20) {
		uint64_t table = BOOT_PAGE_TABLES;
		const unsigned shift[] = {39, 30, 21};
		uint64_t found = 0;
		for (unsigned level = 0; level < 3; level++) {
			memcpy(&found, memory.base + table + (address >> shift[level] & 511) * 8,
				8);
			assert_int_equal(found & 3, 3);
			table = found & ~0xfffull;
		}
		assert_int_equal(found & 0x80, 0x80);
		assert_int_equal(found & ~0x1fffffull, address & ~0x1fffffull);
	}
}

static void the_acpi_tables_lie_in_memory_that_the_map_reserves(void **state)
{
	(void)state;
	assert_int_equal(load(&good), 0);
	struct boot_params params;
	memcpy(&params, memory.base + BOOT_PARAMS, sizeof params);
	assert_int_equal(params.acpi_rsdp_addr, BOOT_ACPI);
	assert_memory_equal(memory.base + BOOT_ACPI, "RSD PTR ", 8);
	unsigned reserved = 0;
	for (unsigned i = 0; i < params.e820_entries; i++) {
		const struct boot_e820_entry *range = &params.e820_table[i];
		bool apart = range->addr + range->size <= BOOT_ACPI ||
			     range->addr >= BOOT_ACPI + ACPI_TABLES_SIZE;
		assert_true(apart || range->type == 2);
		reserved += !apart;
	}
	assert_int_equal(reserved, 1);

	/* A kernel that is linked there has its bytes there. */
	struct image image = good;
	image.segment[1].p_paddr = BOOT_ACPI;
	assert_int_equal(load(&image), 0);
	assert_memory_equal(memory.base + BOOT_ACPI, good.data, sizeof good.data);
}

static void the_command_line_has_a_longest_length(void **state)
{
	(void)state;
	const size_t room = BOOT_COMMAND_MAX - sizeof BOOT_COMMAND_DEFAULT;
	char text[BOOT_COMMAND_MAX];
	memset(text, 'x', sizeof text);
	text[room - 1] = '\0';
	assert_int_equal(load(&good), 0);
	assert_int_equal(boot_load(&memory, path, NULL, text, &entry), 0);
	assert_string_equal((char *)memory.base + BOOT_COMMAND + sizeof BOOT_COMMAND_DEFAULT, text);
	text[room - 1] = 'x', text[room] = '\0';
	assert_int_equal(boot_load(&memory, path, NULL, text, &entry), -E2BIG);
}

static void each_wrong_field_is_refused(void **state)
{
	(void)state;
	const struct {
		const char *what;
		size_t offset, size;
		uint64_t value;
		int error;
	} wrong[] = {
#define HEADER(field, value, error)                                                                \
	{#field " " #value, offsetof(struct image, header.field), sizeof good.header.field, value, \
		error}
#define SEGMENT(field, value, error)                                                               \
	{                                                                                          \
#field " " #value, offsetof(struct image, segment[1].field),                       \
			sizeof good.segment[1].field, value, error                                 \
	}
		HEADER(e_ident[0], 'E', -ENOEXEC),
		HEADER(e_ident[3], 0, -ENOEXEC),
		HEADER(e_ident[EI_CLASS], ELFCLASS32, -ENOEXEC),
		HEADER(e_ident[EI_DATA], ELFDATA2MSB, -ENOEXEC),
		HEADER(e_type, ET_DYN, -ENOEXEC),
		HEADER(e_type, ET_REL, -ENOEXEC),
		HEADER(e_type, ET_CORE, -ENOEXEC),
		HEADER(e_machine, EM_386, -ENOEXEC),
		HEADER(e_machine, EM_AARCH64, -ENOEXEC),
		HEADER(e_phentsize, 0, -ENOEXEC),
		HEADER(e_phentsize, sizeof(Elf64_Phdr) - 1, -ENOEXEC),
		HEADER(e_phentsize, UINT16_MAX, -ENOEXEC),
		HEADER(e_phnum, 0, -ENOEXEC),
		HEADER(e_phnum, UINT16_MAX, -ENOEXEC),
		HEADER(e_phoff, sizeof good, -ENOEXEC),
		HEADER(e_phoff, sizeof good - sizeof good.segment + 1, -ENOEXEC),
		HEADER(e_phoff, UINT64_MAX, -ENOEXEC),
		HEADER(e_phoff, UINT64_MAX - sizeof good.segment + 1, -ENOEXEC),
		HEADER(e_entry, 0, -ENOEXEC),
		HEADER(e_entry, LOAD - 1, -ENOEXEC),
		HEADER(e_entry, LOAD + sizeof good.code, -ENOEXEC),
		HEADER(e_entry, SECOND + sizeof good.data, -ENOEXEC),
		HEADER(e_entry, MEMORY, -ENOEXEC),
		HEADER(e_entry, UINT64_MAX, -ENOEXEC),
		SEGMENT(p_offset, sizeof good, -ENOEXEC),
		SEGMENT(p_offset, sizeof good - sizeof good.data + 1, -ENOEXEC),
		SEGMENT(p_offset, UINT64_MAX, -ENOEXEC),
		SEGMENT(p_offset, UINT64_MAX - sizeof good.data + 1, -ENOEXEC),
		SEGMENT(p_filesz, 4097, -ENOEXEC),
		SEGMENT(p_filesz, sizeof good.data + 1, -ENOEXEC),
		SEGMENT(p_filesz, UINT64_MAX, -ENOEXEC),
		SEGMENT(p_memsz, sizeof good.data - 1, -ENOEXEC),
		SEGMENT(p_memsz, MEMORY - SECOND + 1, -E2BIG),
		SEGMENT(p_memsz, UINT64_MAX, -E2BIG),
		SEGMENT(p_memsz, UINT64_MAX - SECOND + 1, -E2BIG),
		SEGMENT(p_paddr, 0, -ENOEXEC),
		SEGMENT(p_paddr, BOOT_END - 1, -ENOEXEC),
		SEGMENT(p_paddr, MEMORY - 4095, -E2BIG),
		SEGMENT(p_paddr, MEMORY, -E2BIG),
		SEGMENT(p_paddr, UINT64_MAX - 4095, -E2BIG),
		SEGMENT(p_paddr, UINT64_MAX, -E2BIG),
	};
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct image image = good;
		memcpy((uint8_t *)&image + wrong[i].offset, &wrong[i].value, wrong[i].size);
		int error = load(&image);
		if (error != wrong[i].error)
			fail_msg("%s: %d instead of %d", wrong[i].what, error, wrong[i].error);
		assert_non_null(strstr(fail_message(), path));
	}
}

static void the_last_bytes_of_memory_may_be_used(void **state)
{
	(void)state;
	struct image image = good;
	image.segment[1].p_paddr = MEMORY - 4096;
	assert_int_equal(load(&image), 0);
	assert_memory_equal(memory.base + MEMORY - 4096, good.data, sizeof good.data);
	image.segment[1].p_paddr = BOOT_END;
	assert_int_equal(load(&image), 0);
}

static void what_is_not_to_be_loaded_is_not_looked_at(void **state)
{
	(void)state;
	struct image image = good;
	image.segment[1] =
		(Elf64_Phdr){.p_type = PT_NOTE, .p_offset = UINT64_MAX, .p_filesz = UINT64_MAX};
	assert_int_equal(load(&image), 0);
	image.segment[1] =
		(Elf64_Phdr){.p_type = PT_LOAD, .p_offset = UINT64_MAX, .p_paddr = UINT64_MAX};
	assert_int_equal(load(&image), 0);
}

static void any_byte_of_the_headers_may_be_anything(void **state)
{
	(void)state;
	const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
	for (size_t at = 0; at < offsetof(struct image, code); at++) {
		for (unsigned i = 0; i < sizeof values; i++) {
			struct image image = good;
			((uint8_t *)&image)[at] = values[i];
			int error = load(&image);
			assert_true(error == 0 || error == -ENOEXEC || error == -E2BIG);
		}
	}
}

static void a_file_cut_anywhere_is_refused(void **state)
{
	(void)state;
	for (size_t size = 0; size < sizeof good; size++)
		assert_int_equal(load_bytes(&good, size), -ENOEXEC);
	assert_int_equal(load_bytes(&good, sizeof good), 0);
}

static void what_is_no_file_is_refused(void **state)
{
	(void)state;
	assert_int_equal(boot_load(&memory, "/nonexistent/kernel", NULL, "", &entry), -ENOENT);
	assert_non_null(strstr(fail_message(), "/nonexistent/kernel"));
	assert_int_equal(boot_load(&memory, "/tmp", NULL, "", &entry), -ENOEXEC);
	assert_int_equal(boot_load(&memory, "/dev/null", NULL, "", &entry), -ENOEXEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kernel_lies_where_its_segments_say),
		cmocka_unit_test(the_first_four_gigabytes_are_mapped_one_to_one),
		cmocka_unit_test(the_acpi_tables_lie_in_memory_that_the_map_reserves),
		cmocka_unit_test(the_command_line_has_a_longest_length),
		cmocka_unit_test(each_wrong_field_is_refused),
		cmocka_unit_test(the_last_bytes_of_memory_may_be_used),
		cmocka_unit_test(what_is_not_to_be_loaded_is_not_looked_at),
		cmocka_unit_test(any_byte_of_the_headers_may_be_anything),
		cmocka_unit_test(a_file_cut_anywhere_is_refused),
		cmocka_unit_test(what_is_no_file_is_refused),
	};
	return !!cmocka_run_group_tests(tests, set_up, tear_down);
}

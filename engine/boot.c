#include "engine/boot.h"

#include "engine/acpi.h"
#include "engine/elf.h"

#include <archive.h>
#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEGABYTE (1u << 20)
#define LOW_MEMORY_END 0x9fc00u /* where a PC's firmware begins to have things of its own */
#define PAGE 4096u

#define SETUP_HEADER offsetof(struct boot_params, hdr) /* in the file, and in boot_params */
#define SETUP_MAGIC 0x53726448u                        /* "HdrS" */
#define SETUP_VERSION_MIN 0x20cu /* the first with a 64-bit entry, Linux 3.8 */
#define SETUP_SECTORS_DEFAULT 4u
#define KERNEL_MAX (512u << 20) /* bytes of an unpacked kernel */
#define LOADER_OTHER 0xffu
#define INITRD_HIGHEST 0x7fffffffu /* without a header that says otherwise */

struct kernel {
	struct setup_header header; /* of a bzImage, or what an ELF file's kernel would have */
	uint64_t entry, end;        /* the first byte behind all that it needs to start */
};

static bool is_bzimage(const struct kernel_file *file)
{
	struct setup_header header;
	if (file->size < SETUP_HEADER + sizeof header)
		return false;
	memcpy(&header, file->bytes + SETUP_HEADER, sizeof header);
	return header.boot_flag == 0xaa55 && header.header == SETUP_MAGIC;
}

/*
 * The kernel inside a bzImage, whatever it is compressed with: `image` has its own bytes, to be freed.
 * Unpacking it here, and not by its own first instructions, is what lets its RDTSC be replaced; the
 * price is that its code lies where it was linked to, without randomization.
 */
static int unpack(
	const struct kernel_file *file, uint64_t from, uint64_t length, struct kernel_file *image)
{
	const uint8_t gzip[] = {0x1f, 0x8b};
	/* The last four bytes are the unpacked size: gzip's own, and the kernel's build adds it to the others. */
	uint32_t wanted = 0;
	if (length > sizeof wanted) {
		memcpy(&wanted, file->bytes + from + length - sizeof wanted, sizeof wanted);
		if (memcmp(file->bytes + from, gzip, sizeof gzip) != 0)
			length -= sizeof wanted;
	}
	if (wanted == 0 || wanted > KERNEL_MAX)
		return fail(ENOEXEC, "%s cannot be unpacked: it would have %u bytes; get it again",
			file->path, wanted);
	struct archive *archive = archive_read_new();
	struct archive_entry *entry;
	uint8_t *bytes = malloc(wanted + 1); /* one more, to see that it ends there */
	uint64_t size = 0;
	ssize_t n = -1;
	if (archive && bytes && archive_read_support_filter_all(archive) == ARCHIVE_OK &&
		archive_read_support_format_raw(archive) == ARCHIVE_OK &&
		archive_read_open_memory(archive, file->bytes + from, length) == ARCHIVE_OK &&
		archive_read_next_header(archive, &entry) == ARCHIVE_OK) {
		while (size <= wanted &&
			(n = archive_read_data(archive, bytes + size, wanted + 1 - size)) > 0)
			size += (uint64_t)n;
	}
	const char *why = archive ? archive_error_string(archive) : NULL;
	int error = 0;
	if (!archive || !bytes)
		error = fail(ENOMEM, "%s cannot be unpacked: there is no memory for it", file->path);
	else if (n != 0 || size != wanted)
		error = fail(ENOEXEC, "%s cannot be unpacked: %s; get it again", file->path,
			why ? why : "it has another size than it says");
	archive_read_free(archive);
	if (error)
		free(bytes);
	else
		*image = (struct kernel_file){file->path, bytes, size};
	return error;
}

static int load_bzimage(
	struct guest_memory *memory, const struct kernel_file *file, struct kernel *kernel)
{
	struct setup_header *header = &kernel->header;
	/* As long as the jump over it says. */
	size_t size = 0x202u + file->bytes[0x201] - SETUP_HEADER;
	memcpy(header, file->bytes + SETUP_HEADER, size < sizeof *header ? size : sizeof *header);
	if (header->version < SETUP_VERSION_MIN || !(header->xloadflags & XLF_KERNEL_64))
		return fail(ENOEXEC,
			"%s is a bzImage without a 64-bit entry: give one for x86-64, Linux 3.8 or "
			"newer",
			file->path);
	uint64_t sectors = header->setup_sects ? header->setup_sects : SETUP_SECTORS_DEFAULT;
	uint64_t from = (sectors + 1) * 512 + header->payload_offset;
	if (from > file->size || header->payload_length > file->size - from)
		return fail(ENOEXEC, "%s is cut short: it has %llu of %llu bytes; get it again",
			file->path, (unsigned long long)file->size,
			(unsigned long long)(from + header->payload_length));
	struct kernel_file image;
	int error = unpack(file, from, header->payload_length, &image);
	if (error)
		return error;
	error = elf_load(memory, &image, MEGABYTE, &kernel->entry, &kernel->end);
	free((void *)image.bytes);
	/* Room that it takes behind itself before it knows the memory map. */
	uint64_t room = header->pref_address + header->init_size;
	if (room > kernel->end)
		kernel->end = room;
	if (!error && kernel->end > memory->size)
		error = fail(E2BIG,
			"%s does not fit into %llu MiB of memory: it wants %llu; give it more with "
			"--memory",
			file->path, (unsigned long long)(memory->size >> 20),
			(unsigned long long)(kernel->end + MEGABYTE - 1) >> 20);
	return error;
}

static int load_elf(
	struct guest_memory *memory, const struct kernel_file *file, struct kernel *kernel)
{
	kernel->header = (struct setup_header){.boot_flag = 0xaa55,
		.header = SETUP_MAGIC,
		.version = SETUP_VERSION_MIN,
		.initrd_addr_max = INITRD_HIGHEST,
		.cmdline_size = BOOT_COMMAND_MAX - 1};
	return elf_load(memory, file, BOOT_END, &kernel->entry, &kernel->end);
}

/* A regular file that has something in it; its descriptor, and its size. `option` names it. */
static int open_file(const char *option, const char *path, uint64_t *size)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(errno, "cannot open the %s %s: %s; check --%s", option, path,
			strerror(errno), option);
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
		close(fd);
		return fail(ENOEXEC, "the %s %s is empty or not a file; check --%s", option, path,
			option);
	}
	*size = (uint64_t)status.st_size;
	return fd;
}

static int load_kernel(struct guest_memory *memory, const char *path, struct kernel *kernel)
{
	uint64_t size;
	int fd = open_file("kernel", path, &size);
	if (fd < 0)
		return fd;
	int error;
	void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED) {
		error = fail(errno, "cannot read the kernel %s: %s", path, strerror(errno));
		goto close_fd;
	}
	const struct kernel_file file = {path, map, size};
	error = is_bzimage(&file) ? load_bzimage(memory, &file, kernel)
				  : load_elf(memory, &file, kernel);
	munmap(map, size);
close_fd:
	close(fd);
	return error;
}

/* As high as it may be, out of the way of the kernel. */
static int load_initrd(struct guest_memory *memory, const char *path, struct kernel *kernel)
{
	uint64_t size;
	int fd = open_file("initrd", path, &size);
	if (fd < 0)
		return fd;
	int error = 0;
	uint64_t highest = (uint64_t)kernel->header.initrd_addr_max + 1;
	uint64_t top = memory->size < highest ? memory->size : highest;
	uint64_t at = size < top ? (top - size) / PAGE * PAGE : 0;
	uint8_t *to = memory_write_ptr(memory, gpa_of(at), size);
	if (at < kernel->end || !to) {
		error = fail(E2BIG,
			"the initrd %s of %llu bytes does not fit beside the kernel into %llu MiB "
			"of memory; give it more with --memory",
			path, (unsigned long long)size, (unsigned long long)(memory->size >> 20));
		goto close_fd;
	}
	for (uint64_t done = 0; done < size;) {
		ssize_t n = pread(fd, to + done, size - done, (off_t)done);
		if (n <= 0) {
			error = fail(n < 0 ? errno : EIO, "cannot read the initrd %s: %s", path,
				n < 0 ? strerror(errno) : "it has become shorter");
			goto close_fd;
		}
		done += (uint64_t)n;
	}
	kernel->header.ramdisk_image = (uint32_t)at;
	kernel->header.ramdisk_size = (uint32_t)size;
close_fd:
	close(fd);
	return error;
}

static void put64(struct guest_memory *memory, uint64_t address, uint64_t value)
{
	memcpy(memory_write_ptr(memory, gpa_of(address), sizeof value), &value, sizeof value);
}

static void write_tables(struct guest_memory *memory)
{
	const uint64_t present_writable = 0x3, large = 0x80;
	uint64_t directories = BOOT_PAGE_TABLES + 0x2000;
	put64(memory, BOOT_PAGE_TABLES, (BOOT_PAGE_TABLES + 0x1000) | present_writable);
	for (uint64_t gib = 0; gib < 4; gib++) {
		uint64_t directory = directories + gib * 0x1000;
		put64(memory, BOOT_PAGE_TABLES + 0x1000 + gib * 8, directory | present_writable);
		for (uint64_t i = 0; i < 512; i++)
			put64(memory, directory + i * 8,
				(gib << 30) | (i << 21) | present_writable | large);
	}
	put64(memory, BOOT_GDT + BOOT_CODE_SELECTOR, 0x00af9b000000ffff);
	put64(memory, BOOT_GDT + BOOT_DATA_SELECTOR, 0x00cf93000000ffff);
}

enum memory_type { MEMORY_USABLE = 1, MEMORY_RESERVED };

static void add_memory(
	struct boot_params *params, uint64_t from, uint64_t end, enum memory_type type)
{
	if (from < end)
		params->e820_table[params->e820_entries++] =
			(struct boot_e820_entry){.addr = from, .size = end - from, .type = type};
}

static int write_params(
	struct guest_memory *memory, const struct kernel *kernel, const char *append)
{
	struct boot_params params = {.hdr = kernel->header};
	params.hdr.type_of_loader = LOADER_OTHER;
	params.hdr.cmd_line_ptr = BOOT_COMMAND;
	params.hdr.setup_data = BOOT_SEED;
	add_memory(&params, 0, LOW_MEMORY_END, MEMORY_USABLE);
	add_memory(&params, BOOT_ACPI, MEGABYTE, MEMORY_RESERVED);
	add_memory(&params, MEGABYTE, memory->size, MEMORY_USABLE);
	params.acpi_rsdp_addr = BOOT_ACPI;
	memcpy(memory_write_ptr(memory, gpa_of(BOOT_PARAMS), sizeof params), &params,
		sizeof params);

	/* Without a seed a guest that hides RDRAND may wait for entropy, some for ever. */
	struct {
		struct setup_data head;
		uint8_t bytes[32];
	} seed = {.head = {.type = SETUP_RNG_SEED, .len = sizeof seed.bytes}};
	if (getrandom(seed.bytes, sizeof seed.bytes, 0) != sizeof seed.bytes)
		return fail(EIO, "the kernel gives no random bytes");
	memcpy(memory_write_ptr(memory, gpa_of(BOOT_SEED), sizeof seed), &seed, sizeof seed);

	char line[BOOT_COMMAND_MAX];
	const char *blank = append[0] != '\0' ? " " : "";
	uint32_t longest = kernel->header.cmdline_size < sizeof line - 1
				   ? kernel->header.cmdline_size
				   : sizeof line - 1;
	int length = snprintf(line, sizeof line, BOOT_COMMAND_DEFAULT "%s%s", blank, append);
	if (length < 0 || (uint32_t)length > longest)
		return fail(E2BIG,
			"the kernel's command line has %d bytes, with what is always there; it "
			"takes %u: give less with --append",
			length, longest);
	memcpy(memory_write_ptr(memory, gpa_of(BOOT_COMMAND), sizeof line), line,
		(size_t)length + 1);
	return 0;
}

int boot_load(struct guest_memory *memory, const char *kernel_path, const char *initrd,
	const char *append, uint64_t *entry)
{
	struct kernel kernel = {.entry = 0};
	/* First: a kernel that is linked to where they are has no use for them. */
	int error = acpi_build(memory, gpa_of(BOOT_ACPI));
	if (!error)
		error = load_kernel(memory, kernel_path, &kernel);
	if (!error && initrd)
		error = load_initrd(memory, initrd, &kernel);
	if (!error)
		error = write_params(memory, &kernel, append);
	if (error)
		return error;
	write_tables(memory);
	*entry = kernel.entry;
	return 0;
}

#include "engine/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct file {
	const uint8_t *bytes;
	uint64_t size;
};

/* The range lies inside the file, without overflow. */
static bool inside(const struct file *file, uint64_t offset, uint64_t length)
{
	return offset <= file->size && length <= file->size - offset;
}

static int load_segment(struct guest_memory *memory, const struct file *file, const char *path,
	const Elf64_Phdr *segment)
{
	if (segment->p_type != PT_LOAD || segment->p_memsz == 0)
		return 0;
	if (segment->p_filesz > segment->p_memsz)
		return fail(ENOEXEC,
			"%s is damaged: a segment has more bytes in the file than in memory; build "
			"it again",
			path);
	if (!inside(file, segment->p_offset, segment->p_filesz))
		return fail(ENOEXEC,
			"%s is cut short: a segment of %llu bytes lies outside the file; build it "
			"again",
			path, (unsigned long long)segment->p_filesz);
	if (segment->p_paddr < BOOT_END)
		return fail(ENOEXEC,
			"%s wants to be loaded at %#llx; the first %#x bytes are not free; link it "
			"higher",
			path, (unsigned long long)segment->p_paddr, BOOT_END);
	uint8_t *to = memory_write_ptr(memory, gpa_of(segment->p_paddr), segment->p_memsz);
	if (!to)
		return fail(E2BIG,
			"%s does not fit into %llu MiB of memory: it wants %llu bytes at %#llx; "
			"give it more with --memory",
			path, (unsigned long long)(memory->size >> 20),
			(unsigned long long)segment->p_memsz, (unsigned long long)segment->p_paddr);
	memcpy(to, file->bytes + segment->p_offset, segment->p_filesz);
	return 0;
}

static int load_segments(
	struct guest_memory *memory, const struct file *file, const char *path, uint64_t *entry)
{
	Elf64_Ehdr header;
	if (file->size < sizeof header)
		return fail(ENOEXEC, "%s is not an ELF64 kernel: it has %llu bytes; check --kernel",
			path, (unsigned long long)file->size);
	memcpy(&header, file->bytes, sizeof header);
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
		header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
		header.e_machine != EM_X86_64 || header.e_type != ET_EXEC)
		return fail(ENOEXEC,
			"%s is not an ELF64 kernel for x86-64, linked to a fixed address; check "
			"--kernel",
			path);
	if (header.e_phentsize != sizeof(Elf64_Phdr) ||
		!inside(file, header.e_phoff, (uint64_t)header.e_phnum * sizeof(Elf64_Phdr)))
		return fail(ENOEXEC,
			"%s is cut short: its program headers lie outside the file; build it again",
			path);
	bool starts = false;
	for (unsigned i = 0; i < header.e_phnum; i++) {
		Elf64_Phdr segment;
		memcpy(&segment, file->bytes + header.e_phoff + i * sizeof segment, sizeof segment);
		int error = load_segment(memory, file, path, &segment);
		if (error)
			return error;
		starts |= segment.p_type == PT_LOAD && header.e_entry >= segment.p_paddr &&
			  header.e_entry - segment.p_paddr < segment.p_filesz;
	}
	if (!starts)
		return fail(ENOEXEC, "%s starts at %#llx, where it loads nothing; link it right",
			path, (unsigned long long)header.e_entry);
	*entry = header.e_entry;
	return 0;
}

static void put64(struct guest_memory *memory, uint64_t address, uint64_t value)
{
	memcpy(memory_write_ptr(memory, gpa_of(address), sizeof value), &value, sizeof value);
}

static void write_boot_tables(struct guest_memory *memory, const char *command_line)
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
	char *text = memory_write_ptr(memory, gpa_of(BOOT_COMMAND), BOOT_COMMAND_MAX);
	memcpy(text, command_line, strlen(command_line) + 1);
}

int elf_load(
	struct guest_memory *memory, const char *path, const char *command_line, uint64_t *entry)
{
	if (strlen(command_line) >= BOOT_COMMAND_MAX)
		return fail(E2BIG,
			"the kernel's command line has %zu bytes: give --append at most %u",
			strlen(command_line), BOOT_COMMAND_MAX - 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(errno, "cannot open the kernel %s: %s; check --kernel", path,
			strerror(errno));
	struct stat status;
	int error = 0;
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
		error = fail(ENOEXEC,
			"%s is not an ELF64 kernel: it is empty or not a file; check --kernel",
			path);
		goto close_fd;
	}
	void *map = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED) {
		error = fail(errno, "cannot read the kernel %s: %s", path, strerror(errno));
		goto close_fd;
	}
	struct file file = {.bytes = map, .size = (uint64_t)status.st_size};
	error = load_segments(memory, &file, path, entry);
	if (!error)
		write_boot_tables(memory, command_line);
	munmap(map, (size_t)status.st_size);
close_fd:
	close(fd);
	return error;
}

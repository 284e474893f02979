#include "engine/elf.h"

#include "engine/rdtsc.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define HANDLER_LENGTH 8u /* bytes, of its beginning */

/* The range lies inside the file, without overflow. */
static bool inside(const struct kernel_file *file, uint64_t offset, uint64_t length)
{
	return offset <= file->size && length <= file->size - offset;
}

static Elf64_Phdr segment_of(const struct kernel_file *file, const Elf64_Ehdr *header, unsigned i)
{
	Elf64_Phdr segment;
	memcpy(&segment, file->bytes + header->e_phoff + i * sizeof segment, sizeof segment);
	return segment;
}

static int load_segment(struct guest_memory *memory, const struct kernel_file *file,
	uint64_t lowest, const Elf64_Phdr *segment)
{
	if (segment->p_filesz > segment->p_memsz)
		return fail(ENOEXEC,
			"%s is damaged: a segment has more bytes in the file than in memory; build "
			"it again",
			file->path);
	if (!inside(file, segment->p_offset, segment->p_filesz))
		return fail(ENOEXEC,
			"%s is cut short: a segment of %llu bytes lies outside the file; get it "
			"again",
			file->path, (unsigned long long)segment->p_filesz);
	if (segment->p_paddr < lowest)
		return fail(ENOEXEC,
			"%s wants to be loaded at %#llx; the first %#llx bytes are not free; link "
			"it higher",
			file->path, (unsigned long long)segment->p_paddr,
			(unsigned long long)lowest);
	uint8_t *to = memory_write_ptr(memory, gpa_of(segment->p_paddr), segment->p_memsz);
	if (!to)
		return fail(E2BIG,
			"%s does not fit into %llu MiB of memory: it wants %llu bytes at %#llx; "
			"give it more with --memory",
			file->path, (unsigned long long)(memory->size >> 20),
			(unsigned long long)segment->p_memsz, (unsigned long long)segment->p_paddr);
	memcpy(to, file->bytes + segment->p_offset, segment->p_filesz);
	return 0;
}

/* The bytes that belong at this address, where they have been loaded; NULL: they have not. */
static uint8_t *find_bytes(struct guest_memory *memory, const struct kernel_file *file,
	const Elf64_Ehdr *header, uint64_t address, uint64_t length)
{
	for (unsigned i = 0; i < header->e_phnum; i++) {
		Elf64_Phdr segment = segment_of(file, header, i);
		uint64_t offset = address - segment.p_vaddr;
		if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
			offset <= segment.p_filesz && length <= segment.p_filesz - offset)
			return memory_write_ptr(memory, gpa_of(segment.p_paddr + offset), length);
	}
	return NULL;
}

/* A kernel without section headers is left as it is. */
static void replace_rdtsc(
	struct guest_memory *memory, const struct kernel_file *file, const Elf64_Ehdr *header)
{
	if (header->e_shentsize != sizeof(Elf64_Shdr) ||
		!inside(file, header->e_shoff, (uint64_t)header->e_shnum * sizeof(Elf64_Shdr)))
		return;
	for (unsigned i = 0; i < header->e_shnum; i++) {
		Elf64_Shdr section;
		memcpy(&section, file->bytes + header->e_shoff + i * sizeof section,
			sizeof section);
		if (section.sh_type != SHT_PROGBITS || !(section.sh_flags & SHF_EXECINSTR))
			continue;
		uint8_t *code = find_bytes(memory, file, header, section.sh_addr, section.sh_size);
		if (code)
			rdtsc_replace(code, section.sh_size);
	}
}

/* A kernel that is not Linux, or not as it should be, is left as it is. */
static void trap_rdtsc(
	struct guest_memory *memory, const struct kernel_file *file, const Elf64_Ehdr *header)
{
	uint64_t address = 0;
	for (unsigned i = 0; address == 0 && i < header->e_phnum; i++) {
		Elf64_Phdr segment = segment_of(file, header, i);
		if (segment.p_type == PT_LOAD)
			address = rdtsc_find_handler(
				file->bytes + segment.p_offset, segment.p_filesz);
	}
	/* Something else may well have been linked to address 0. */
	uint8_t *handler =
		address ? find_bytes(memory, file, header, address, HANDLER_LENGTH) : NULL;
	if (handler)
		rdtsc_trap(handler, HANDLER_LENGTH);
}

int elf_load(struct guest_memory *memory, const struct kernel_file *file, uint64_t lowest,
	uint64_t *entry, uint64_t *end)
{
	Elf64_Ehdr header = {.e_type = ET_NONE};
	if (file->size >= sizeof header)
		memcpy(&header, file->bytes, sizeof header);
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
		header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
		header.e_machine != EM_X86_64 || header.e_type != ET_EXEC)
		return fail(ENOEXEC,
			"%s is neither a bzImage nor an ELF64 kernel for x86-64, linked to a fixed "
			"address; check --kernel",
			file->path);
	if (header.e_phentsize != sizeof(Elf64_Phdr) ||
		!inside(file, header.e_phoff, (uint64_t)header.e_phnum * sizeof(Elf64_Phdr)))
		return fail(ENOEXEC,
			"%s is cut short: its program headers lie outside the file; get it again",
			file->path);
	bool starts = false;
	*end = lowest;
	for (unsigned i = 0; i < header.e_phnum; i++) {
		Elf64_Phdr segment = segment_of(file, &header, i);
		if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
			continue;
		int error = load_segment(memory, file, lowest, &segment);
		if (error)
			return error;
		if (segment.p_paddr + segment.p_memsz > *end)
			*end = segment.p_paddr + segment.p_memsz;
		starts |= header.e_entry >= segment.p_paddr &&
			  header.e_entry - segment.p_paddr < segment.p_filesz;
	}
	if (!starts)
		return fail(ENOEXEC, "%s starts at %#llx, where it loads nothing; link it right",
			file->path, (unsigned long long)header.e_entry);
	replace_rdtsc(memory, file, &header);
	trap_rdtsc(memory, file, &header);
	*entry = header.e_entry;
	return 0;
}

#include "transport/recording_format.h"

#include "base/check.h"
#include "transport/checksum.h"

#include <string.h>

/* Apart from the purposes that log_format.c and ack.c have for the same secret. */
#define PURPOSE_END 32u

const char recording_magic[8] = {'D', 'O', 'P', 'P', 'E', 'L', 'R', 'C'};

uint64_t recording_end_check(uint64_t secret, const struct recording_end *end)
{
	uint64_t check = mix64_keyed(secret, PURPOSE_END, end->sequence);
	check = mix64_keyed(secret, PURPOSE_END, check ^ end->begin);
	return mix64_keyed(secret, PURPOSE_END, check ^ end->end);
}

static bool is_zero(const uint8_t *page)
{
	/* Equal to itself shifted by a byte, and that byte is zero. */
	return page[0] == 0 && memcmp(page, page + 1, RECORDING_PAGE - 1) == 0;
}

uint64_t recording_count_pages(const struct recording_origin *origin)
{
	uint64_t count = 0;
	for (uint64_t at = 0; at < origin->memory_size; at += RECORDING_PAGE)
		count += !is_zero(origin->memory + at);
	return count;
}

uint64_t recording_front_size(const struct recording_origin *origin, uint64_t page_count)
{
	return sizeof(struct recording_header) + origin->state_size +
	       recording_padding(origin->state_size) + page_count * sizeof(struct recording_page);
}

static uint32_t pages_crc(const struct recording_origin *origin, uint32_t crc)
{
	for (uint64_t number = 0; number < origin->memory_size / RECORDING_PAGE; number++) {
		const uint8_t *page = origin->memory + number * RECORDING_PAGE;
		if (is_zero(page))
			continue;
		crc = crc32c(crc, &number, sizeof number);
		crc = crc32c(crc, page, RECORDING_PAGE);
	}
	return crc;
}

static int write_pages(const struct recording_origin *origin,
	int (*put)(void *context, struct iovec *pieces, int count), void *context)
{
	enum { BATCH = 128 };
	uint64_t numbers[BATCH];
	struct iovec pieces[2 * BATCH];
	int gathered = 0;
	for (uint64_t number = 0; number < origin->memory_size / RECORDING_PAGE; number++) {
		const uint8_t *page = origin->memory + number * RECORDING_PAGE;
		if (is_zero(page))
			continue;
		numbers[gathered] = number;
		pieces[2 * gathered] = (struct iovec){&numbers[gathered], sizeof numbers[0]};
		pieces[2 * gathered + 1] = (struct iovec){(void *)page, RECORDING_PAGE};
		if (++gathered < BATCH)
			continue;
		int error = put(context, pieces, 2 * gathered);
		if (error)
			return error;
		gathered = 0;
	}
	return gathered ? put(context, pieces, 2 * gathered) : 0;
}

int recording_write_front(const struct recording_origin *origin, uint64_t page_count, uint64_t area,
	int (*put)(void *context, struct iovec *pieces, int count), void *context)
{
	size_t name = origin->vm ? strlen(origin->vm) : 0;
	CHECK(L1,
		origin->state_size <= UINT32_MAX && origin->memory_size % RECORDING_PAGE == 0 &&
			origin->start % 8 == 0 && name <= RECORDING_VM_MAX,
		"a recording of %zu bytes of state and %llu of memory from LSN %llu",
		origin->state_size, (unsigned long long)origin->memory_size,
		(unsigned long long)origin->start);
	struct recording_header header = {
		.version = RECORDING_VERSION,
		.state_size = (uint32_t)origin->state_size,
		.secret = origin->secret,
		.start = origin->start,
		.memory_size = origin->memory_size,
		.page_count = page_count,
		.area = area,
		.generation = origin->generation,
	};
	memcpy(header.magic, recording_magic, sizeof header.magic);
	if (name)
		memcpy(header.vm, origin->vm, name);
	/* The header tells how many pages follow, and its checksum covers them: memory is looked at
	 * before it is written. Thus a pipe can be written, too. */
	uint32_t crc = crc32c(RECORDING_CRC_BEGIN, &header, RECORDING_CHECKED);
	crc = crc32c(crc, origin->state, origin->state_size);
	header.crc = ~pages_crc(origin, crc);
	static const uint8_t zeros[8];
	struct iovec front[] = {
		{&header, sizeof header},
		{(void *)origin->state, origin->state_size},
		{(void *)zeros, recording_padding(origin->state_size)},
	};
	int error = put(context, front, 3);
	return error ? error : write_pages(origin, put, context);
}

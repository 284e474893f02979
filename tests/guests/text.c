#include "tests/guests/text.h"

void text_put(struct text *text, const char *string)
{
	while (*string && text->length < text->room)
		text->at[text->length++] = *string++;
}

void text_put_unsigned(struct text *text, uint64_t value)
{
	char number[2 * TEXT_NUMBER];
	size_t first = TEXT_NUMBER;
	if (text->room - text->length < TEXT_NUMBER)
		return;
	do {
		number[--first] = (char)('0' + value % 10);
		value /= 10;
	} while (value);
	/* A fixed size, past the last digit as a rule: three moves instead of a loop. */
	__builtin_memcpy(text->at + text->length, number + first, TEXT_NUMBER);
	text->length += TEXT_NUMBER - first;
}

void text_put_signed(struct text *text, int64_t value)
{
	if (value < 0)
		text_put(text, "-");
	text_put_unsigned(text, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

void text_put_hex(struct text *text, uint64_t value, unsigned digits)
{
	if (text->room - text->length < TEXT_NUMBER)
		return;
	while (digits--)
		text->at[text->length++] = "0123456789abcdef"[value >> 4 * digits & 15];
}

bool take(struct reader *reader, const char *string)
{
	const char *at = reader->at;
	for (; *string; at++, string++)
		if (at == reader->end || *at != *string)
			return false;
	reader->at = at;
	return true;
}

bool take_unsigned(struct reader *reader, uint64_t *value)
{
	const char *at = reader->at;
	uint64_t number = 0;
	for (; at != reader->end && *at >= '0' && *at <= '9'; at++) {
		uint64_t digit = (uint64_t)(*at - '0');
		if (__builtin_mul_overflow(number, 10, &number) ||
			__builtin_add_overflow(number, digit, &number))
			return false;
	}
	if (at == reader->at)
		return false;
	reader->at = at;
	*value = number;
	return true;
}

bool take_signed(struct reader *reader, int64_t *value)
{
	struct reader ahead = *reader;
	bool negative = take(&ahead, "-");
	uint64_t magnitude;
	if (!take_unsigned(&ahead, &magnitude) || magnitude > (uint64_t)INT64_MAX + negative)
		return false;
	*reader = ahead;
	*value = (int64_t)(negative ? -magnitude : magnitude);
	return true;
}

bool option(const char *command_line, const char *name, struct reader *value)
{
	const char *at = command_line;
	while (*at) {
		const char *word = at;
		while (*at && *at != ' ')
			at++;
		struct reader reader = {word, at};
		if (take(&reader, name) && take(&reader, "=")) {
			*value = reader;
			return true;
		}
		while (*at == ' ')
			at++;
	}
	return false;
}

uint64_t option_unsigned(const char *command_line, const char *name, uint64_t otherwise)
{
	struct reader reader;
	uint64_t value;
	if (option(command_line, name, &reader) && take_unsigned(&reader, &value) &&
		reader_done(&reader))
		return value;
	return otherwise;
}

/* Reading and writing text: for the UART, for datagrams, for the command line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text being written into a buffer, without a closing zero. What does not fit is left out; for a
 * number, however short, there must be TEXT_NUMBER bytes, and all of them may be written to. */
#define TEXT_NUMBER 24
struct text {
	char *at;
	size_t length, room;
};

static inline struct text text_into(char *buffer, size_t room)
{
	return (struct text){.at = buffer, .room = room};
}

void text_put(struct text *text, const char *string);
void text_put_unsigned(struct text *text, uint64_t value);
void text_put_signed(struct text *text, int64_t value);
void text_put_hex(struct text *text, uint64_t value, unsigned digits); /* the last 1 to 16 digits */

/* Text being read. Each take_ function moves past what it took; on false nothing has moved. */
struct reader {
	const char *at, *end;
};

static inline bool reader_done(const struct reader *reader)
{
	return reader->at == reader->end;
}

bool take(struct reader *reader, const char *string);
/* Decimal digits only; false for none, or for more than fits. */
bool take_unsigned(struct reader *reader, uint64_t *value);
bool take_signed(struct reader *reader, int64_t *value); /* with or without a '-' */

/* The value of `name=value` on a command line of words divided by blanks; false when it is not
 * there. */
bool option(const char *command_line, const char *name, struct reader *value);
/* The same for a number; `otherwise` when it is not there or is not a number. */
uint64_t option_unsigned(const char *command_line, const char *name, uint64_t otherwise);

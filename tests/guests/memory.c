/*
 * The functions that the compiler calls on its own account, whatever it has been told about
 * libraries. They are compiled apart from the rest: it makes such calls even after it has dropped
 * what nobody calls, and it must not put these bodies where it would have a better move itself.
 */
#include "tests/guests/runtime.h"

void *memcpy(void *restrict to, const void *restrict from, size_t length)
{
	void *at = to;
	/* Words first: an emulated CPU pays for each step of a REP. */
	size_t words = length / 8, bytes = length % 8;
	__asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words) : : "memory");
	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
	return to;
}

void *memset(void *to, int byte, size_t length)
{
	void *at = to;
	__asm__ volatile("rep stosb" : "+D"(at), "+c"(length) : "a"(byte) : "memory");
	return to;
}

int memcmp(const void *one, const void *other, size_t length)
{
	const uint8_t *a = one, *b = other;
	for (size_t i = 0; i < length; i++)
		if (a[i] != b[i])
			return a[i] < b[i] ? -1 : 1;
	return 0;
}

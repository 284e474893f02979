#include "transport/copy.h"

#include <emmintrin.h>
#include <string.h>

/* A frame or a few are small, what a busy guest flushes is not. */
#define SMALL 4096u
#define LINE 64u

void copy_for_reader(uint8_t *to, const uint8_t *from, size_t length)
{
	if (length < SMALL) {
		memcpy(to, from, length);
		return;
	}
	/* Whole lines of the target, and what lies before the first plainly. */
	size_t head = -(uintptr_t)to & (LINE - 1);
	memcpy(to, from, head);
	to += head;
	from += head;
	length -= head;
	for (; length >= LINE; to += LINE, from += LINE, length -= LINE) {
		const __m128i *source = (const __m128i *)from;
		__m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
		__m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
		__m128i *target = (__m128i *)to;
		_mm_stream_si128(target, a);
		_mm_stream_si128(target + 1, b);
		_mm_stream_si128(target + 2, c);
		_mm_stream_si128(target + 3, d);
	}
	memcpy(to, from, length);
	/* Such writes keep no order with others of their own accord. */
	_mm_sfence();
}

#include "transport/ack.h"

#include "transport/checksum.h"

/* Apart from the purposes that log_format.c has for the same secret. */
#define PURPOSE_ACK 16u

uint64_t ack_check_word(uint64_t secret, enum ack_counter counter, uint64_t value)
{
	return mix64_keyed(secret, PURPOSE_ACK + (uint64_t)counter, value);
}

void ack_store(struct ack_block *block, uint64_t secret, enum ack_counter counter, uint64_t value)
{
	struct ack_cell *cell = &block->cell[counter];
	/* A1: everything the writer has read of the ring comes before; pairs with A2. The order of
	 * the two words is of no importance: a reader between them sees no pair. */
	atomic_store_explicit(&cell->value, value, memory_order_release);
	atomic_store_explicit(
		&cell->check, ack_check_word(secret, counter, value), memory_order_release);
}

uint64_t ack_read(struct ack_reader *reader, uint64_t head)
{
	const struct ack_cell *cell = &reader->block->cell[reader->counter];
	/* A2: pairs with A1: what the reader does with the ring, now free, comes after. */
	uint64_t value = atomic_load_explicit(&cell->value, memory_order_acquire);
	uint64_t check = atomic_load_explicit(&cell->check, memory_order_acquire);
	if (value > reader->last && value <= head &&
		check == ack_check_word(reader->secret, reader->counter, value))
		reader->last = value;
	return reader->last;
}

/*
 * Whether a history can be true of one ledger that loses nothing, counts nothing twice and never
 * goes back:
 *
 * - chain: each answered ADD is one step of the total, from `total - amount` to `total`. Sorted,
 * the steps follow one another from the base to the final total without an overlap. Where they
 * leave a gap, an ADD without an answer must be able to fill it (or another client, in a shared
 * history).
 * - points: a GET saw a total and a count that belong together at one point of the chain.
 * - order: what was asked after an answer had come in is answered from a state at least as new;
 * this holds for totals, for counts and for the guest's clock.
 * - repeats: an id that was answered twice had the same answer twice.
 * - odd: nothing came that answers nothing.
 */
#pragma once

#include "tests/client/history.h"

/* The number of violations, each said in a line on `out` as far as `most` lines. That a request has
 * no answer is not a violation: the caller counts what was lost. */
uint64_t check_history(const struct history *history, FILE *out, unsigned most);

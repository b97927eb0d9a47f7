/*
 * The numbers that a part stands for.
 */
#pragma once

#include "compress/parts.h"
#include "engine/pool.h"
#include "store/delta.h"

/*
 * Adds a part to a dense matrix, record->rows x record->cols, or puts its rows in their place. The
 * payload is checked as if it came from a file; coded ROWS are told from the weights as they are.
 * Sums are in double and rounded once a part. The pool may be NULL.
 */
int part_values_apply(struct pool *pool, const struct tensor_record *record, const uint8_t *payload,
	float *weights, struct reason *reason) _must_check_;

/* The same for a part that is not in a file yet. */
static inline int part_apply(
	struct pool *pool, const struct part *part, float *weights, struct reason *reason)
{
	return part_values_apply(pool, &part->record, part->payload, weights, reason);
}

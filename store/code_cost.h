/*
 * What a code will cost in a coded matrix, while the codes are still being chosen: for rounding
 * that weighs error against length. An estimate by the model of store/code_stream.h with contexts
 * that learn from the choices; it differs in that means are kept of every row and every column, so
 * codes may be chosen in any order (LDLQ goes through all rows of a column), and that it is not cut
 * in strips. Chosen in any order, the sum of costs is within a few percent of the coded length.
 */
#pragma once

#include "store/code_stream.h"

struct code_cost;

/* -ENOMEM; -EINVAL if the shape is not one that can be coded. Belongs to one thread at a time. */
int code_cost_new(const struct code_shape *shape, struct code_cost **ret) _must_check_;
/* Bits that the signed value (code - centre) would cost at that place now; infinite if there is no
 * code for it. */
float code_cost_bits(const struct code_cost *cost, uint32_t row, uint32_t col, int value);
/* The value stands: what follows is expected to be like it. It has a code. */
void code_cost_choose(struct code_cost *cost, uint32_t row, uint32_t col, int value);
struct code_cost *code_cost_free(struct code_cost *cost);

static inline void code_costp(struct code_cost **cost)
{
	code_cost_free(*cost);
}

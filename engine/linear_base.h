/*
 * The base's share of a linear call: its products, for all rows at once where no variant keeps some
 * of the outputs for itself.
 */
#pragma once

#include "engine/linear.h"

/* Before the pieces: the rows of x rounded for matrices of integers, and as a panel for those of
 * bf16 where the kernels take one, once for all parts. */
void linear_base_prepare(const struct linear_call *c);

/* W x of blocks [begin, end) of one part's outputs, but for runs whose delta replaces blocks whole:
 * those blocks are not written. */
void linear_base_piece(
	const struct linear_call *c, const struct linear_part *p, size_t begin, size_t end);

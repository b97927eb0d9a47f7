/*
 * What a delta does to a matrix, element by element and in double: slow, and independent of how the
 * kernels and the merge do it.
 */
#pragma once

#include "store/delta.h"

/* Applies the parts to a dense matrix of `rows` x `cols`; NULL: nothing changes. `sizes`, unless
 * NULL, gains the sum of the sizes of the terms. */
void dense_delta_apply(
	const struct linear_delta *delta, uint32_t cols, double *matrix, double *sizes);

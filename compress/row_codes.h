/*
 * A matrix as codes of one width with one step for each row: the direct low-bit form of a delta.
 *
 *   value = step * scale(row) * (code - zero),  zero = (2^bits - 1) / 2
 *
 * Levels are symmetric and none of them is 0, so that one bit is a sign. `step` is the power of two
 * below the largest number of the matrix: the fp16 scales keep full precision whatever its size.
 *
 * The row's scale is first the one with the least squared error of plain rounding, each column
 * weighed by what its error costs once later columns have made up for it; GPTQ then chooses the
 * codes; for those codes the best scale is known, s = (d H q) / (q H q); and GPTQ runs again with
 * that one. Of both rounds each row keeps the better. Without H all columns weigh the same, codes
 * are the nearest ones.
 */
#pragma once

#include "compress/code_matrix.h"
#include "compress/gptq.h"
#include "engine/pool.h"

struct row_codes_problem {
	struct pool *pool;
	const struct gptq *gptq; /* of `moments`; NULL with it */
	const double *moments;   /* H, cols x cols, or NULL */
	const float *matrix;     /* rows x cols */
	uint32_t rows, cols;
	uint8_t bits; /* 1 to 8 */
};

/* *ret_loss is the sum over the rows of e^T H e, H damped as GPTQ's. -ENOMEM; -EDOM if a number is
 * not finite. */
int row_codes_fit(const struct row_codes_problem *p, struct code_matrix **ret, double *ret_loss)
	_must_check_;

/* The unit of the scales: the power of two at or below the largest number; 1 for zeros. */
float row_codes_step(const float *matrix, size_t n);

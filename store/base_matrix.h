/*
 * A matrix of a base as its image holds it: numbers of bf16 in kernel order, or small integers.
 * Everyone who asks for values gets those that are served; whoever computes chooses the kernel by
 * `codec`.
 */
#pragma once

#include "kernels/types.h"
#include "store/format.h"

struct base_matrix {
	uint32_t codec; /* CODEC_MAT_BF16 or CODEC_MAT_INT */
	uint32_t rows, cols;
	union {
		struct mat_bf16 bf16;
		struct mat_int ints;
	};
};

/* Bytes that a product with it reads: numbers, or codes with their scales or grids. */
uint64_t base_matrix_bytes(const struct base_matrix *m);

/* The values of a row: exact, and rounded to bf16. */
void base_matrix_row(float *ret, const struct base_matrix *m, uint32_t row);
void base_matrix_row_bf16(uint16_t *ret, const struct base_matrix *m, uint32_t row);

static inline struct base_matrix base_matrix_of_bf16(const struct mat_bf16 *m)
{
	return (struct base_matrix){CODEC_MAT_BF16, m->rows, m->cols, {.bf16 = *m}};
}

/*
 * A matrix as codes, one a byte, on a grid: what every method makes before anything is packed.
 *
 *   value(r, c) = step * scale(r, c / 128) * (code - zero(r, c / 128))
 *
 * with scales and zeros as the grid has them (enum grid_kind). GRID_NONE is not for codes.
 */
#pragma once

#include "common/base.h"
#include "store/format.h"

struct code_matrix {
	uint32_t n_rows, n_cols;
	uint8_t bits; /* 1 to 8 */
	uint8_t grid;
	uint8_t *codes;   /* n_rows x n_cols */
	uint16_t *scales; /* fp16; GROUP: n_rows x groups of 128; ROW: n_rows; MATRIX: NULL */
	uint8_t *zeros;   /* GROUP: n_rows x groups; else NULL */
	float step, zero; /* ROW and MATRIX; else 1 and 0 */
};

/* All codes 0, scales 0. -ENOMEM. */
int code_matrix_new(uint32_t n_rows, uint32_t n_cols, uint8_t bits, enum grid_kind grid,
	struct code_matrix **ret) _must_check_;
struct code_matrix *code_matrix_free(struct code_matrix *m);

static inline void code_matrix_freep(struct code_matrix **m)
{
	code_matrix_free(*m);
}

/* What signed codes lie between; all zeros at first, so that 0 is among them. */
struct code_range {
	int lowest, highest;
};

void code_range_add(struct code_range *range, const int8_t *codes, size_t n);

/* Signed codes, n_rows x n_cols within the range, on GRID_MATRIX with a step of 1: matrices of one
 * range have the same bits and zero. -ENOMEM. */
int code_matrix_of_signed(const int8_t *codes, uint32_t n_rows, uint32_t n_cols,
	struct code_range range, struct code_matrix **ret) _must_check_;

/* n_cols values of a row, as a reader will have them. */
void code_matrix_row(const struct code_matrix *m, uint32_t row, float *ret);

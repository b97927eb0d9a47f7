/*
 * Between rows of numbers and the packed forms of types.h; for the tools that write and read files.
 * Sizes are of shapes that the caller has checked: they do not overflow.
 */
#pragma once

#include "kernels/types.h"

#include <stdbool.h>

/* Numbers of bf16 in a packed rows x cols matrix, padding included. */
size_t mat_bf16_size(uint32_t rows, uint32_t cols);
/* ret holds mat_bf16_size() numbers; source is row-major, rows x cols. */
void mat_bf16_pack(uint16_t *ret, const uint16_t *source, uint32_t rows, uint32_t cols);
/* Back to row-major, rows x cols. */
void mat_bf16_unpack(uint16_t *ret, const struct mat_bf16 *m);
/* The same for one row; a packed matrix may be written row by row after it was zeroed. */
void mat_bf16_pack_row(uint16_t *packed, uint32_t cols, uint32_t row, const uint16_t *source);
void mat_bf16_unpack_row(uint16_t *ret, const struct mat_bf16 *m, uint32_t row);

/* Widths that files may use: 2, 3, 4 and 8. The plane scheme itself works for 1 to 8. */
bool qmat_bits_valid(uint32_t bits);
/* Bytes of a matrix's codes; its scales and zeros count rows * qmat_groups(cols) each. */
uint64_t qmat_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits);
uint64_t qmat_n_scales(uint32_t rows, uint32_t cols);

/* One group: 128 codes, one a byte, below 2^bits; ret holds qmat_group_bytes(bits). */
void qmat_group_pack(uint8_t *ret, const uint8_t codes[static QMAT_GROUP], uint32_t bits);
void qmat_group_unpack(uint8_t ret_codes[static QMAT_GROUP], const uint8_t *packed, uint32_t bits);
/* One row: cols codes and the zero points of its groups, which fill the missing columns;
 * ret holds qmat_groups(cols) * qmat_group_bytes(bits). */
void qmat_row_pack(
	uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t cols, uint32_t bits);
/* The m->cols codes of one row. */
void qmat_row_unpack(uint8_t *ret_codes, const struct qmat *m, uint32_t row);
/* The m->cols values of one row, as the kernels see them. */
void qmat_row_values(float *ret, const struct qmat *m, uint32_t row);

/* One element; slow. */
uint8_t qmat_code(const struct qmat *m, uint32_t row, uint32_t col);
float qmat_value(const struct qmat *m, uint32_t row, uint32_t col);

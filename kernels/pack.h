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

/* Of struct mat_int: bytes of a matrix's codes and grids, numbers of its scales. */
uint64_t mat_int_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits);
uint64_t mat_int_grids_bytes(uint32_t rows, uint32_t cols);
uint64_t mat_int_n_scales(uint32_t rows, uint32_t cols);
/* Where the scale of a group of a row stands. */
static inline size_t mat_int_lane(const struct mat_int *m, uint32_t row, size_t group)
{
	return (row / MAT_BLOCK * mat_int_groups(m->cols) + group) * MAT_BLOCK + row % MAT_BLOCK;
}
/* Puts the codes of one group of a row, one a byte, those of 8 bits with 128 for 0, where m has
 * them; `ret` is the memory behind m->codes. */
void mat_int_group_pack(uint8_t *ret, const struct mat_int *m, uint32_t row, size_t group,
	const uint8_t codes[static MAT_INT_GROUP]);
/* Likewise the grids, without the bits of the scale, and the scale; `ret` is the memory behind
 * m->grids. */
void mat_int_grids_pack(uint8_t *ret, const struct mat_int *m, uint32_t row, size_t group,
	const uint8_t grids[static MAT_INT_SUBGROUPS], uint16_t scale);
/* The grid of a sub-group, of 4 bits. */
uint8_t mat_int_grid(const struct mat_int *m, uint32_t row, size_t group, size_t subgroup);
/* The integers of one group of a row, which its scale multiplies. */
void mat_int_group_numbers(
	int8_t ret[static MAT_INT_GROUP], const struct mat_int *m, uint32_t row, size_t group);
float mat_int_scale(const struct mat_int *m, uint32_t row, size_t group);
/* So many scales, in their order, are finite numbers before one is not. */
uint64_t mat_int_finite_scales(const struct mat_int *m);
/* The m->cols values of one row, exact. */
void mat_int_row_values(float *ret, const struct mat_int *m, uint32_t row);

/* Widths of struct qmat: 1 to 8, 16 and 32. */
bool qmat_bits_valid(uint32_t bits);
/* Bytes of a matrix's codes. */
uint64_t qmat_codes_bytes(uint32_t rows, uint32_t cols, uint32_t bits);
/* Scales, and zeros, of a matrix of which each group of a row has its own. */
uint64_t qmat_n_scales(uint32_t rows, uint32_t cols);

/* One group: 128 codes of at most 8 bits, one a byte, below 2^bits; ret holds
 * qmat_group_bytes(bits).
 */
void qmat_group_pack(uint8_t *ret, const uint8_t codes[static QMAT_GROUP], uint32_t bits);
void qmat_group_unpack(uint8_t ret_codes[static QMAT_GROUP], const uint8_t *packed, uint32_t bits);
/* One row: cols codes and the zero points of its groups, which fill the missing columns (0 where
 * zeros is NULL); ret holds qmat_groups(cols) * qmat_group_bytes(bits). */
void qmat_row_pack(
	uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t cols, uint32_t bits);
/* The same for rows x cols codes; zeros, unless NULL, is rows x groups; ret holds
 * qmat_codes_bytes(). */
void qmat_pack(uint8_t *ret, const uint8_t *codes, const uint8_t *zeros, uint32_t rows,
	uint32_t cols, uint32_t bits);
/* One row of plain numbers, 16 or 32 bits, 0 in the missing columns. */
void qmat_row_pack_plain(void *ret, const float *values, uint32_t cols, uint32_t bits);
/* The m->cols codes of one row. */
void qmat_row_unpack(uint8_t *ret_codes, const struct qmat *m, uint32_t row);

/* The values of one group of a row, exact; past the last column they mean nothing. */
void qmat_group_values(
	double ret[static QMAT_GROUP], const struct qmat *m, uint32_t row, size_t group);
/* The m->cols values of one row, rounded to f32. */
void qmat_row_values(float *ret, const struct qmat *m, uint32_t row);

/* One element; slow. */
uint8_t qmat_code(const struct qmat *m, uint32_t row, uint32_t col);
float qmat_value(const struct qmat *m, uint32_t row, uint32_t col);

/* Bits of a place in a group of `group` columns, at least 1 column. */
uint32_t dropmat_index_bits(uint32_t group);
/* Bytes of a matrix's entries. */
uint64_t dropmat_entries_bytes(const struct dropmat *m);
/* Writes one entry, of which m tells the bits; `entries` is the memory behind m->entries. */
static inline void dropmat_entry_put(
	const struct dropmat *m, void *entries, size_t entry, uint32_t place, uint8_t code)
{
	uint32_t word = (uint32_t)code << m->index_bits | place;

	if (dropmat_entry_bits(m->index_bits, m->bits) == 8)
		((uint8_t *)entries)[entry] = (uint8_t)word;
	else
		((uint16_t *)entries)[entry] = (uint16_t)word;
}

/* Entry number `entry` of a row. */
struct dropmat_survivor {
	uint32_t col;
	double value; /* exact */
};

struct dropmat_survivor dropmat_survivor(const struct dropmat *m, uint32_t row, size_t entry);
/* The m->cols values of one row, rounded to f32. */
void dropmat_row_values(float *ret, const struct dropmat *m, uint32_t row);

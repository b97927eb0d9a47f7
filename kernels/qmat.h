/*
 * What the vector sets' products with a matrix of codes share: the way from a call to tiles.
 */
#pragma once

#include "kernels/kernels.h"

#include <string.h>

#define QMAT_WIDTHS 33      /* one more than the widest */
#define QMAT_DOT_MAX_ROWS 4 /* of x at once, in any set */
#define QMAT_SUM_ROWS 3     /* of z at once */
#define QMAT_SUM_HEIGHT 8   /* rows of the matrix that are read side by side */

/* One call of qmat_dot for a few rows of x. */
struct qmat_dot {
	float *z;
	size_t z_stride;
	const struct qmat *m;
	const float *x;
	size_t x_stride;
	const float (*tail)[QMAT_GROUP]; /* of each row: its last group, padded with zeros */
};

/* Rows [row0, row1) of the matrix. */
typedef void qmat_dot_fn(const struct qmat_dot *d, size_t row0, size_t row1);

/* The n rows of x, at most max_rows at once; fns[i] takes i + 1. */
static inline void qmat_dot_by_rows(struct qmat_dot d, size_t n, qmat_dot_fn *const *fns,
	size_t max_rows, size_t row0, size_t row1)
{
	const size_t full = d.m->cols / QMAT_GROUP * QMAT_GROUP;
	float tail[QMAT_DOT_MAX_ROWS][QMAT_GROUP];

	d.tail = (const float(*)[QMAT_GROUP])tail;
	for (size_t t = 0, rows; t < n; t += rows) {
		rows = min_u64(n - t, max_rows);
		for (size_t i = 0; i < rows; i++) {
			memset(tail[i], 0, sizeof(tail[i]));
			memcpy(tail[i], d.x + i * d.x_stride + full,
				(d.m->cols - full) * sizeof(*tail[i]));
		}
		fns[rows - 1](&d, row0, row1);
		d.x += rows * d.x_stride;
		d.z += rows * d.z_stride;
	}
}

/* One call of qmat_accumulate for a few rows of z. */
struct qmat_sum {
	float *y;
	size_t y_stride;
	const struct qmat *m;
	const float *z;
	size_t z_stride;
};

/* One group of columns, `height` rows of the matrix from `row` on. */
typedef void qmat_sum_fn(const struct qmat_sum *a, size_t group, size_t row, size_t height);

/* A function for each width of codes and each number of rows of z: MAKE(rows, bits) is to define
 * NAME_rows_bits, and the table has them by width, and by rows less 1. */
#define QMAT_SUM_ROWS_EACH(MAKE, bits) MAKE(1, bits) MAKE(2, bits) MAKE(3, bits)
#define QMAT_SUM_EACH(MAKE)                                                                        \
	QMAT_SUM_ROWS_EACH(MAKE, 1)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 2)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 3)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 4)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 5)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 6)                                                                \
	QMAT_SUM_ROWS_EACH(MAKE, 7)
#define QMAT_SUM_ENTRY(NAME, bits) [bits] = {NAME##_1_##bits, NAME##_2_##bits, NAME##_3_##bits}
#define QMAT_SUM_ENTRIES(NAME)                                                                     \
	QMAT_SUM_ENTRY(NAME, 1), QMAT_SUM_ENTRY(NAME, 2), QMAT_SUM_ENTRY(NAME, 3),                 \
		QMAT_SUM_ENTRY(NAME, 4), QMAT_SUM_ENTRY(NAME, 5), QMAT_SUM_ENTRY(NAME, 6),         \
		QMAT_SUM_ENTRY(NAME, 7)

/* The n rows of z; fns[i] takes i + 1. Group after group of the same rows of the matrix, so that
 * memory is read forwards. */
static inline void qmat_sum_by_rows(
	struct qmat_sum a, size_t n, qmat_sum_fn *const *fns, size_t group0, size_t group1)
{
	for (size_t t = 0, rows; t < n; t += rows) {
		rows = min_u64(n - t, QMAT_SUM_ROWS);
		for (size_t r = 0; r < a.m->rows; r += QMAT_SUM_HEIGHT)
			for (size_t g = group0; g < group1; g++)
				fns[rows - 1](&a, g, r, min_u64(a.m->rows - r, QMAT_SUM_HEIGHT));
		a.y += rows * a.y_stride;
		a.z += rows * a.z_stride;
	}
}

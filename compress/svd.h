/*
 * The thin singular value decomposition of a matrix, exact and in double.
 *
 * Vectors are scaled to a root mean square of 1 and sigma takes the factor, sqrt(rows * cols):
 * the elements are then of order 1 whatever the shape, and their fp16 grids keep full precision.
 */
#pragma once

#include "common/reason.h"

struct svd {
	uint32_t rows, cols;
	uint32_t rank; /* min(rows, cols) */
	double *u;     /* rank x rows: row i is the i-th left vector times sqrt(rows) */
	double *v;     /* rank x cols: likewise, times sqrt(cols) */
	double *sigma; /* falling; singular value / sqrt(rows * cols) */
};

/* matrix = sum_i sigma[i] u[i] v[i]^T.  -EDOM if it holds numbers that are not finite. */
int svd_new(const float *matrix, uint32_t rows, uint32_t cols, struct svd **ret,
	struct reason *reason) _must_check_;
struct svd *svd_free(struct svd *s);

static inline void svd_freep(struct svd **s)
{
	svd_free(*s);
}

/* Share of the squared norm in the first n components; 1 for a zero matrix. */
double svd_energy(const struct svd *s, uint32_t n);

/* Forgets all but the first n components. */
void svd_truncate(struct svd *s, uint32_t n);

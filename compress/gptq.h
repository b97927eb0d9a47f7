/*
 * GPTQ (arXiv 2210.17323): rounding one column after the other, each column's error spread over the
 * columns that are still free so that the error of the product with the inputs stays small.
 *
 * For a matrix M and the second moments H = sum x x^T of its inputs, the sweep lowers
 * tr((M - Q) H (M - Q)^T). Columns go in the order of falling H_jj ("act-order"); H is damped by a
 * share of its mean diagonal; inputs that never occur (H_jj = 0) get zeros. Rows do not know of
 * each other, so any split of the rows over threads gives the same codes.
 *
 * The matrix is given as vectors that share grids (compress/qvectors.h) in one of two directions:
 *
 *   along    a row of M is a vector (V^T: singular vectors over the inputs). Grids are taken before
 *            the sweep, because act-order meets the columns of a group far apart.
 *   across   a column of M is a vector (U: singular vectors over the outputs). The grids of a
 * column are taken when the sweep reaches it, from values that hold the errors made so far.
 */
#pragma once

#include "common/reason.h"
#include "compress/qvectors.h"
#include "engine/pool.h"

#define GPTQ_DAMPING 0.01 /* of the mean diagonal */

struct gptq; /* what the sweeps need of H: the order and a factor of its inverse */

/* `hessian` is n x n, symmetric; it is only read. The pool, which may be NULL, changes no byte.
 * -EDOM if it holds numbers that are not finite or is far from positive. */
int gptq_new(struct pool *pool, const double *hessian, uint32_t n, struct gptq **ret,
	struct reason *reason) _must_check_;
struct gptq *gptq_free(struct gptq *g);

static inline void gptq_freep(struct gptq **g)
{
	gptq_free(*g);
}

/*
 * Quantises vectors [first, last) of `vectors` (q->n_vectors x q->length) into q.
 * H belongs to the elements: n == q->length. -ENOMEM.
 */
int gptq_along(const struct gptq *g, const double *vectors, uint32_t first, uint32_t last,
	struct qvectors *q) _must_check_;

/*
 * Quantises elements [first, last) of all vectors into q; `first` is a multiple of 128, and `last`
 * too unless it is the end. H belongs to the vectors: n == q->n_vectors. -ENOMEM.
 */
int gptq_across(const struct gptq *g, const double *vectors, uint32_t first, uint32_t last,
	struct qvectors *q) _must_check_;

/* Any rounding: called once for each number, columns in the order of the sweep; returns the value
 * that the number is stored as. */
struct gptq_rounding {
	double (*round)(void *arg, uint32_t row, uint32_t column, double value);
	void *arg;
};

/* Rounds rows [first, last) of a matrix of rows of n numbers. -ENOMEM. */
int gptq_rows(const struct gptq *g, const double *matrix, uint32_t first, uint32_t last,
	const struct gptq_rounding *rounding) _must_check_;

/* Rows of n numbers, each in place of its product with H^-1, damped as in the sweeps; 0 where there
 * is no input. -ENOMEM. */
int gptq_solve(const struct gptq *g, double *rows, size_t n_rows) _must_check_;

/* What the squared error of each column costs once the columns after it have made up for what they
 * can: 1 / T_cc^2 with H^-1 = T^T T; 0 where there is no input. ret has n numbers. */
void gptq_weights(const struct gptq *g, double *ret);

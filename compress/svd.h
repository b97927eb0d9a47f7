/*
 * The thin singular value decomposition of a matrix in double: all of it, or its first components
 * by the cheapest of three routes.
 *
 *   exact       divide and conquer (dgesdd)
 *   gram        eigenvectors of the Gram matrix of the shorter side
 *   randomised  the same in a subspace of n + 64 dimensions, found by two power iterations with
 *               orthonormalisation after every product (Halko, Martinsson and Tropp,
 *               arXiv 0909.4061, algorithm 4.4)
 *
 * The last two lose what is below 1e-6 of the largest singular value: it comes as zeros.
 *
 * Vectors are scaled to a root mean square of 1 and sigma takes the factor, sqrt(rows * cols):
 * the elements are then of order 1 whatever the shape, and their fp16 grids keep full precision.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

struct svd {
	uint32_t rows, cols;
	uint32_t rank; /* min(rows, cols) */
	double *u;     /* rank x rows: row i is the i-th left vector times sqrt(rows) */
	double *v;     /* rank x cols: likewise, times sqrt(cols) */
	double *sigma; /* falling; singular value / sqrt(rows * cols) */
	double total;  /* sum of the squares of all sigma, those that are not here included */
};

/* matrix = sum_i sigma[i] u[i] v[i]^T.  -EDOM if it holds numbers that are not finite. */
int svd_new(const float *matrix, uint32_t rows, uint32_t cols, struct svd **ret,
	struct reason *reason) _must_check_;
enum svd_route {
	SVD_EXACT,
	SVD_GRAM,
	SVD_RANDOMISED,
};

/* The cheapest for the first n components, by the operations that each takes; small matrices go the
 * exact way whatever it costs. */
enum svd_route svd_route(uint32_t rows, uint32_t cols, uint32_t n);

/* The first n components, or as many as there are. Work is split over the pool (which may be NULL)
 * in pieces that do not depend on it; the exact route is one piece. Errors as svd_new(). */
int svd_leading(struct pool *pool, const float *matrix, uint32_t rows, uint32_t cols, uint32_t n,
	struct svd **ret, struct reason *reason) _must_check_;
/* The same by a route of the caller's choice. */
struct svd_problem {
	const float *matrix;
	uint32_t rows, cols, n;
	enum svd_route route;
};
int svd_solve(struct pool *pool, const struct svd_problem *p, struct svd **ret,
	struct reason *reason) _must_check_;

/* The same of D L, with H = L L^T the second moments of the inputs, damped as GPTQ's, and V^T taken
 * back through L (SVD-LLM, arXiv 2403.07378, section 3.1): component i costs sigma[i]^2 of
 * tr((D - D') H (D - D')^T). V's vectors have no size of their own; V H V^T is diagonal. */
int svd_whitened(struct pool *pool, const struct svd_problem *p, const double *moments,
	struct svd **ret, struct reason *reason) _must_check_;

struct svd *svd_free(struct svd *s);

static inline void svd_freep(struct svd **s)
{
	svd_free(*s);
}

/* Share of the squared norm in the first n components; 1 for a zero matrix. */
double svd_energy(const struct svd *s, uint32_t n);

/* Forgets all but the first n components. */
void svd_truncate(struct svd *s, uint32_t n);

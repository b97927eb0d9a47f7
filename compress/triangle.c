#include "compress/triangle.h"

#include "kernels/blas.h"

#include <string.h>

#define BLOCK 256u /* columns that are eliminated at a time */
#define ROWS 384u  /* of a piece */
#define COLS 512u  /* likewise */

static void run(struct pool *pool, pool_fn *fn, void *arg, size_t n)
{
	if (pool) {
		pool_run(pool, fn, arg, n);
		return;
	}
	for (size_t i = 0; i < n; i++)
		fn(arg, i, 0);
}

/* A diagonal block, tight, and back. */
static void copy_block(double *to, size_t to_stride, const double *from, size_t stride, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memcpy(to + i * to_stride, from + i * stride, n * sizeof(*to));
}

/* The block [first, first + size) on the diagonal, and what is below it and to its right. */
struct elimination {
	double *a;
	size_t n, first, size;
	const double *diagonal; /* its factor, tight */
};

static size_t n_below(const struct elimination *e)
{
	return e->n - e->first - e->size;
}

static void solve_rows(void *arg, size_t piece, size_t worker)
{
	const struct elimination *e = arg;
	size_t row = piece * ROWS;
	const struct blas_solve solve = {
		.m = min_u64(ROWS, n_below(e) - row),
		.n = e->size,
		.triangle = BLAS_LOWER,
		.transpose = true,
		.right = true,
		.b_stride = e->n,
	};

	(void)worker;
	blas_triangle_solve(
		&solve, e->diagonal, e->a + (e->first + e->size + row) * e->n + e->first);
}

/* The lowest rows are the longest and go first. */
static void subtract_rows(void *arg, size_t piece, size_t worker)
{
	const struct elimination *e = arg;
	size_t n_pieces = div_up(n_below(e), ROWS), row = (n_pieces - 1 - piece) * ROWS;
	double *begin = e->a + (e->first + e->size) * e->n;
	struct blas_gemm gemm = {
		.m = min_u64(ROWS, n_below(e) - row),
		.k = e->size,
		.transpose_b = true,
		.alpha = -1,
		.beta = 1,
		.a_stride = e->n,
		.b_stride = e->n,
		.c_stride = e->n,
	};

	(void)worker;
	gemm.n = row + gemm.m;
	blas_gemm_f64(&gemm, begin + row * e->n + e->first, begin + e->first,
		begin + row * e->n + e->first + e->size);
}

int triangle_factor(struct pool *pool, double *a, size_t n)
{
	_cleanup_(freep) double *diagonal = malloc((size_t)BLOCK * BLOCK * sizeof(*diagonal));

	if (!diagonal)
		return -ENOMEM;
	for (size_t first = 0; first < n; first += BLOCK) {
		struct elimination e = {
			.a = a,
			.n = n,
			.first = first,
			.size = min_u64(BLOCK, n - first),
			.diagonal = diagonal,
		};
		double *at = a + first * n + first;
		int r;

		copy_block(diagonal, e.size, at, n, e.size);
		r = blas_cholesky(diagonal, e.size, BLAS_LOWER);
		if (r != 0)
			return r;
		copy_block(at, n, diagonal, e.size, e.size);
		run(pool, solve_rows, &e, div_up(n_below(&e), ROWS));
		run(pool, subtract_rows, &e, div_up(n_below(&e), ROWS));
	}
	return 0;
}

/* Rows [first, first + size) of the inverse, given those above: with D the inverse of the block on
 * the diagonal, D to its right end and -D L X before. */
struct substitution {
	double *a;
	size_t n, first, size;
	const double *diagonal; /* D, tight */
	double *products;       /* size x first: L X */
};

static void multiply_columns(void *arg, size_t piece, size_t worker)
{
	const struct substitution *s = arg;
	size_t col = piece * COLS;
	const struct blas_gemm gemm = {
		.m = s->size,
		.n = min_u64(COLS, s->first - col),
		.k = s->first - col,
		.alpha = 1,
		.a_stride = s->n,
		.b_stride = s->n,
		.c_stride = s->first,
	};

	(void)worker;
	blas_gemm_f64(
		&gemm, s->a + s->first * s->n + col, s->a + col * s->n + col, s->products + col);
}

static void finish_columns(void *arg, size_t piece, size_t worker)
{
	const struct substitution *s = arg;
	size_t col = piece * COLS;
	const struct blas_gemm gemm = {
		.m = s->size,
		.n = min_u64(COLS, s->first - col),
		.k = s->size,
		.alpha = -1,
		.b_stride = s->first,
		.c_stride = s->n,
	};

	(void)worker;
	blas_gemm_f64(&gemm, s->diagonal, s->products + col, s->a + s->first * s->n + col);
}

/* Zeros above the diagonal: products run over whole blocks. */
static void clear_above(double *block, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memset(block + i * n + i + 1, 0, (n - i - 1) * sizeof(*block));
}

int triangle_inverse(struct pool *pool, double *l, size_t n)
{
	_cleanup_(freep) double *diagonal = malloc((size_t)BLOCK * BLOCK * sizeof(*diagonal));
	_cleanup_(freep) double *products = malloc((BLOCK * n + 1) * sizeof(*products));

	if (!diagonal || !products)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		memset(l + i * n + i + 1, 0, (n - i - 1) * sizeof(*l));
	for (size_t first = 0; first < n; first += BLOCK) {
		struct substitution s = {
			.a = l,
			.n = n,
			.first = first,
			.size = min_u64(BLOCK, n - first),
			.diagonal = diagonal,
			.products = products,
		};
		double *at = l + first * n + first;
		int r;

		copy_block(diagonal, s.size, at, n, s.size);
		r = blas_triangle_inverse(diagonal, s.size, BLAS_LOWER);
		if (r != 0)
			return r;
		clear_above(diagonal, s.size);
		run(pool, multiply_columns, &s, div_up(first, COLS));
		run(pool, finish_columns, &s, div_up(first, COLS));
		copy_block(at, n, diagonal, s.size, s.size);
	}
	return 0;
}

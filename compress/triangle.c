#include "compress/triangle.h"

#include "kernels/blas.h"

#include <string.h>

#define BLOCK 256u /* rows that are made at a time */
#define COLS 512u  /* of a piece */

/* A diagonal block, tight, and back. */
static void copy_block(double *to, size_t to_stride, const double *from, size_t stride, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memcpy(to + i * to_stride, from + i * stride, n * sizeof(*to));
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
		pool_run(pool, multiply_columns, &s, div_up(first, COLS));
		pool_run(pool, finish_columns, &s, div_up(first, COLS));
		copy_block(at, n, diagonal, s.size, s.size);
	}
	return 0;
}

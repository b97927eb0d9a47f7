#include "compress/cholesky.h"

#include "kernels/blas.h"

#include <string.h>

#define WIDTH 256u  /* columns of a panel */
#define STRIPE 256u /* rows of one piece */

/* Columns [first, first + width) of the factor are being made, `diagonal` is their own block. */
struct panel {
	double *a;
	size_t n, first, width;
	double *diagonal; /* width x width, tight */
};

static size_t below(const struct panel *p)
{
	return p->first + p->width;
}

static size_t n_stripes(const struct panel *p)
{
	return div_up(p->n - below(p), STRIPE);
}

static int factor_diagonal(struct panel *p)
{
	double *at = p->a + p->first * p->n + p->first;
	int r;

	for (size_t i = 0; i < p->width; i++)
		memcpy(p->diagonal + i * p->width, at + i * p->n, p->width * sizeof(*at));
	r = blas_cholesky(p->diagonal, p->width, BLAS_LOWER);
	for (size_t i = 0; r == 0 && i < p->width; i++)
		memcpy(at + i * p->n, p->diagonal + i * p->width, (i + 1) * sizeof(*at));
	return r;
}

/* The factor's rows of a stripe below the diagonal. */
static void piece_panel(void *arg, size_t piece, size_t worker)
{
	const struct panel *p = arg;
	size_t row = below(p) + piece * STRIPE;
	const struct blas_solve solve = {
		.m = min_u64(STRIPE, p->n - row),
		.n = p->width,
		.triangle = BLAS_LOWER,
		.transpose = true,
		.right = true,
		.b_stride = p->n,
	};

	(void)worker;
	blas_triangle_solve(&solve, p->diagonal, p->a + row * p->n + p->first);
}

/* What the panel takes from a stripe of all that is to the right of it. */
static void piece_rest(void *arg, size_t piece, size_t worker)
{
	const struct panel *p = arg;
	/* The last are the longest. */
	size_t row = below(p) + (n_stripes(p) - 1 - piece) * STRIPE;
	size_t m = min_u64(STRIPE, p->n - row);
	const struct blas_gemm gemm = {
		.m = m,
		.n = row + m - below(p),
		.k = p->width,
		.transpose_b = true,
		.alpha = -1,
		.beta = 1,
		.a_stride = p->n,
		.b_stride = p->n,
		.c_stride = p->n,
	};

	(void)worker;
	blas_gemm_f64(&gemm, p->a + row * p->n + p->first, p->a + below(p) * p->n + p->first,
		p->a + row * p->n + below(p));
}

int cholesky_factor(struct pool *pool, double *a, size_t n)
{
	_cleanup_(freep) double *diagonal = malloc((size_t)WIDTH * WIDTH * sizeof(*diagonal));
	struct panel p = {.a = a, .n = n, .diagonal = diagonal};

	if (!diagonal)
		return -ENOMEM;
	for (; p.first < n; p.first += WIDTH) {
		int r;

		p.width = min_u64(WIDTH, n - p.first);
		r = factor_diagonal(&p);
		if (r != 0)
			return r;
		pool_run(pool, piece_panel, &p, n_stripes(&p));
		pool_run(pool, piece_rest, &p, n_stripes(&p));
	}
	return 0;
}

#include "compress/svd.h"

#include "compress/gptq.h"
#include "kernels/blas.h"

#include <string.h>

#define ROWS_AT_ONCE 256u

/* The lower factor of damped H, zeros above the diagonal. */
static int moments_factor(const double *moments, uint32_t n, double **ret, struct reason *reason)
{
	_cleanup_(freep) double *l = malloc(((size_t)n * n + 1) * sizeof(*l));
	double trace = 0;
	int r;

	if (!l)
		return -ENOMEM;
	memcpy(l, moments, (size_t)n * n * sizeof(*l));
	for (uint32_t i = 0; i < n; i++)
		trace += l[(size_t)i * n + i];
	for (uint32_t i = 0; i < n; i++)
		l[(size_t)i * n + i] += trace > 0 ? GPTQ_DAMPING * trace / n : 1;
	r = blas_cholesky(l, n, BLAS_LOWER);
	if (r > 0)
		return reason_set(reason, -EDOM,
			"the second moments of %u inputs have no Cholesky factor", n);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < n; i++)
		memset(l + (size_t)i * n + i + 1, 0, (n - i - 1) * sizeof(*l));
	*ret = take_ptr(l);
	return 0;
}

struct whitening {
	const struct svd_problem *p;
	const double *l; /* cols x cols */
	double *rows;    /* 2 x ROWS_AT_ONCE x cols for each worker */
	float *product;  /* D L */
};

static void whiten_rows(void *arg, size_t piece, size_t worker)
{
	const struct whitening *w = arg;
	size_t cols = w->p->cols, first = piece * ROWS_AT_ONCE;
	double *wide = w->rows + 2 * worker * ROWS_AT_ONCE * cols;
	double *product = wide + ROWS_AT_ONCE * cols;
	struct blas_gemm gemm = {.n = cols, .k = cols, .alpha = 1};

	gemm.m = min_u64(ROWS_AT_ONCE, w->p->rows - first);
	for (size_t i = 0; i < gemm.m * cols; i++)
		wide[i] = (double)w->p->matrix[first * cols + i];
	blas_gemm_f64(&gemm, wide, w->l, product);
	for (size_t i = 0; i < gemm.m * cols; i++)
		w->product[first * cols + i] = (float)product[i];
}

static int whiten(struct pool *pool, const struct svd_problem *p, const double *l, float *ret)
{
	size_t n_tasks = div_up(p->rows, ROWS_AT_ONCE);
	size_t n_workers = pool ? pool_threads(pool) : 1;
	_cleanup_(freep) double *rows =
		malloc((2 * n_workers * ROWS_AT_ONCE * p->cols + 1) * sizeof(*rows));
	struct whitening w = {.p = p, .l = l, .rows = rows, .product = ret};

	if (!rows)
		return -ENOMEM;
	pool_run(pool, whiten_rows, &w, n_tasks);
	return 0;
}

int svd_whitened(struct pool *pool, const struct svd_problem *p, const double *moments,
	struct svd **ret, struct reason *reason)
{
	_cleanup_(freep) float *product =
		malloc(((size_t)p->rows * p->cols + 1) * sizeof(*product));
	_cleanup_(freep) double *l = NULL;
	_cleanup_(svd_freep) struct svd *s = NULL;
	struct svd_problem whitened = *p;
	struct blas_solve solve = {.n = p->cols, .triangle = BLAS_LOWER, .right = true};
	int r;

	if (!product)
		return -ENOMEM;
	r = moments_factor(moments, p->cols, &l, reason);
	if (r == 0)
		r = whiten(pool, p, l, product);
	whitened.matrix = product;
	if (r == 0)
		r = svd_solve(pool, &whitened, &s, reason);
	if (r < 0)
		return r;
	solve.m = s->rank;
	blas_triangle_solve(&solve, l, s->v);
	*ret = take_ptr(s);
	return 0;
}

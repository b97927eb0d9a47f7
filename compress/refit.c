#include "compress/refit.h"

#include "compress/cholesky.h"
#include "compress/gptq.h"
#include "compress/product.h"
#include "kernels/blas.h"

#include <string.h>

void refit_done(struct refit *f)
{
	free(f->cross);
	free(f->gram);
	*f = (struct refit){0};
}

static double damping_of(const double *moments, uint32_t n)
{
	double trace = 0;

	for (size_t i = 0; i < n; i++)
		trace += moments[i * n + i];
	return GPTQ_DAMPING * trace / n;
}

/* ret = W H, H damped. */
static void times_moments(const struct refit_problem *p, double *ret)
{
	const struct blas_gemm gemm = {.m = p->n, .n = p->cols, .k = p->cols, .alpha = 1};
	double damping = damping_of(p->moments, p->cols);

	product_f64(p->pool, &gemm, p->w, p->moments, ret);
	for (size_t i = 0; i < (size_t)p->n * p->cols; i++)
		ret[i] += damping * p->w[i];
}

int refit_init(const struct refit_problem *p, struct refit *ret)
{
	size_t n_target = (size_t)p->rows * p->cols;
	_cleanup_(freep) double *product = malloc(((size_t)p->n * p->cols + 1) * sizeof(*product));
	_cleanup_(freep) double *target = malloc((n_target + 1) * sizeof(*target));
	_cleanup_(refit_done) struct refit f = {
		.rows = p->rows,
		.n = p->n,
		.cross = malloc(((size_t)p->n * p->rows + 1) * sizeof(double)),
		.gram = malloc(((size_t)p->n * p->n + 1) * sizeof(double)),
	};
	struct blas_gemm gemm = {
		.m = p->n, .n = p->rows, .k = p->cols, .transpose_b = true, .alpha = 1};

	if (!product || !target || !f.cross || !f.gram)
		return -ENOMEM;
	for (size_t i = 0; i < n_target; i++)
		target[i] = (double)p->target[i];
	times_moments(p, product);
	product_f64(p->pool, &gemm, product, target, f.cross);
	gemm.n = p->n;
	product_f64(p->pool, &gemm, product, p->w, f.gram);
	*ret = f;
	f = (struct refit){0};
	return 0;
}

/* x (n x columns) becomes A^-1 x; A, n x n, is spoilt. Where A has a zero on its diagonal there was
 * a vector of zeros, and x has zeros. */
static int solve(double *a, uint32_t n, double *x, uint32_t columns, struct reason *reason)
{
	struct blas_solve triangle = {.m = n, .n = columns, .triangle = BLAS_LOWER};
	int r;

	for (size_t i = 0; i < n; i++)
		if (a[i * n + i] == 0)
			a[i * n + i] = 1;
	r = cholesky_factor(NULL, a, n);
	if (r > 0)
		return reason_set(reason, -EDOM, "%u components depend on each other", n);
	if (r < 0)
		return r;
	blas_triangle_solve(&triangle, a, x);
	triangle.transpose = true;
	blas_triangle_solve(&triangle, a, x);
	return 0;
}

int refit_vectors(const struct refit *f, double *ret, struct reason *reason)
{
	size_t n = (size_t)f->n * f->n;
	_cleanup_(freep) double *gram = malloc((n + 1) * sizeof(*gram));

	if (!gram)
		return -ENOMEM;
	memcpy(gram, f->gram, n * sizeof(*gram));
	memcpy(ret, f->cross, (size_t)f->n * f->rows * sizeof(*ret));
	return solve(gram, f->n, ret, f->rows, reason);
}

int refit_factors(const struct refit *f, const double *u, double *ret, struct reason *reason)
{
	const struct blas_gemm gemm = {
		.m = f->n, .n = f->n, .k = f->rows, .transpose_b = true, .alpha = 1};
	_cleanup_(freep) double *m = malloc(((size_t)f->n * f->n + 1) * sizeof(*m));

	if (!m)
		return -ENOMEM;
	blas_gemm_f64(&gemm, u, u, m);
	for (size_t i = 0; i < (size_t)f->n * f->n; i++)
		m[i] *= f->gram[i];
	for (size_t i = 0; i < f->n; i++) {
		ret[i] = 0;
		for (size_t r = 0; r < f->rows; r++)
			ret[i] += u[i * f->rows + r] * f->cross[i * f->rows + r];
	}
	return solve(m, f->n, ret, 1, reason);
}

#include "compress/whitened.h"

#include "kernels/blas.h"

#include <math.h>
#include <string.h>

struct whitened_basis *whitened_basis_free(struct whitened_basis *b)
{
	if (!b)
		return NULL;
	free(b->u);
	free(b->v);
	free(b->sigma);
	free(b);
	return NULL;
}

static double *buffer(size_t a, size_t b)
{
	return malloc((a * b + 1) * sizeof(double));
}

static int basis_room(struct whitened_basis *b)
{
	b->rank = (uint32_t)min_u64(b->rows, b->cols);
	b->u = buffer(b->rank, b->rows);
	b->v = buffer(b->rank, b->cols);
	b->sigma = buffer(b->rank, 1);
	return b->u && b->v && b->sigma ? 0 : -ENOMEM;
}

/* ret = L_g^T D L_h. */
static void whiten(const struct whitened_basis *b, const double *d, double *scratch, double *ret)
{
	size_t n = (size_t)b->rows * b->cols;
	const struct blas_gemm left = {
		.m = b->rows, .n = b->cols, .k = b->rows, .transpose_a = true, .alpha = 1};
	const struct blas_gemm right = {.m = b->rows, .n = b->cols, .k = b->cols, .alpha = 1};

	if (b->g->root)
		blas_gemm_f64(&left, b->g->root, d, scratch);
	else
		memcpy(scratch, d, n * sizeof(*d));
	if (b->h->root)
		blas_gemm_f64(&right, scratch, b->h->root, ret);
	else
		memcpy(ret, scratch, n * sizeof(*d));
}

/* Rows of x (n x metric->n) become L^-T x. */
static void unwhiten(const struct metric *metric, double *x, size_t n)
{
	const struct blas_solve solve = {
		.m = n, .n = metric->n, .triangle = BLAS_LOWER, .right = true};

	if (metric->root)
		blas_triangle_solve(&solve, metric->root, x);
}

static void transpose(double *ret, const double *x, size_t rows, size_t cols)
{
	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < cols; c++)
			ret[c * rows + r] = x[r * cols + c];
}

static int decompose(struct whitened_basis *b, double *white, double *left, struct reason *reason)
{
	int r = blas_svd(white, b->rows, b->cols, left, b->sigma, b->v);

	if (r > 0)
		return reason_set(
			reason, -EDOM, "a matrix of %u x %u has no whitened SVD", b->rows, b->cols);
	if (r < 0)
		return r;
	transpose(b->u, left, b->rows, b->rank);
	unwhiten(b->g, b->u, b->rank);
	unwhiten(b->h, b->v, b->rank);
	return 0;
}

int whitened_basis_new(const float *target, const struct metric *g, const struct metric *h,
	struct whitened_basis **ret, struct reason *reason)
{
	_cleanup_(whitened_basis_freep) struct whitened_basis *b = calloc(1, sizeof(*b));
	_cleanup_(freep) double *d = buffer(g->n, h->n);
	_cleanup_(freep) double *scratch = buffer(g->n, h->n);
	_cleanup_(freep) double *white = buffer(g->n, h->n);
	int r;

	if (!b || !d || !scratch || !white)
		return -ENOMEM;
	b->rows = g->n;
	b->cols = h->n;
	b->g = g;
	b->h = h;
	b->target = target;
	r = basis_room(b);
	if (r < 0)
		return r;
	for (size_t i = 0; i < (size_t)b->rows * b->cols; i++)
		d[i] = (double)target[i];
	whiten(b, d, scratch, white);
	r = decompose(b, white, scratch, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(b);
	return 0;
}

#include "common/random.h"
#include "compress/product.h"
#include "compress/svd.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define SMALL_SIDE 512u
#define OVERSAMPLING 64u
#define POWER_ITERATIONS 2u
#define SEED UINT64_C(0x73766473756273)
/* Squares of singular values below this share of the largest are noise of the Gram matrix. */
#define LEAST_EIGENVALUE 1e-12
/* Cholesky's factor is trusted while its diagonal does not fall below this. */
#define LEAST_PIVOT 1e-6

/* Operations, in those of a product: LAPACK's reductions wait for memory and take about three times
 * as long for each. */
enum svd_route svd_route(uint32_t rows, uint32_t cols, uint32_t n)
{
	double s = rows < cols ? rows : cols, l = rows < cols ? cols : rows;
	double k = fmin(s, (double)n + OVERSAMPLING);
	double exact = 3 * (4 * l * s * s + 22 * s * s * s);
	double eigen = 3 * 9;
	double gram = 2 * l * s * s + eigen * s * s * s + 2 * l * s * k;
	double products = 2 * (POWER_ITERATIONS + 1) + 1; /* with the matrix */
	double randomised = 2 * l * s * k * products + 3 * (l + s) * k * k * POWER_ITERATIONS +
			    eigen * k * k * k;

	if (s <= SMALL_SIDE)
		return SVD_EXACT;
	if (exact <= gram && exact <= randomised)
		return SVD_EXACT;
	return gram <= randomised ? SVD_GRAM : SVD_RANDOMISED;
}

static void multiply(struct pool *pool, const struct blas_gemm *gemm, const double *a,
	const double *b, double *c)
{
	struct blas_gemm product = *gemm;

	product.alpha = 1;
	product_f64(pool, &product, a, b, c);
}

/* The matrix with its shorter side down, A: s x l. */
struct leading {
	struct pool *pool;
	uint32_t s, l, k;
	double *a;
};

/* Rows of y (k x width) become orthonormal and span the same; those that do not matter are zeros.
 * By eigenvectors, which stand any condition. */
static int orthonormalise_slowly(struct pool *pool, double *y, uint32_t k, uint32_t width)
{
	_cleanup_(freep) double *gram = malloc((size_t)k * k * sizeof(*gram));
	_cleanup_(freep) double *values = malloc(k * sizeof(*values));
	_cleanup_(freep) double *old = malloc((size_t)k * width * sizeof(*old));
	struct blas_gemm inner = {.m = k, .n = k, .k = width, .transpose_b = true};
	struct blas_gemm turn = {.m = k, .n = width, .k = k};
	int r;

	if (!gram || !values || !old)
		return -ENOMEM;
	multiply(pool, &inner, y, y, gram);
	r = blas_eigen(gram, k, values);
	if (r != 0)
		return r < 0 ? r : -EDOM;
	for (uint32_t i = 0; i < k; i++) {
		double least = LEAST_EIGENVALUE * values[k - 1];
		double scale = values[i] > least ? 1 / sqrt(values[i]) : 0;

		for (uint32_t j = 0; j < k; j++)
			gram[(size_t)i * k + j] *= scale;
	}
	memcpy(old, y, (size_t)k * width * sizeof(*old));
	multiply(pool, &turn, gram, old, y);
	return 0;
}

static bool is_trusted(const double *factor, uint32_t k)
{
	double least = INFINITY, most = 0;

	for (uint32_t i = 0; i < k; i++) {
		double pivot = factor[(size_t)i * k + i];

		least = fmin(least, pivot);
		most = fmax(most, pivot);
	}
	return least > LEAST_PIVOT * most;
}

/* y = L q with y y^T = L L^T. 1 where the rows are too nearly dependent for it. */
static int orthonormalise_once(struct pool *pool, double *y, uint32_t k, uint32_t width)
{
	_cleanup_(freep) double *gram = malloc((size_t)k * k * sizeof(*gram));
	_cleanup_(freep) double *old = malloc((size_t)k * width * sizeof(*old));
	struct blas_gemm inner = {.m = k, .n = k, .k = width, .transpose_b = true};
	struct blas_gemm turn = {.m = k, .n = width, .k = k};
	int r;

	if (!gram || !old)
		return -ENOMEM;
	multiply(pool, &inner, y, y, gram);
	r = blas_cholesky(gram, k, BLAS_LOWER);
	if (r != 0 || !is_trusted(gram, k))
		return r < 0 ? r : 1;
	r = blas_triangle_inverse(gram, k, BLAS_LOWER);
	if (r != 0)
		return r < 0 ? r : 1;
	for (uint32_t i = 0; i < k; i++)
		memset(gram + (size_t)i * k + i + 1, 0, (k - i - 1) * sizeof(*gram));
	memcpy(old, y, (size_t)k * width * sizeof(*old));
	multiply(pool, &turn, gram, old, y);
	return 0;
}

/* Twice, so that what the first left of dependence is gone. */
static int orthonormalise(struct pool *pool, double *y, uint32_t k, uint32_t width)
{
	for (int time = 0; time < 2; time++) {
		int r = orthonormalise_once(pool, y, k, width);

		if (r > 0)
			r = orthonormalise_slowly(pool, y, k, width);
		if (r < 0)
			return r;
	}
	return 0;
}

/* An orthonormal basis (k x s, rows) of nearly all that the first singular vectors span. */
static int find_subspace(const struct leading *l, double *q)
{
	_cleanup_(freep) double *z = malloc((size_t)l->k * l->l * sizeof(*z));
	struct blas_gemm there = {.m = l->k, .n = l->l, .k = l->s};
	struct blas_gemm back = {.m = l->k, .n = l->s, .k = l->l, .transpose_b = true};
	int r = 0;

	if (!z)
		return -ENOMEM;
	for (size_t i = 0; i < (size_t)l->k * l->l; i++)
		z[i] = 2 * random_share(random_at(SEED, i)) - 1;
	multiply(l->pool, &back, z, l->a, q);
	for (uint32_t i = 0; r == 0 && i < POWER_ITERATIONS; i++) {
		r = orthonormalise(l->pool, q, l->k, l->s);
		if (r < 0)
			return r;
		multiply(l->pool, &there, q, l->a, z);
		r = orthonormalise(l->pool, z, l->k, l->l);
		if (r == 0)
			multiply(l->pool, &back, z, l->a, q);
	}
	if (r == 0)
		r = orthonormalise(l->pool, q, l->k, l->s);
	return r;
}

/* Vectors of unit length become those of unit mean square. */
static void set_vector(double *to, const double *from, size_t n, double scale)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += from[i] * from[i];
	scale = sum > 0 ? scale / sqrt(sum) : 0;
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] * scale;
}

/* B = Q A is k x l; its Gram matrix's eigenvectors W give left vectors W Q and right ones W B. */
static int decompose(
	const struct leading *l, const double *q, const double *b, uint32_t n, struct svd *ret)
{
	double *left = ret->rows == l->s ? ret->u : ret->v;
	double *right = ret->rows == l->s ? ret->v : ret->u;
	_cleanup_(freep) double *gram = malloc((size_t)l->k * l->k * sizeof(*gram));
	_cleanup_(freep) double *values = malloc(l->k * sizeof(*values));
	_cleanup_(freep) double *first = malloc((size_t)n * l->k * sizeof(*first));
	struct blas_gemm inner = {.m = l->k, .n = l->k, .k = l->l, .transpose_b = true};
	struct blas_gemm to_left = {.m = n, .n = l->s, .k = l->k};
	struct blas_gemm to_right = {.m = n, .n = l->l, .k = l->k};
	int r;

	if (!gram || !values || !first)
		return -ENOMEM;
	multiply(l->pool, &inner, b, b, gram);
	r = blas_eigen(gram, l->k, values);
	if (r != 0)
		return r < 0 ? r : -EDOM;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t from = l->k - 1 - i;
		bool counts = values[from] > LEAST_EIGENVALUE * values[l->k - 1];

		ret->sigma[i] = counts ? sqrt(values[from] / ((double)l->s * l->l)) : 0;
		for (uint32_t j = 0; j < l->k; j++)
			first[(size_t)i * l->k + j] = counts ? gram[(size_t)from * l->k + j] : 0;
	}
	if (q)
		multiply(l->pool, &to_left, first, q, left);
	else
		memcpy(left, first, (size_t)n * l->k * sizeof(*left));
	multiply(l->pool, &to_right, first, b, right);
	for (uint32_t i = 0; i < n; i++) {
		set_vector(left + (size_t)i * l->s, left + (size_t)i * l->s, l->s, sqrt(l->s));
		set_vector(right + (size_t)i * l->l, right + (size_t)i * l->l, l->l, sqrt(l->l));
	}
	return 0;
}

/* Sets l->a; -EDOM if a number is not finite. */
static int widen(const struct svd_problem *p, struct leading *l, double *ret_total)
{
	double total = 0;

	l->a = malloc((size_t)p->rows * p->cols * sizeof(*l->a));
	if (!l->a)
		return -ENOMEM;
	for (uint32_t r = 0; r < p->rows; r++)
		for (uint32_t c = 0; c < p->cols; c++) {
			double value = (double)p->matrix[(size_t)r * p->cols + c];

			total += value * value;
			l->a[p->rows == l->s ? (size_t)r * p->cols + c : (size_t)c * p->rows + r] =
				value;
		}
	*ret_total = total / ((double)p->rows * p->cols);
	return isfinite(total) ? 0 : -EDOM;
}

static int solve(struct leading *l, const struct svd_problem *p, struct svd *s)
{
	_cleanup_(freep) double *q = NULL;
	_cleanup_(freep) double *b = NULL;
	struct blas_gemm project = {.m = l->k, .n = l->l, .k = l->s};
	int r;

	r = widen(p, l, &s->total);
	if (r < 0)
		return r;
	if (p->route == SVD_GRAM)
		return decompose(l, NULL, l->a, s->rank, s);
	q = malloc((size_t)l->k * l->s * sizeof(*q));
	b = malloc((size_t)l->k * l->l * sizeof(*b));
	if (!q || !b)
		return -ENOMEM;
	r = find_subspace(l, q);
	if (r < 0)
		return r;
	multiply(l->pool, &project, q, l->a, b);
	return decompose(l, q, b, s->rank, s);
}

static int alloc(const struct svd_problem *p, uint32_t n, struct svd **ret)
{
	_cleanup_(svd_freep) struct svd *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	*s = (struct svd){.rows = p->rows, .cols = p->cols, .rank = n};
	s->u = malloc(((size_t)n * p->rows + 1) * sizeof(*s->u));
	s->v = malloc(((size_t)n * p->cols + 1) * sizeof(*s->v));
	s->sigma = malloc(((size_t)n + 1) * sizeof(*s->sigma));
	if (!s->u || !s->v || !s->sigma)
		return -ENOMEM;
	*ret = take_ptr(s);
	return 0;
}

int svd_solve(
	struct pool *pool, const struct svd_problem *p, struct svd **ret, struct reason *reason)
{
	_cleanup_(svd_freep) struct svd *s = NULL;
	struct leading l = {
		.pool = pool,
		.s = p->rows < p->cols ? p->rows : p->cols,
		.l = p->rows < p->cols ? p->cols : p->rows,
	};
	uint32_t n = (uint32_t)min_u64(p->n, l.s);
	int r;

	if (p->route == SVD_EXACT) {
		r = svd_new(p->matrix, p->rows, p->cols, ret, reason);
		if (r == 0)
			svd_truncate(*ret, n);
		return r;
	}
	l.k = p->route == SVD_GRAM ? l.s : (uint32_t)min_u64((uint64_t)n + OVERSAMPLING, l.s);
	r = alloc(p, n, &s);
	if (r == 0)
		r = solve(&l, p, s);
	free(l.a);
	if (r == -EDOM)
		return reason_set(reason, r,
			"the singular values of a %u x %u matrix cannot be found: its numbers are "
			"not finite",
			p->rows, p->cols);
	if (r < 0)
		return r;
	*ret = take_ptr(s);
	return 0;
}

int svd_leading(struct pool *pool, const float *matrix, uint32_t rows, uint32_t cols, uint32_t n,
	struct svd **ret, struct reason *reason)
{
	const struct svd_problem p = {
		.matrix = matrix,
		.rows = rows,
		.cols = cols,
		.n = n,
		.route = svd_route(rows, cols, n),
	};

	return svd_solve(pool, &p, ret, reason);
}

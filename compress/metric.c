#include "compress/metric.h"

#include "compress/cholesky.h"
#include "kernels/blas.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct metric *metric_free(struct metric *m)
{
	if (!m)
		return NULL;
	free(m->matrix);
	free(m->feedback);
	free(m->weights);
	free(m->root);
	free(m);
	return NULL;
}

static int metric_empty(uint32_t n, struct metric **ret)
{
	_cleanup_(metric_freep) struct metric *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->n = n;
	m->mean = 1;
	m->weights = malloc(((size_t)n + 1) * sizeof(*m->weights));
	if (!m->weights)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		m->weights[i] = 1;
	*ret = take_ptr(m);
	return 0;
}

/* Finds the mean of the diagonal. Moments of nothing weigh nothing; the factors still must exist.
 */
static int check_moments(struct metric *m, const float *moments, struct reason *reason)
{
	size_t n = m->n;
	double sum = 0;

	for (size_t i = 0; i < n * n; i++)
		if (!isfinite(moments[i]))
			return reason_set(reason, -EDOM,
				"the second moments of %zu numbers are not finite", n);
	for (size_t i = 0; i < n; i++)
		sum += (double)moments[i * n + i];
	m->mean = sum > 0 ? sum / (double)n : (double)FLT_MIN;
	return 0;
}

/* A number of the damped matrix. */
static double damped(
	const struct metric *m, const float *moments, double damping, size_t i, size_t j)
{
	double value = (double)moments[i * m->n + j] / (1 + damping);
	bool nothing = m->mean <= (double)FLT_MIN;

	return i == j ? value + (damping + nothing) * m->mean / (1 + damping) : value;
}

/* ret = the matrix with rows and columns in reversed order. */
static void reverse(double *ret, const double *matrix, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			ret[i * n + j] = matrix[(n - 1 - i) * n + (n - 1 - j)];
}

static int no_factor(const struct metric *m, struct reason *reason)
{
	return reason_set(
		reason, -EDOM, "the second moments of %u numbers have no Cholesky factor", m->n);
}

/* With J the reversal, J M J = L L^T gives M = (J L J) (J L J)^T, and J L J is upper. */
static void take_feedback(struct metric *m, const double *lower)
{
	size_t n = m->n;

	for (size_t j = 0; j < n; j++)
		m->weights[j] = lower[(n - 1 - j) * (n + 1)];
	for (size_t i = 0; i < n; i++) {
		const double *row = lower + (n - 1 - i) * n;

		for (size_t j = 0; j < n; j++)
			m->feedback[i * n + j] =
				i > j ? 0 : (float)(row[n - 1 - j] / m->weights[j]);
	}
	for (size_t j = 0; j < n; j++)
		m->weights[j] *= m->weights[j];
}

static int factorise(struct metric *m, struct reason *reason)
{
	size_t n = m->n;
	_cleanup_(freep) double *lower = malloc((n * n + 1) * sizeof(*lower));
	int r;

	if (!lower)
		return -ENOMEM;
	memcpy(m->root, m->matrix, n * n * sizeof(*m->root));
	reverse(lower, m->matrix, n);
	r = blas_cholesky(m->root, n, BLAS_LOWER);
	if (r == 0)
		r = blas_cholesky(lower, n, BLAS_LOWER);
	if (r > 0)
		return no_factor(m, reason);
	for (size_t i = 0; i < n; i++)
		memset(m->root + i * n + i + 1, 0, (n - i - 1) * sizeof(*m->root));
	take_feedback(m, lower);
	return 0;
}

int metric_new(const float *moments, uint32_t n, double damping, struct metric **ret,
	struct reason *reason)
{
	_cleanup_(metric_freep) struct metric *m = NULL;
	size_t room = (size_t)n * n + 1;
	int r;

	r = metric_empty(n, &m);
	if (r < 0)
		return r;
	if (moments) {
		m->matrix = malloc(room * sizeof(*m->matrix));
		m->feedback = malloc(room * sizeof(*m->feedback));
		m->root = malloc(room * sizeof(*m->root));
		if (!m->matrix || !m->feedback || !m->root)
			return -ENOMEM;
		r = check_moments(m, moments, reason);
		if (r < 0)
			return r;
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < n; j++)
				m->matrix[i * n + j] = damped(m, moments, damping, i, j);
		r = factorise(m, reason);
		if (r < 0)
			return r;
	}
	*ret = take_ptr(m);
	return 0;
}

int metric_new_feedback(struct pool *pool, const float *moments, uint32_t n, double damping,
	struct metric **ret, struct reason *reason)
{
	_cleanup_(metric_freep) struct metric *m = NULL;
	_cleanup_(freep) double *lower = malloc(((size_t)n * n + 1) * sizeof(*lower));
	int r = metric_empty(n, &m);

	if (r < 0)
		return r;
	m->feedback = malloc(((size_t)n * n + 1) * sizeof(*m->feedback));
	if (!lower || !m->feedback)
		return -ENOMEM;
	r = check_moments(m, moments, reason);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j <= i; j++)
			lower[i * n + j] = damped(m, moments, damping, n - 1 - i, n - 1 - j);
	r = cholesky_factor(pool, lower, n);
	if (r != 0)
		return r < 0 ? r : no_factor(m, reason);
	take_feedback(m, lower);
	*ret = take_ptr(m);
	return 0;
}

static float *narrow(const double *matrix, size_t n)
{
	float *ret = malloc((n + 1) * sizeof(*ret));

	for (size_t i = 0; ret && i < n; i++)
		ret[i] = (float)matrix[i];
	return ret;
}

/* ret = G E */
static int weigh_rows(const struct metric *g, const float *e, size_t cols, float *ret)
{
	const struct blas_gemm gemm = {.m = g->n, .n = cols, .k = g->n, .alpha = 1};
	_cleanup_(freep) float *matrix = NULL;

	if (g->matrix) {
		matrix = narrow(g->matrix, (size_t)g->n * g->n);
		if (!matrix)
			return -ENOMEM;
		blas_gemm_f32(&gemm, matrix, e, ret);
		return 0;
	}
	for (size_t r = 0; r < g->n; r++)
		for (size_t c = 0; c < cols; c++)
			ret[r * cols + c] = (float)g->weights[r] * e[r * cols + c];
	return 0;
}

/* ret = E H */
static int weigh_columns(const struct metric *h, const float *e, size_t rows, float *ret)
{
	const struct blas_gemm gemm = {.m = rows, .n = h->n, .k = h->n, .alpha = 1};
	_cleanup_(freep) float *matrix = NULL;

	if (h->matrix) {
		matrix = narrow(h->matrix, (size_t)h->n * h->n);
		if (!matrix)
			return -ENOMEM;
		blas_gemm_f32(&gemm, e, matrix, ret);
		return 0;
	}
	for (size_t r = 0; r < rows; r++)
		for (size_t c = 0; c < h->n; c++)
			ret[r * h->n + c] = (float)h->weights[c] * e[r * h->n + c];
	return 0;
}

/* Moments have more digits than this needs: products in f32, their sum in double. */
int metric_loss(const struct metric *g, const struct metric *h, const float *error, double *ret)
{
	size_t n = (size_t)g->n * h->n;
	_cleanup_(freep) float *ge = malloc((2 * n + 1) * sizeof(*ge));
	float *eh = ge + n;
	double sum = 0;
	int r = ge ? weigh_rows(g, error, h->n, ge) : -ENOMEM;

	if (r == 0)
		r = weigh_columns(h, error, g->n, eh);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		sum += (double)ge[i] * (double)eh[i];
	*ret = sum;
	return 0;
}

#include "compress/whitened.h"

#include "compress/ldlq.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define SIGMA_BITS 32.0

/* One factor on its way: n x length codes, weighed by `metric` along the length. */
struct side {
	uint32_t length;
	const struct metric *metric;
	int8_t *codes;
	double bits;
};

struct quantiser {
	const struct whitened_basis *basis;
	const struct whitened_settings *settings;
	uint32_t n;
	struct side u, v;
	double *values; /* n x the longer side: codes of the other side as numbers */
	double *cross;  /* likewise: a product with them */
	double *gram;   /* n x n: of the other side, in its metric */
	double *solved; /* n x the longer side */
	float *target;  /* likewise */
	float *error;
	double *sigma;
	double loss;
};

struct whitened *whitened_free(struct whitened *w)
{
	if (!w)
		return NULL;
	free(w->u);
	free(w->v);
	free(w->sigma);
	free(w);
	return NULL;
}

static void quantiser_done(struct quantiser *q)
{
	free(q->u.codes);
	free(q->v.codes);
	free(q->values);
	free(q->cross);
	free(q->gram);
	free(q->solved);
	free(q->target);
	free(q->error);
	free(q->sigma);
}

static int quantiser_room(struct quantiser *q)
{
	size_t longer = max_u64(q->u.length, q->v.length), n = (size_t)q->n * longer + 1;

	q->u.codes = malloc((size_t)q->n * q->u.length + 1);
	q->v.codes = malloc((size_t)q->n * q->v.length + 1);
	q->values = malloc(n * sizeof(double));
	q->cross = malloc(n * sizeof(double));
	q->gram = malloc(((size_t)q->n * q->n + 1) * sizeof(double));
	q->solved = malloc(n * sizeof(double));
	q->target = malloc(n * sizeof(float));
	q->error = malloc(n * sizeof(float));
	q->sigma = malloc(((size_t)q->n + 1) * sizeof(double));
	return q->u.codes && q->v.codes && q->values && q->cross && q->gram && q->solved &&
			       q->target && q->error && q->sigma
		       ? 0
		       : -ENOMEM;
}

/* Codes of q->target (n x length) with rows weighed by `rows`. */
static int round_side(struct quantiser *q, struct side *side, const struct metric *rows)
{
	const struct ldlq_problem problem = {
		.rows = q->n,
		.cols = side->length,
		.target = q->target,
		.g = rows,
		.h = side->metric,
		.step = q->settings->step * ldlq_step(rows, side->metric, q->settings->lambda),
		.lambda = q->settings->lambda,
		.n_sweeps = LDLQ_SWEEPS,
	};
	struct ldlq result = {.codes = side->codes, .error = q->error};
	int r = ldlq_run(&problem, &result);

	side->bits = result.bits;
	return r;
}

/* Numbers of a side's codes, and their Gram matrix in its metric. */
static void gram_of(struct quantiser *q, const struct side *side)
{
	const struct blas_gemm weigh = {
		.m = q->n, .n = side->length, .k = side->length, .alpha = 1};
	const struct blas_gemm gram = {
		.m = q->n, .n = q->n, .k = side->length, .transpose_b = true, .alpha = 1};
	size_t n = (size_t)q->n * side->length;

	for (size_t i = 0; i < n; i++)
		q->values[i] = side->codes[i];
	if (side->metric->matrix)
		blas_gemm_f64(&weigh, q->values, side->metric->matrix, q->cross);
	else
		memcpy(q->cross, q->values, n * sizeof(double));
	blas_gemm_f64(&gram, q->cross, q->values, q->gram);
}

/* Throws away components that a side has rounded to nothing. */
static void drop_empty(struct quantiser *q, const struct side *side)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < q->n; i++) {
		bool empty = true;

		for (uint32_t k = 0; empty && k < side->length; k++)
			empty = side->codes[(size_t)i * side->length + k] == 0;
		if (empty)
			continue;
		memmove(q->u.codes + (size_t)kept * q->u.length,
			q->u.codes + (size_t)i * q->u.length, q->u.length);
		memmove(q->v.codes + (size_t)kept * q->v.length,
			q->v.codes + (size_t)i * q->v.length, q->v.length);
		kept++;
	}
	q->n = kept;
}

/*
 * Solves the free side for the codes of the fixed one and rounds it. With codes F (n x a) in the
 * metric A, the best free side is (F A F^T)^-1 F A D (or with D^T), and an error dC of it costs
 * tr(F A F^T dC B dC^T). Rows are scaled so that the first factor has a diagonal of ones: then all
 * of them take the same step.
 */
static int solve_and_round(struct quantiser *q, const struct side *fixed, struct side *free_side)
{
	bool fixed_is_u = fixed == &q->u;
	const struct blas_gemm project = {
		.m = q->n,
		.n = free_side->length,
		.k = fixed->length,
		.transpose_b = !fixed_is_u,
		.alpha = 1,
	};
	const struct blas_solve forward = {
		.m = q->n, .n = free_side->length, .triangle = BLAS_LOWER};
	struct blas_solve backward = forward;
	_cleanup_(metric_freep) struct metric *rows = NULL;
	_cleanup_(freep) float *moments = malloc(((size_t)q->n * q->n + 1) * sizeof(*moments));
	int r;

	if (!moments)
		return -ENOMEM;
	gram_of(q, fixed);
	for (uint32_t i = 0; i < q->n; i++)
		q->sigma[i] = sqrt(q->gram[(size_t)i * q->n + i]);
	for (uint32_t i = 0; i < q->n; i++)
		for (uint32_t k = 0; k < q->n; k++)
			moments[(size_t)i * q->n + k] =
				(float)(q->gram[(size_t)i * q->n + k] / q->sigma[i] / q->sigma[k]);
	/* Components may be nearly the same after rounding. */
	r = metric_new(moments, q->n, 1e-4, &rows, NULL);
	if (r < 0)
		return r;
	blas_gemm_f64(&project, q->values, fixed_is_u ? q->basis->gd : q->basis->dh, q->solved);
	for (uint32_t i = 0; i < q->n; i++)
		for (uint32_t k = 0; k < free_side->length; k++)
			q->solved[(size_t)i * free_side->length + k] /= q->sigma[i];
	backward.transpose = true;
	blas_triangle_solve(&forward, rows->root, q->solved);
	blas_triangle_solve(&backward, rows->root, q->solved);
	for (size_t i = 0; i < (size_t)q->n * free_side->length; i++)
		q->target[i] = (float)q->solved[i];
	r = round_side(q, free_side, rows);
	if (r < 0)
		return r;
	drop_empty(q, free_side);
	return 0;
}

/* The first side: U is exact, and its Gram matrix the identity. */
static int round_first(struct quantiser *q)
{
	const struct whitened_basis *b = q->basis;
	_cleanup_(metric_freep) struct metric *rows = NULL;
	int r = metric_new(NULL, q->n, 0, &rows, NULL);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < q->n; i++)
		for (uint32_t k = 0; k < b->cols; k++)
			q->target[(size_t)i * b->cols + k] =
				(float)(b->sigma[i] * b->v[(size_t)i * b->cols + k]);
	memset(q->u.codes, 1, (size_t)q->n * q->u.length);
	r = round_side(q, &q->v, rows);
	if (r == 0)
		drop_empty(q, &q->v);
	return r;
}

/*
 * Sigma that lowers the loss most: A sigma = b, A_ij = (u_i G u_j)(v_i H v_j), b_i = u_i G D H v_i.
 * The loss is then energy - b sigma.
 */
static int refit_sigma(struct quantiser *q)
{
	const struct whitened_basis *b = q->basis;
	size_t n = q->n;
	_cleanup_(freep) double *a = malloc((n * n + 1) * sizeof(*a));
	_cleanup_(freep) double *right = malloc((n + 1) * sizeof(*right));
	_cleanup_(freep) double *full = malloc((n * n + 1) * sizeof(*full));
	const struct blas_gemm project = {.m = n, .n = b->cols, .k = b->rows, .alpha = 1};
	struct blas_solve solve = {.m = n, .n = 1, .triangle = BLAS_LOWER};
	int r;

	if (!a || !right || !full)
		return -ENOMEM;
	gram_of(q, &q->v);
	memcpy(a, q->gram, n * n * sizeof(*a));
	gram_of(q, &q->u);
	for (size_t i = 0; i < n * n; i++)
		a[i] *= q->gram[i];
	blas_gemm_f64(&project, q->values, b->gdh, q->solved);
	for (size_t i = 0; i < n; i++) {
		right[i] = 0;
		for (size_t k = 0; k < b->cols; k++)
			right[i] += q->solved[i * b->cols + k] * q->v.codes[i * b->cols + k];
	}
	for (size_t i = 0; i < n; i++)
		a[i * n + i] *= 1 + 1e-9;
	memcpy(full, a, n * n * sizeof(*a));
	memcpy(q->sigma, right, n * sizeof(*right));
	r = blas_cholesky(a, n, BLAS_LOWER);
	if (r > 0)
		return -EDOM;
	blas_triangle_solve(&solve, a, q->sigma);
	solve.transpose = true;
	blas_triangle_solve(&solve, a, q->sigma);
	/* As floats, which the file holds. */
	q->loss = b->energy;
	for (size_t i = 0; i < n; i++)
		q->sigma[i] = (double)(float)q->sigma[i];
	for (size_t i = 0; i < n; i++) {
		double product = 0;

		for (size_t k = 0; k < n; k++)
			product += full[i * n + k] * q->sigma[k];
		q->loss += q->sigma[i] * (product - 2 * right[i]);
	}
	return 0;
}

static int quantise(struct quantiser *q)
{
	int r = round_first(q);

	for (uint32_t round = 0; r == 0 && q->n > 0 && round < q->settings->n_rounds; round++) {
		if (round > 0)
			r = solve_and_round(q, &q->u, &q->v);
		if (r == 0 && q->n > 0)
			r = solve_and_round(q, &q->v, &q->u);
	}
	if (r < 0)
		return r;
	q->loss = q->basis->energy;
	return q->n > 0 ? refit_sigma(q) : 0;
}

static int result_of(struct quantiser *q, struct whitened **ret)
{
	_cleanup_(whitened_freep) struct whitened *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->rows = q->basis->rows;
	w->cols = q->basis->cols;
	w->n = q->n;
	w->sigma = malloc(((size_t)q->n + 1) * sizeof(*w->sigma));
	if (!w->sigma)
		return -ENOMEM;
	for (uint32_t i = 0; i < q->n; i++)
		w->sigma[i] = (float)q->sigma[i];
	w->u = take_ptr(q->u.codes);
	w->v = take_ptr(q->v.codes);
	w->loss = q->loss;
	w->bits = q->n > 0 ? q->u.bits + q->v.bits + SIGMA_BITS * q->n : 0;
	*ret = take_ptr(w);
	return 0;
}

/* Components that might be worth a sigma and a bit for each of some elements. */
static uint32_t promising(const struct whitened_basis *b, const struct whitened_settings *s)
{
	uint32_t n = 0, most = (uint32_t)min_u64(b->rank, s->max_rank);

	while (n < most && b->sigma[n] * b->sigma[n] > 2 * SIGMA_BITS * s->lambda)
		n++;
	return n;
}

int whitened_quantise(const struct whitened_basis *basis, const struct whitened_settings *settings,
	struct whitened **ret)
{
	_cleanup_(quantiser_done) struct quantiser q = {
		.basis = basis,
		.settings = settings,
		.n = promising(basis, settings),
		.u = {.length = basis->rows, .metric = basis->g},
		.v = {.length = basis->cols, .metric = basis->h},
	};
	int r = quantiser_room(&q);

	if (r == 0)
		r = quantise(&q);
	if (r < 0)
		return r;
	return result_of(&q, ret);
}

int whitened_values(const struct whitened *w, float *ret)
{
	_cleanup_(freep) float *u = malloc(((size_t)w->n * w->rows + 1) * sizeof(*u));
	_cleanup_(freep) float *v = malloc(((size_t)w->n * w->cols + 1) * sizeof(*v));
	const struct blas_gemm gemm = {
		.m = w->rows, .n = w->cols, .k = w->n, .transpose_a = true, .alpha = 1};

	if (!u || !v)
		return -ENOMEM;
	if (w->n == 0) {
		memset(ret, 0, (size_t)w->rows * w->cols * sizeof(*ret));
		return 0;
	}
	for (uint32_t i = 0; i < w->n; i++) {
		for (uint32_t k = 0; k < w->rows; k++)
			u[(size_t)i * w->rows + k] = w->sigma[i] * w->u[(size_t)i * w->rows + k];
		for (uint32_t k = 0; k < w->cols; k++)
			v[(size_t)i * w->cols + k] = w->v[(size_t)i * w->cols + k];
	}
	blas_gemm_f32(&gemm, u, v, ret);
	return 0;
}

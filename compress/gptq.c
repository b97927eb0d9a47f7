#include "compress/gptq.h"

#include "compress/cholesky.h"
#include "compress/triangle.h"
#include "kernels/blas.h"
#include "kernels/types.h"

#include <math.h>
#include <string.h>

#define BLOCK 128u /* columns whose errors reach the rest in one product */

struct gptq {
	uint32_t n;
	uint32_t *order; /* order[p]: the column that the sweep meets at step p */
	bool *dead;      /* by column: no input ever */
	double *factor;  /* n x n, upper, in sweep order: T with H^-1 = T^T T */
};

struct diagonal {
	double value;
	uint32_t column;
};

/* Rows of the matrix that are swept together, column after column. */
struct sweep {
	const struct gptq *g;
	struct qvectors *q;
	uint32_t first; /* vector (along) or element (across) of work's first row */
	size_t n_rows;
	double *work;   /* g->n x n_rows, in sweep order; what is still to be quantised */
	double *errors; /* BLOCK x n_rows */
	void (*quantise)(struct sweep *s, uint32_t step);
	const struct gptq_rounding *rounding; /* instead of q */
};

struct gptq *gptq_free(struct gptq *g)
{
	if (!g)
		return NULL;
	free(g->order);
	free(g->dead);
	free(g->factor);
	free(g);
	return NULL;
}

/* Falling values; equal ones in the order of columns, so that the order is the same everywhere. */
static int compare_diagonal(const void *left, const void *right)
{
	const struct diagonal *a = left, *b = right;

	if (a->value != b->value)
		return a->value > b->value ? -1 : 1;
	return a->column < b->column ? -1 : 1;
}

static int choose_order(struct gptq *g, const double *hessian)
{
	_cleanup_(freep) struct diagonal *diagonal = malloc((g->n + 1) * sizeof(*diagonal));

	if (!diagonal)
		return -ENOMEM;
	for (uint32_t i = 0; i < g->n; i++) {
		double value = hessian[(size_t)i * g->n + i];

		g->dead[i] = value == 0;
		diagonal[i] = (struct diagonal){.value = g->dead[i] ? 1 : value, .column = i};
	}
	qsort(diagonal, g->n, sizeof(*diagonal), compare_diagonal);
	for (uint32_t p = 0; p < g->n; p++)
		g->order[p] = diagonal[p].column;
	return 0;
}

/* H with its damping in g->factor, the last column of the sweep first. */
static void place_hessian(struct gptq *g, const double *hessian)
{
	double sum = 0;

	for (uint32_t i = 0; i < g->n; i++) {
		uint32_t row = g->order[g->n - 1 - i];
		double *to = g->factor + (size_t)i * g->n;

		for (uint32_t k = 0; k < g->n; k++)
			to[k] = hessian[(size_t)row * g->n + g->order[g->n - 1 - k]];
		if (g->dead[row])
			to[i] = 1;
		sum += to[i];
	}
	for (uint32_t i = 0; i < g->n; i++)
		g->factor[(size_t)i * g->n + i] += GPTQ_DAMPING * sum / g->n;
}

/* With J the reversal, J H J = L L^T gives H = U U^T for U = J L J, upper, and H^-1 = T^T T for
 * T = U^-1 = J L^-1 J. */
static int invert(struct gptq *g, struct pool *pool, struct reason *reason)
{
	size_t n = (size_t)g->n * g->n;
	int r;

	r = cholesky_factor(pool, g->factor, g->n);
	if (r == 0)
		r = triangle_inverse(pool, g->factor, g->n);
	if (r > 0)
		return reason_set(reason, -EDOM,
			"the second moments of %u inputs have no Cholesky factor", g->n);
	for (size_t i = 0; r == 0 && i < n / 2; i++) {
		double first = g->factor[i];

		g->factor[i] = g->factor[n - 1 - i];
		g->factor[n - 1 - i] = first;
	}
	return r;
}

int gptq_new(struct pool *pool, const double *hessian, uint32_t n, struct gptq **ret,
	struct reason *reason)
{
	_cleanup_(gptq_freep) struct gptq *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	g->n = n;
	g->order = calloc((size_t)n + 1, sizeof(*g->order));
	g->dead = calloc((size_t)n + 1, sizeof(*g->dead));
	g->factor = malloc(((size_t)n * n + 1) * sizeof(*g->factor));
	if (!g->order || !g->dead || !g->factor)
		return -ENOMEM;
	for (size_t i = 0; i < (size_t)n * n; i++)
		if (!isfinite(hessian[i]))
			return reason_set(
				reason, -EDOM, "the second moments of %u inputs are not finite", n);
	r = choose_order(g, hessian);
	if (r < 0)
		return r;
	place_hessian(g, hessian);
	r = invert(g, pool, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(g);
	return 0;
}

static void quantise_along(struct sweep *s, uint32_t step)
{
	double *values = s->work + step * s->n_rows;

	for (size_t i = 0; i < s->n_rows; i++)
		values[i] -=
			qvectors_put(s->q, s->first + (uint32_t)i, s->g->order[step], values[i]);
}

static void quantise_across(struct sweep *s, uint32_t step)
{
	uint32_t vector = s->g->order[step];
	double *values = s->work + step * s->n_rows;

	for (size_t i = 0; i < s->n_rows; i += QMAT_GROUP)
		qvectors_fit_grid(s->q, vector, (s->first + i) / QMAT_GROUP, values + i);
	for (size_t i = 0; i < s->n_rows; i++)
		values[i] -= qvectors_put(s->q, vector, s->first + (uint32_t)i, values[i]);
}

static void quantise_rounded(struct sweep *s, uint32_t step)
{
	uint32_t column = s->g->order[step];
	double *values = s->work + step * s->n_rows;

	for (size_t i = 0; i < s->n_rows; i++)
		values[i] -= s->rounding->round(
			s->rounding->arg, s->first + (uint32_t)i, column, values[i]);
}

/* Quantises column `step`; its error over T_pp stays in `error` and goes to the block's rest. */
static void sweep_column(struct sweep *s, uint32_t step, uint32_t end, double *error)
{
	const double *factors = s->g->factor + (size_t)step * s->g->n;
	double *values = s->work + step * s->n_rows;

	s->quantise(s, step);
	for (size_t i = 0; i < s->n_rows; i++)
		error[i] = values[i] / factors[step];
	for (uint32_t k = step + 1; k < end; k++) {
		double *rest = s->work + k * s->n_rows;

		for (size_t i = 0; i < s->n_rows; i++)
			rest[i] -= factors[k] * error[i];
	}
}

static void sweep_columns(struct sweep *s)
{
	uint32_t n = s->g->n;

	for (uint32_t begin = 0; begin < n; begin += BLOCK) {
		uint32_t end = (uint32_t)min_u64(begin + BLOCK, n);
		struct blas_gemm rest = {
			.m = n - end,
			.n = s->n_rows,
			.k = end - begin,
			.transpose_a = true,
			.alpha = -1,
			.beta = 1,
			.a_stride = n,
		};

		for (uint32_t p = begin; p < end; p++)
			sweep_column(s, p, end, s->errors + (p - begin) * s->n_rows);
		if (end < n)
			blas_gemm_f64(&rest, s->g->factor + (size_t)begin * n + end, s->errors,
				s->work + end * s->n_rows);
	}
}

static int sweep_run(struct sweep *s, const double *vectors, size_t step_stride, size_t row_stride)
{
	_cleanup_(freep) double *work = malloc((s->g->n * s->n_rows + 1) * sizeof(*work));
	_cleanup_(freep) double *errors = malloc((BLOCK * s->n_rows + 1) * sizeof(*errors));

	if (!work || !errors)
		return -ENOMEM;
	s->work = work;
	s->errors = errors;
	for (uint32_t p = 0; p < s->g->n; p++) {
		uint32_t column = s->g->order[p];

		for (size_t i = 0; i < s->n_rows; i++)
			work[p * s->n_rows + i] = s->g->dead[column]
							  ? 0
							  : vectors[column * step_stride +
								    (s->first + i) * row_stride];
	}
	sweep_columns(s);
	return 0;
}

int gptq_along(const struct gptq *g, const double *vectors, uint32_t first, uint32_t last,
	struct qvectors *q)
{
	struct sweep s = {
		.g = g, .q = q, .first = first, .n_rows = last - first, .quantise = quantise_along};

	for (uint32_t v = first; v < last; v++)
		for (size_t group = 0; group < q->n_groups; group++)
			qvectors_fit_grid(
				q, v, group, vectors + (size_t)v * q->length + group * QMAT_GROUP);
	return sweep_run(&s, vectors, 1, q->length);
}

int gptq_across(const struct gptq *g, const double *vectors, uint32_t first, uint32_t last,
	struct qvectors *q)
{
	struct sweep s = {.g = g,
		.q = q,
		.first = first,
		.n_rows = last - first,
		.quantise = quantise_across};

	return sweep_run(&s, vectors, q->length, 1);
}

int gptq_rows(const struct gptq *g, const double *matrix, uint32_t first, uint32_t last,
	const struct gptq_rounding *rounding)
{
	struct sweep s = {.g = g,
		.rounding = rounding,
		.first = first,
		.n_rows = last - first,
		.quantise = quantise_rounded};

	return sweep_run(&s, matrix, 1, g->n);
}

int gptq_solve(const struct gptq *g, double *rows, size_t n_rows)
{
	const struct blas_gemm by_factor = {.m = n_rows, .n = g->n, .k = g->n, .alpha = 1};
	struct blas_gemm by_transposed = by_factor;
	size_t n = (size_t)g->n * n_rows;
	_cleanup_(freep) double *sorted = calloc(n + 1, sizeof(*sorted));
	_cleanup_(freep) double *half = calloc(n + 1, sizeof(*half));

	if (!sorted || !half)
		return -ENOMEM;
	by_transposed.transpose_b = true;
	for (size_t r = 0; r < n_rows; r++)
		for (uint32_t p = 0; p < g->n; p++)
			sorted[r * g->n + p] = rows[r * g->n + g->order[p]];
	blas_gemm_f64(&by_transposed, sorted, g->factor, half);
	blas_gemm_f64(&by_factor, half, g->factor, sorted);
	for (size_t r = 0; r < n_rows; r++)
		for (uint32_t p = 0; p < g->n; p++)
			rows[r * g->n + g->order[p]] =
				g->dead[g->order[p]] ? 0 : sorted[r * g->n + p];
	return 0;
}

void gptq_weights(const struct gptq *g, double *ret)
{
	for (uint32_t p = 0; p < g->n; p++) {
		double t = g->factor[(size_t)p * g->n + p];

		ret[g->order[p]] = g->dead[g->order[p]] ? 0 : 1 / (t * t);
	}
}

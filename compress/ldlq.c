#include "compress/ldlq.h"

#include "kernels/blas.h"

#include <math.h>
#include <string.h>

/* Numbers of a block are rounded one after the other; what blocks leave to each other within a
 * span, and spans to each other, are products. */
#define BLOCK 64u
#define ROW_SPAN 256u
#define COLUMN_SPAN 512u
#define LARGEST_SHARE .75 /* of the range of codes: the rest is for what feedback adds */

/* Rows and columns [first, end). */
struct range {
	uint32_t first, end;
};

struct sweep {
	const struct ldlq_problem *p;
	struct ldlq *ret;
	struct code_costs *costs;
	float *fed;              /* rows x cols: E V */
	float *from_above;       /* ROW_SPAN x cols: what errors of earlier rows leave */
	float *from_left;        /* ROW_SPAN x COLUMN_SPAN */
	struct range rows, cols; /* the span in work */
	double loss;
};

/* y += a x. */
_vector_clones_ static void add_scaled(
	float *restrict y, float a, const float *restrict x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		y[i] += a * x[i];
}

static float *buffer(size_t n)
{
	return malloc((n + 1) * sizeof(float));
}

static void sweep_done(struct sweep *s)
{
	code_costs_free(s->costs);
	free(s->fed);
	free(s->from_above);
	free(s->from_left);
}

static int nearest_code(float target)
{
	return (int)lrintf(fminf(fmaxf(target, -CODE_LIMIT), CODE_LIMIT));
}

static float *above_at(const struct sweep *s, uint32_t row, uint32_t col)
{
	return s->from_above + (size_t)(row - s->rows.first) * s->p->cols + col;
}

static float *left_at(const struct sweep *s, uint32_t row, uint32_t col)
{
	return s->from_left + (size_t)(row - s->rows.first) * COLUMN_SPAN + col - s->cols.first;
}

/* One row within a block of columns. */
static void round_row(struct sweep *s, uint32_t row, struct range cols)
{
	const struct ldlq_problem *p = s->p;
	size_t at = (size_t)row * p->cols, n_h = p->cols;
	int8_t *codes = s->ret->codes + at;
	float *left = left_at(s, row, cols.first);
	const float *up = above_at(s, row, cols.first);
	float step = (float)p->step, inverse = (float)(1 / p->step);
	double in_bits = p->lambda > 0 ? p->step * p->step / p->lambda : 0;

	for (uint32_t i = 0; i < cols.end - cols.first; i++) {
		uint32_t col = cols.first + i;
		double weight = p->g->weights[row] * p->h->weights[col];
		float wanted = p->target[at + col] + up[i] + left[i], error, rest;
		const float *bits;
		int code;

		if (p->lambda > 0) {
			bits = code_costs_at(s->costs, row, col);
			code = code_costs_cheapest(
				bits, wanted * inverse, (float)(weight * in_bits));
		} else {
			code = nearest_code(wanted * inverse);
		}
		codes[col] = (int8_t)code;
		if (s->ret->wanted)
			s->ret->wanted[at + col] = wanted * inverse;
		rest = wanted - step * (float)code;
		s->loss += weight * (double)rest * (double)rest;
		error = p->target[at + col] - step * (float)code;
		s->ret->error[at + col] = error;
		s->fed[at + col] = error + left[i];
		if (p->h->feedback) {
			const float *feedback = p->h->feedback + col * n_h + col + 1;

			add_scaled(left + i + 1, error, feedback, cols.end - col - 1);
		}
	}
}

/* What rows of the same block that are above leave to this one. */
static void add_rows_above(struct sweep *s, uint32_t first_row, uint32_t row, struct range cols)
{
	const struct ldlq_problem *p = s->p;
	float *up = above_at(s, row, cols.first);

	for (uint32_t k = first_row; k < row; k++) {
		float factor = p->g->feedback[(size_t)k * p->rows + row];
		const float *fed = s->fed + (size_t)k * p->cols + cols.first;

		add_scaled(up, factor, fed, cols.end - cols.first);
	}
}

/* What columns `from` leave to columns `cols`, of some rows; added, or set. */
static void add_columns(
	struct sweep *s, struct range rows, struct range from, struct range cols, bool add)
{
	const struct ldlq_problem *p = s->p;
	const struct blas_gemm gemm = {
		.m = rows.end - rows.first,
		.n = cols.end - cols.first,
		.k = from.end - from.first,
		.alpha = 1,
		.beta = add,
		.a_stride = p->cols,
		.b_stride = p->cols,
		.c_stride = COLUMN_SPAN,
	};

	if (p->h->feedback && gemm.k > 0)
		blas_gemm_f32(&gemm, s->ret->error + (size_t)rows.first * p->cols + from.first,
			p->h->feedback + (size_t)from.first * p->cols + cols.first,
			left_at(s, rows.first, cols.first));
}

/* What rows `from` leave to rows `rows`, in some columns; added, or set. */
static void add_rows(
	struct sweep *s, struct range from, struct range rows, struct range cols, bool add)
{
	const struct ldlq_problem *p = s->p;
	const struct blas_gemm gemm = {
		.m = rows.end - rows.first,
		.n = cols.end - cols.first,
		.k = from.end - from.first,
		.transpose_a = true,
		.alpha = 1,
		.beta = add,
		.a_stride = p->rows,
		.b_stride = p->cols,
		.c_stride = p->cols,
	};

	if (p->g->feedback && gemm.k > 0)
		blas_gemm_f32(&gemm, p->g->feedback + (size_t)from.first * p->rows + rows.first,
			s->fed + (size_t)from.first * p->cols + cols.first,
			above_at(s, rows.first, cols.first));
}

static struct range block_of(struct range span, uint32_t first)
{
	return (struct range){first, (uint32_t)min_u64((uint64_t)first + BLOCK, span.end)};
}

/* Some rows of the columns of the span. */
static void sweep_block_row(struct sweep *s, struct range rows)
{
	add_rows(s, (struct range){s->rows.first, rows.first}, rows, s->cols, true);
	for (uint32_t first = s->cols.first; first < s->cols.end; first += BLOCK) {
		struct range cols = block_of(s->cols, first);

		add_columns(s, rows, (struct range){s->cols.first, first}, cols, true);
		for (uint32_t row = rows.first; row < rows.end; row++) {
			if (s->p->g->feedback)
				add_rows_above(s, rows.first, row, cols);
			round_row(s, row, cols);
		}
	}
}

/* The columns of the span, which follow all before them in the same rows. */
static void sweep_span(struct sweep *s)
{
	if (!s->p->h->feedback || s->cols.first == 0)
		memset(s->from_left, 0, (size_t)ROW_SPAN * COLUMN_SPAN * sizeof(float));
	else
		add_columns(s, s->rows, (struct range){0, s->cols.first}, s->cols, false);
	for (uint32_t first = s->rows.first; first < s->rows.end; first += BLOCK)
		sweep_block_row(s, block_of(s->rows, first));
}

static void sweep_rows(struct sweep *s)
{
	uint32_t n_cols = s->p->cols;

	if (!s->p->g->feedback || s->rows.first == 0)
		memset(s->from_above, 0, (size_t)ROW_SPAN * n_cols * sizeof(float));
	else
		add_rows(s, (struct range){0, s->rows.first}, s->rows, (struct range){0, n_cols},
			false);
	for (uint32_t first = 0; first < n_cols; first += COLUMN_SPAN) {
		s->cols.first = first;
		s->cols.end = (uint32_t)min_u64((uint64_t)first + COLUMN_SPAN, n_cols);
		sweep_span(s);
	}
}

static void sweep_matrix(struct sweep *s)
{
	uint32_t n_rows = s->p->rows;

	s->loss = 0;
	for (uint32_t first = 0; first < n_rows; first += ROW_SPAN) {
		s->rows.first = first;
		s->rows.end = (uint32_t)min_u64((uint64_t)first + ROW_SPAN, n_rows);
		sweep_rows(s);
	}
}

/* Plain rounding: what the first sweep takes its costs from. */
static void round_plainly(const struct ldlq_problem *p, int8_t *codes)
{
	float inverse = (float)(1 / p->step);

	for (size_t i = 0; i < (size_t)p->rows * p->cols; i++)
		codes[i] = (int8_t)nearest_code(p->target[i] * inverse);
}

/* With the length of codes in mind, but no feedback: most of what the costs can be learned from, at
 * next to no cost. */
static void round_by_cost(
	const struct ldlq_problem *p, const struct code_costs *costs, int8_t *codes)
{
	float inverse = (float)(1 / p->step);
	double in_bits = p->lambda > 0 ? p->step * p->step / p->lambda : 0;

	for (uint32_t row = 0; row < p->rows; row++)
		for (uint32_t col = 0; col < p->cols; col++) {
			size_t at = (size_t)row * p->cols + col;
			double weight = p->g->weights[row] * p->h->weights[col];

			codes[at] = (int8_t)code_costs_cheapest(code_costs_at(costs, row, col),
				p->target[at] * inverse, (float)(weight * in_bits));
		}
}

static double mean_weight(const struct metric *m)
{
	double sum = 0;

	for (uint32_t i = 0; i < m->n; i++)
		sum += m->weights[i];
	return sum / m->n;
}

double ldlq_step(const struct metric *g, const struct metric *h, double lambda)
{
	return sqrt(6 * lambda / (M_LN2 * mean_weight(g) * mean_weight(h)));
}

double ldlq_least_step(const float *target, size_t n)
{
	float largest = 0;

	for (size_t i = 0; i < n; i++)
		largest = fmaxf(largest, fabsf(target[i]));
	return (double)largest / (LARGEST_SHARE * CODE_LIMIT);
}

int ldlq_run(const struct ldlq_problem *problem, struct ldlq *ret)
{
	size_t n = (size_t)problem->rows * problem->cols;
	_cleanup_(sweep_done) struct sweep s = {
		.p = problem,
		.ret = ret,
		.fed = buffer(n),
		.from_above = buffer((size_t)ROW_SPAN * problem->cols),
		.from_left = buffer((size_t)ROW_SPAN * COLUMN_SPAN),
	};
	int r = code_costs_new(problem->rows, problem->cols, &s.costs);

	if (r < 0 || !s.fed || !s.from_above || !s.from_left)
		return -ENOMEM;
	round_plainly(problem, ret->codes);
	for (uint32_t i = 0; i < problem->n_sketches; i++) {
		r = code_costs_learn(s.costs, ret->codes);
		if (r < 0)
			return r;
		round_by_cost(problem, s.costs, ret->codes);
	}
	for (uint32_t sweep = 0; sweep < problem->n_sweeps; sweep++) {
		r = code_costs_learn(s.costs, ret->codes);
		if (r < 0)
			return r;
		sweep_matrix(&s);
	}
	r = code_costs_learn(s.costs, ret->codes);
	if (r < 0)
		return r;
	ret->loss = s.loss;
	ret->bits = code_costs_sum(s.costs, ret->codes);
	return 0;
}

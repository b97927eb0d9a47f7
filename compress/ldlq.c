#include "compress/ldlq.h"

#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define ROW_BLOCK 64u
#define COLUMN_BLOCK 64u

struct sweep {
	const struct ldlq_problem *p;
	struct ldlq *ret;
	struct code_costs *costs;
	float *fed;        /* rows x cols: E V */
	float *from_above; /* ROW_BLOCK x cols: what errors of earlier rows leave */
	float *from_left;  /* ROW_BLOCK x COLUMN_BLOCK */
	double loss;
};

/* y += a x. Without contraction every clone gives the same bits. */
__attribute__((target_clones("avx512f", "avx2", "default"))) static void add_scaled(
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

/* One row within a block of columns. */
static void round_row(struct sweep *s, uint32_t row, uint32_t first, uint32_t n, uint32_t in_block)
{
	const struct ldlq_problem *p = s->p;
	size_t at = (size_t)row * p->cols, n_h = p->cols;
	int8_t *codes = s->ret->codes + at;
	float *left = s->from_left + (size_t)in_block * COLUMN_BLOCK;
	const float *up = s->from_above + (size_t)in_block * p->cols + first;
	float step = (float)p->step, inverse = (float)(1 / p->step);
	double in_bits = p->lambda > 0 ? p->step * p->step / p->lambda : 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t col = first + i;
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

			add_scaled(left + i + 1, error, feedback, n - i - 1);
		}
	}
}

/* What rows of the same block that are above leave to this one. */
static void add_rows_above(
	struct sweep *s, uint32_t first_row, uint32_t row, uint32_t first, uint32_t n)
{
	const struct ldlq_problem *p = s->p;
	float *up = s->from_above + (size_t)(row - first_row) * p->cols + first;

	for (uint32_t k = first_row; k < row; k++) {
		float factor = p->g->feedback[(size_t)k * p->rows + row];
		const float *fed = s->fed + (size_t)k * p->cols + first;

		add_scaled(up, factor, fed, n);
	}
}

/* What the columns before `first` leave to those of the block. */
static void add_columns_left(
	struct sweep *s, uint32_t first_row, uint32_t n_rows, uint32_t first, uint32_t n)
{
	const struct ldlq_problem *p = s->p;
	const struct blas_gemm gemm = {
		.m = n_rows,
		.n = n,
		.k = first,
		.alpha = 1,
		.a_stride = p->cols,
		.b_stride = p->cols,
		.c_stride = COLUMN_BLOCK,
	};

	if (!p->h->feedback || first == 0)
		memset(s->from_left, 0, ROW_BLOCK * COLUMN_BLOCK * sizeof(float));
	else
		blas_gemm_f32(&gemm, s->ret->error + (size_t)first_row * p->cols,
			p->h->feedback + first, s->from_left);
}

static void add_blocks_above(struct sweep *s, uint32_t first_row, uint32_t n_rows)
{
	const struct ldlq_problem *p = s->p;
	const struct blas_gemm gemm = {
		.m = n_rows,
		.n = p->cols,
		.k = first_row,
		.transpose_a = true,
		.alpha = 1,
		.a_stride = p->rows,
	};

	if (!p->g->feedback || first_row == 0)
		memset(s->from_above, 0, (size_t)ROW_BLOCK * p->cols * sizeof(float));
	else
		blas_gemm_f32(&gemm, p->g->feedback + first_row, s->fed, s->from_above);
}

static void sweep_rows(struct sweep *s, uint32_t first_row, uint32_t n_rows)
{
	const struct ldlq_problem *p = s->p;

	add_blocks_above(s, first_row, n_rows);
	for (uint32_t first = 0; first < p->cols; first += COLUMN_BLOCK) {
		uint32_t n = (uint32_t)min_u64(COLUMN_BLOCK, p->cols - first);

		add_columns_left(s, first_row, n_rows, first, n);
		for (uint32_t i = 0; i < n_rows; i++) {
			if (p->g->feedback)
				add_rows_above(s, first_row, first_row + i, first, n);
			round_row(s, first_row + i, first, n, i);
		}
	}
}

static void sweep_matrix(struct sweep *s)
{
	const struct ldlq_problem *p = s->p;

	s->loss = 0;
	for (uint32_t first = 0; first < p->rows; first += ROW_BLOCK)
		sweep_rows(s, first, (uint32_t)min_u64(ROW_BLOCK, p->rows - first));
}

/* Plain rounding: what the first sweep takes its costs from. */
static void round_plainly(const struct ldlq_problem *p, int8_t *codes)
{
	float inverse = (float)(1 / p->step);

	for (size_t i = 0; i < (size_t)p->rows * p->cols; i++)
		codes[i] = (int8_t)nearest_code(p->target[i] * inverse);
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

int ldlq_run(const struct ldlq_problem *problem, struct ldlq *ret)
{
	size_t n = (size_t)problem->rows * problem->cols;
	_cleanup_(sweep_done) struct sweep s = {
		.p = problem,
		.ret = ret,
		.fed = buffer(n),
		.from_above = buffer((size_t)ROW_BLOCK * problem->cols),
		.from_left = buffer((size_t)ROW_BLOCK * COLUMN_BLOCK),
	};
	int r = code_costs_new(problem->rows, problem->cols, &s.costs);

	if (r < 0 || !s.fed || !s.from_above || !s.from_left)
		return -ENOMEM;
	round_plainly(problem, ret->codes);
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

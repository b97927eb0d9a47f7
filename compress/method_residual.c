/*
 * Method "low-rank+k-bit": the sum of a low-rank part in fp16 and of codes of one width (D-QRELO,
 * arXiv 2604.16940, adds a low rank to one-bit codes).
 *
 * Both orders are tried with every width that leaves room for a component: codes of the whole
 * delta and a low rank of what they miss, or a low rank of the delta and codes of what that misses.
 * The low rank is whitened, the codes are GPTQ's, so each step lowers the same error, that of the
 * outputs on the calibration text; the smallest is kept, matrix by matrix.
 */
#include "compress/low_rank.h"
#include "compress/methods.h"
#include "compress/moments.h"
#include "compress/row_codes.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

#define MAX_WIDTH 4u

/* Two parts that together stand for a delta. */
struct sum {
	bool codes_first;
	struct code_matrix *codes;
	struct low_rank low_rank;
	double loss;
};

struct attempt {
	const struct method_group *group;
	const struct gptq *gptq;
	const struct method_matrix *matrix;
	uint8_t bits;
	uint32_t n_ranks;
	bool codes_first;
	float *rest; /* what is not yet said */
};

static void sum_done(struct sum *s)
{
	code_matrix_free(s->codes);
	low_rank_done(&s->low_rank);
	*s = (struct sum){0};
}

static int fit_codes(const struct attempt *a, struct sum *s)
{
	const struct method_matrix *m = a->matrix;
	const struct row_codes_problem problem = {
		.pool = a->group->pool,
		.gptq = a->gptq,
		.moments = a->group->moments,
		.matrix = a->rest,
		.rows = m->rows,
		.cols = m->cols,
		.bits = a->bits,
	};
	_cleanup_(freep) float *row = malloc(((size_t)m->cols + 1) * sizeof(*row));
	double loss;
	int r;

	if (!row)
		return -ENOMEM;
	r = row_codes_fit(&problem, &s->codes, &loss);
	for (uint32_t i = 0; r == 0 && i < m->rows; i++) {
		code_matrix_row(s->codes, i, row);
		for (uint32_t c = 0; c < m->cols; c++)
			a->rest[(size_t)i * m->cols + c] -= row[c];
	}
	return r;
}

static int fit_low_rank(const struct attempt *a, struct sum *s, struct reason *reason)
{
	const struct method_matrix *m = a->matrix;
	int r;

	r = low_rank_fit(
		a->rest, m->rows, m->cols, a->n_ranks, a->group->moments, &s->low_rank, reason);
	return r < 0 ? r : low_rank_subtract(&s->low_rank, a->rest);
}

static int try_sum(const struct attempt *a, struct sum *ret, struct reason *reason)
{
	_cleanup_(sum_done) struct sum s = {.codes_first = a->codes_first};
	const struct method_matrix *m = a->matrix;
	int r = 0;

	memcpy(a->rest, m->delta, (size_t)m->rows * m->cols * sizeof(*a->rest));
	if (a->codes_first)
		r = fit_codes(a, &s);
	if (r == 0)
		r = fit_low_rank(a, &s, reason);
	if (r == 0 && !a->codes_first)
		r = fit_codes(a, &s);
	if (r == 0)
		r = moments_energy(
			a->group->pool, a->group->moments, a->rest, m->rows, m->cols, &s.loss);
	if (r < 0)
		return r;
	*ret = s;
	s = (struct sum){0};
	return 0;
}

/* Components beside codes of a width, within the budget. */
static uint32_t ranks_beside(const struct method_matrix *m, uint8_t bits)
{
	uint64_t codes = method_codes_bytes(m->rows, m->cols, bits, GRID_ROW);

	return codes < m->budget ? low_rank_most(m->rows, m->cols, m->budget - codes) : 0;
}

static int try_all(const struct method_group *group, const struct gptq *gptq,
	const struct method_matrix *m, struct sum *best, struct reason *reason)
{
	_cleanup_(freep) float *rest = malloc(((size_t)m->rows * m->cols + 1) * sizeof(*rest));
	struct attempt a = {.group = group, .gptq = gptq, .matrix = m, .rest = rest};

	if (!rest)
		return -ENOMEM;
	for (uint8_t i = 0; i < 2 * MAX_WIDTH; i++) {
		_cleanup_(sum_done) struct sum s = {0};
		int r;

		a.bits = 1 + i / 2;
		a.codes_first = i % 2;
		a.n_ranks = ranks_beside(m, a.bits);
		if (a.n_ranks == 0)
			continue;
		r = try_sum(&a, &s, reason);
		if (r < 0)
			return r;
		if (!best->codes || s.loss < best->loss) {
			struct sum worse = *best;

			*best = s;
			s = worse;
		}
	}
	return 0;
}

static int add_codes(const struct sum *s, struct method_matrix *m, uint8_t level)
{
	const struct part_place place = method_matrix_place(m, level);
	struct part part;
	int r = part_codes(&place, s->codes, NULL, false, &part);

	return r < 0 ? r : method_matrix_add(m, &part);
}

static int quantise_one(const struct method_group *group, const struct gptq *gptq,
	struct method_matrix *m, struct reason *reason)
{
	_cleanup_(sum_done) struct sum best = {0};
	int r;

	r = try_all(group, gptq, m, &best, reason);
	if (r < 0 || !best.codes)
		return r;
	if (best.codes_first) {
		r = add_codes(&best, m, 0);
		return r < 0 ? r : low_rank_add(&best.low_rank, m, 1);
	}
	r = low_rank_add(&best.low_rank, m, 0);
	return r < 0 ? r : add_codes(&best, m, 1);
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	_cleanup_(gptq_freep) struct gptq *gptq = NULL;
	int r;

	(void)state;
	r = gptq_new(group->moments, group->cols, GPTQ_DAMPING, &gptq, reason);
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = quantise_one(group, gptq, &group->matrices[i], reason);
	return r;
}

const struct method method_low_rank_k_bit = {
	.name = "low-rank+k-bit",
	.summary = "fp16 singular triplets and 1 to 4-bit codes, in the better order",
	.needs = METHOD_NEEDS_CALIBRATION,
	.default_ratio = 8,
	.check = method_check_ratio,
	.quantise = quantise,
};

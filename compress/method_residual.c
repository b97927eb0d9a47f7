/*
 * Method "low-rank+k-bit": the sum of a low-rank part in fp16 and of codes (D-QRELO,
 * arXiv 2604.16940, adds a low rank to one-bit codes).
 *
 * How the budget of a matrix is split is tried, and the split with the least error of the outputs
 * on the calibration text is kept:
 *
 *   codes of 1 to 4 bits, where they leave room for a component, and the low rank takes the rest
 *   coarse codes (compress/coarse_codes.h) of 1/4, 1/2 or 3/4 of the budget, and the low rank the
 *   rest: below a bit a weight no fixed width fits
 *   the low rank alone, where what it misses is not worth codes
 *
 * In the first both orders are tried: codes of the whole delta and a low rank of what they miss, or
 * a low rank of the delta and codes of what that misses. In the second the low rank is first. It is
 * whitened and the codes are GPTQ's, so each step lowers the same error.
 */
#include "compress/coarse_codes.h"
#include "compress/low_rank.h"
#include "compress/methods.h"
#include "compress/moments.h"
#include "compress/row_codes.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

#define MAX_WIDTH 4u
#define QUARTERS 4u

/* Parts that together stand for a delta. */
struct sum {
	struct part codes; /* no payload: none */
	struct low_rank low_rank;
	bool codes_first;
	double loss;
};

struct attempt {
	const struct method_group *group;
	const struct gptq *gptq;
	const struct method_matrix *matrix;
	float *rest; /* what is not yet said */
	/* The split. */
	uint8_t bits;          /* 0: coarse codes */
	uint64_t coarse_bytes; /* of them; 0: none */
	bool codes_first;
};

static void sum_done(struct sum *s)
{
	part_done(&s->codes);
	low_rank_done(&s->low_rank);
	*s = (struct sum){0};
}

static int fit_width(const struct attempt *a, struct code_matrix **ret, struct part *ret_part)
{
	const struct method_matrix *m = a->matrix;
	const struct part_place place = method_matrix_place(m, a->codes_first ? 0 : 1);
	const struct row_codes_problem problem = {
		.pool = a->group->pool,
		.gptq = a->gptq,
		.moments = a->group->moments,
		.matrix = a->rest,
		.rows = m->rows,
		.cols = m->cols,
		.bits = a->bits,
	};
	double loss;
	int r;

	r = row_codes_fit(&problem, ret, &loss);
	return r < 0 ? r : part_codes(&place, *ret, NULL, false, ret_part);
}

static int fit_coarse(const struct attempt *a, struct code_matrix **ret, struct part *ret_part)
{
	const struct coarse_codes_problem problem = {
		.pool = a->group->pool,
		.gptq = a->gptq,
		.matrix = a->rest,
		.place = method_matrix_place(a->matrix, 1),
		.bytes = a->coarse_bytes,
	};

	return coarse_codes_fit(&problem, ret, ret_part);
}

static int fit_codes(const struct attempt *a, struct sum *s)
{
	const struct method_matrix *m = a->matrix;
	_cleanup_(freep) float *row = malloc(((size_t)m->cols + 1) * sizeof(*row));
	_cleanup_(code_matrix_freep) struct code_matrix *codes = NULL;
	int r = 0;

	if (!row)
		return -ENOMEM;
	if (a->bits)
		r = fit_width(a, &codes, &s->codes);
	else if (a->coarse_bytes)
		r = fit_coarse(a, &codes, &s->codes);
	for (uint32_t i = 0; r == 0 && codes && i < m->rows; i++) {
		code_matrix_row(codes, i, row);
		for (uint32_t c = 0; c < m->cols; c++)
			a->rest[(size_t)i * m->cols + c] -= row[c];
	}
	return r;
}

/* What the codes of the split leave. */
static uint32_t n_components(const struct attempt *a)
{
	const struct method_matrix *m = a->matrix;
	uint64_t codes =
		a->bits ? method_codes_bytes(m->rows, m->cols, a->bits, GRID_ROW) : a->coarse_bytes;

	return codes < m->budget ? low_rank_most(m->rows, m->cols, m->budget - codes) : 0;
}

static int fit_low_rank(const struct attempt *a, struct sum *s, struct reason *reason)
{
	const struct low_rank_problem problem = {
		.pool = a->group->pool,
		.matrix = a->rest,
		.rows = a->matrix->rows,
		.cols = a->matrix->cols,
		.n = n_components(a),
		.moments = a->group->moments,
	};
	int r;

	r = low_rank_fit(&problem, &s->low_rank, reason);
	return r < 0 ? r : low_rank_subtract(&s->low_rank, a->rest);
}

static int make_sum(const struct attempt *a, struct sum *s, struct reason *reason)
{
	const struct method_matrix *m = a->matrix;
	int r = 0;

	s->codes_first = a->codes_first;
	memcpy(a->rest, m->delta, (size_t)m->rows * m->cols * sizeof(*a->rest));
	if (a->codes_first)
		r = fit_codes(a, s);
	if (r == 0)
		r = fit_low_rank(a, s, reason);
	if (r == 0 && !a->codes_first)
		r = fit_codes(a, s);
	if (r == 0)
		r = moments_energy(
			a->group->pool, a->group->moments, a->rest, m->rows, m->cols, &s->loss);
	return r;
}

/* Keeps the better of the split's and what there is. */
static int try_sum(const struct attempt *a, struct sum *best, struct reason *reason)
{
	_cleanup_(sum_done) struct sum s = {0};
	int r;

	if (n_components(a) == 0)
		return 0;
	r = make_sum(a, &s, reason);
	if (r < 0)
		return r;
	if (!best->low_rank.n || s.loss < best->loss) {
		struct sum worse = *best;

		*best = s;
		s = worse;
	}
	return 0;
}

static int try_all(struct attempt *a, struct sum *best, struct reason *reason)
{
	int r = 0;

	for (uint8_t i = 0; r == 0 && i < 2 * MAX_WIDTH; i++) {
		a->bits = 1 + i / 2;
		a->codes_first = i % 2;
		r = try_sum(a, best, reason);
	}
	a->bits = 0;
	a->codes_first = false;
	for (uint64_t i = 0; r == 0 && i < QUARTERS; i++) {
		a->coarse_bytes = a->matrix->budget / QUARTERS * i;
		r = try_sum(a, best, reason);
	}
	return r;
}

static int add_codes(struct sum *s, struct method_matrix *m)
{
	struct part part = s->codes;

	s->codes = (struct part){0};
	return part.payload ? method_matrix_add(m, &part) : 0;
}

static int quantise_one(const struct method_group *group, const struct gptq *gptq,
	struct method_matrix *m, struct reason *reason)
{
	_cleanup_(freep) float *rest = malloc(((size_t)m->rows * m->cols + 1) * sizeof(*rest));
	_cleanup_(sum_done) struct sum best = {0};
	struct attempt a = {.group = group, .gptq = gptq, .matrix = m, .rest = rest};
	int r;

	if (!rest)
		return -ENOMEM;
	r = try_all(&a, &best, reason);
	if (r < 0 || best.low_rank.n == 0)
		return r;
	if (best.codes_first) {
		r = add_codes(&best, m);
		return r < 0 ? r : low_rank_add(&best.low_rank, m, 1);
	}
	r = low_rank_add(&best.low_rank, m, 0);
	return r < 0 ? r : add_codes(&best, m);
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	_cleanup_(gptq_freep) struct gptq *gptq = NULL;
	int r;

	(void)state;
	r = gptq_new(group->pool, group->moments, group->cols, &gptq, reason);
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = quantise_one(group, gptq, &group->matrices[i], reason);
	return r;
}

const struct method method_low_rank_k_bit = {
	.name = "low-rank+k-bit",
	.summary = "fp16 singular triplets and codes, split where the error is least",
	.needs = METHOD_NEEDS_CALIBRATION,
	.default_ratio = 8,
	.check = method_check_ratio,
	.quantise = quantise,
};

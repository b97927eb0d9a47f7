/*
 * Methods "sign" and "sign-row": BitDelta (arXiv 2402.10193, section 3.1) without its second stage:
 * the sign of each number times the mean magnitude, of the matrix or of each row. Neither looks at
 * any text.
 */
#include "compress/methods.h"
#include "compress/row_codes.h"
#include "kernels/convert.h"

#include <math.h>

static int check(const struct method_options *o, struct reason *reason)
{
	if (o->ratio != 0)
		return reason_set(reason, -EINVAL, "a sign is one bit, there is no ratio to ask");
	if (o->bits != 0 && o->bits != 1)
		return reason_set(reason, -EINVAL, "a sign is one bit, not %g", o->bits);
	return 0;
}

static double mean_magnitude(const float *values, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += fabs((double)values[i]);
	return n ? sum / (double)n : 0;
}

/* Levels are -mean and +mean: half a step from the middle. */
static int make_signs(const struct method_matrix *m, bool by_row, struct code_matrix **ret)
{
	size_t n = (size_t)m->rows * m->cols;
	double step = 2 * mean_magnitude(m->delta, n);

	_cleanup_(code_matrix_freep) struct code_matrix *signs = NULL;
	int r;

	if (!isfinite((float)step))
		return -EDOM;
	r = code_matrix_new(m->rows, m->cols, 1, by_row ? GRID_ROW : GRID_MATRIX, &signs);
	if (r < 0)
		return r;
	signs->step = (float)step;
	signs->zero = 0.5F;
	for (size_t i = 0; i < n; i++)
		signs->codes[i] = m->delta[i] >= 0;
	for (uint32_t row = 0; by_row && row < m->rows; row++)
		signs->scales[row] = f16_from_f32(
			(float)(2 * mean_magnitude(m->delta + (size_t)row * m->cols, m->cols) /
				step));
	*ret = take_ptr(signs);
	return 0;
}

static int quantise_one(struct method_matrix *m, bool by_row)
{
	_cleanup_(code_matrix_freep) struct code_matrix *signs = NULL;
	const struct part_place place = method_matrix_place(m, 0);
	struct part part;
	int r;

	r = make_signs(m, by_row, &signs);
	if (r == 0)
		r = part_codes(&place, signs, NULL, false, &part);
	return r < 0 ? r : method_matrix_add(m, &part);
}

static int quantise_matrix(void *state, struct method_group *group, struct reason *reason)
{
	int r = 0;

	(void)state, (void)reason;
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = quantise_one(&group->matrices[i], false);
	return r;
}

static int quantise_rows(void *state, struct method_group *group, struct reason *reason)
{
	int r = 0;

	(void)state, (void)reason;
	for (size_t i = 0; r == 0 && i < group->n_matrices; i++)
		r = quantise_one(&group->matrices[i], true);
	return r;
}

const struct method method_sign = {
	.name = "sign",
	.summary = "one bit, one scale a matrix: the mean magnitude (arXiv 2402.10193)",
	.against_served = true,
	.check = check,
	.quantise = quantise_matrix,
};

const struct method method_sign_row = {
	.name = "sign-row",
	.summary = "one bit, one scale a row: the mean magnitude",
	.against_served = true,
	.check = check,
	.quantise = quantise_rows,
};

#include "kernels/pack.h"
#include "kernels/ref/ref.h"

static size_t group_columns(const struct qmat *m, size_t group)
{
	size_t left = m->cols - group * QMAT_GROUP;

	return left < QMAT_GROUP ? left : QMAT_GROUP;
}

static double dot_row(const struct qmat *m, size_t row, const float *x)
{
	double values[QMAT_GROUP];
	double sum = 0;

	for (size_t g = 0; g < qmat_groups(m->cols); g++) {
		qmat_group_values(values, m, (uint32_t)row, g);
		for (size_t i = 0; i < group_columns(m, g); i++)
			sum += values[i] * x[g * QMAT_GROUP + i];
	}
	return sum;
}

void ref_qmat_dot(float *z, size_t z_stride, const struct qmat *m, const float *x, size_t x_stride,
	size_t n, size_t row0, size_t row1)
{
	for (size_t t = 0; t < n; t++)
		for (size_t r = row0; r < row1; r++)
			z[t * z_stride + r] = (float)dot_row(m, r, x + t * x_stride);
}

static void accumulate_group(float *y, const struct qmat *m, const float *z, size_t group)
{
	double sums[QMAT_GROUP] = {0};
	double values[QMAT_GROUP];

	for (uint32_t r = 0; r < m->rows; r++) {
		qmat_group_values(values, m, r, group);
		for (size_t i = 0; i < QMAT_GROUP; i++)
			sums[i] += z[r] * values[i];
	}
	for (size_t i = 0; i < group_columns(m, group); i++)
		y[group * QMAT_GROUP + i] = (float)(y[group * QMAT_GROUP + i] + sums[i]);
}

void ref_qmat_accumulate(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	for (size_t t = 0; t < n; t++)
		for (size_t g = group0; g < group1; g++)
			accumulate_group(y + t * y_stride, m, z + t * z_stride, g);
}

static double dropmat_dot_row(const struct dropmat *m, size_t row, const float *x)
{
	size_t n = dropmat_row_entries(m->cols, m->group, m->n_keep);
	double sum = 0;

	for (size_t e = 0; e < n; e++) {
		struct dropmat_survivor s = dropmat_survivor(m, (uint32_t)row, e);

		sum += s.value * x[s.col];
	}
	return sum;
}

void ref_dropmat_dot(float *y, size_t y_stride, const struct dropmat *m, const float *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	for (size_t t = 0; t < n; t++) {
		for (size_t r = row0; r < row1; r++) {
			float *at = y + t * y_stride + r;

			*at = (float)(*at + dropmat_dot_row(m, r, x + t * x_stride));
		}
	}
}

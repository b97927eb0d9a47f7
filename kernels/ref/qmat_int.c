#include "kernels/convert.h"
#include "kernels/pack.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* sum_c 2 (code - zero) * x code. */
static float group_sum(const struct qmat *m, uint32_t row, size_t group, const struct act_group *x)
{
	const size_t index = row * qmat_groups(m->cols) + group;
	const float zero = m->zeros ? m->zeros[index] : m->zero;
	uint8_t codes[QMAT_GROUP];
	int32_t sum = 0;

	qmat_group_unpack(codes, m->codes + index * qmat_group_bytes(m->bits), m->bits);
	for (size_t i = 0; i < QMAT_GROUP; i++)
		sum += (2 * codes[i] - (int32_t)(2 * zero)) * x->codes[i];
	return (float)sum;
}

static float scale_at(const struct qmat *m, size_t row, size_t group)
{
	return f16_to_f32(m->scales[row * m->scale_row + group * m->scale_group]);
}

static float block_total(const struct qmat *m, uint32_t row, size_t first, size_t n,
	const struct act_group *x, size_t x_stride)
{
	float chains[QMAT_CHAINS] = {0};

	for (size_t g = first; g < first + n; g++) {
		const struct act_group *group = x + g * x_stride;
		float scale = group->scale, *chain = &chains[g % QMAT_CHAINS];

		if (m->scales && m->scale_group)
			scale *= scale_at(m, row, g);
		*chain = fmaf(group_sum(m, row, g, group), scale, *chain);
	}
	return (chains[0] + chains[2]) + (chains[1] + chains[3]);
}

static float dot(const struct qmat *m, uint32_t row, const struct act_group *x, size_t x_stride)
{
	const size_t n_groups = qmat_groups(m->cols);
	float sum = 0, factor = m->step;

	for (size_t g = 0; g < n_groups; g += QMAT_BLOCK)
		sum += block_total(m, row, g, min_u64(n_groups - g, QMAT_BLOCK), x, x_stride);
	if (m->scales && !m->scale_group)
		factor *= scale_at(m, row, 0);
	return sum * (factor / 2);
}

void ref_qmat_dot_int(float *z, size_t z_stride, const struct qmat *m, const struct act_group *x,
	size_t x_stride, size_t n, size_t row0, size_t row1)
{
	for (size_t t = 0; t < n; t++)
		for (size_t r = row0; r < row1; r++)
			z[t * z_stride + r] = dot(m, (uint32_t)r, x + t, x_stride);
}

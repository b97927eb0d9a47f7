#include "kernels/convert.h"
#include "kernels/pack.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* Some rows of the matrix and one group of columns. */
struct block {
	const struct qmat *m;
	size_t row, height, group;
};

/* Codes of the rows' factors, and their scale. */
static struct act_group factors_of(const struct block *b, const float *z)
{
	const struct qmat *m = b->m;
	float numbers[QMAT_SUM_BLOCK] = {0};
	struct act_group ret;

	for (size_t i = 0; i < b->height; i++) {
		const size_t row = b->row + i, at = row * m->scale_row + b->group * m->scale_group;

		numbers[i] = m->scales ? z[row] * f16_to_f32(m->scales[at]) : z[row];
	}
	ref_act_round(&ret, 1, numbers, QMAT_SUM_BLOCK, 1, QMAT_SUM_BLOCK);
	return ret;
}

/* y += the block, of which y has the columns. */
static void block_add(float *y, const struct block *b, const float *z)
{
	const struct qmat *m = b->m;
	const size_t left = min_u64(m->cols - b->group * QMAT_GROUP, QMAT_GROUP);
	const struct act_group factors = factors_of(b, z);
	int32_t sums[QMAT_GROUP] = {0};

	for (size_t i = 0; i < b->height; i++) {
		const size_t index = (b->row + i) * qmat_groups(m->cols) + b->group;
		const float zero = m->zeros ? m->zeros[index] : m->zero;
		uint8_t codes[QMAT_GROUP];

		qmat_group_unpack(codes, m->codes + index * qmat_group_bytes(m->bits), m->bits);
		for (size_t c = 0; c < left; c++)
			sums[c] += (2 * codes[c] - (int32_t)(2 * zero)) * factors.codes[i];
	}
	for (size_t c = 0; c < left; c++)
		y[c] = fmaf((float)sums[c], factors.scale * (m->step / 2), y[c]);
}

void ref_qmat_accumulate_int(float *y, size_t y_stride, const struct qmat *m, const float *z,
	size_t z_stride, size_t n, size_t group0, size_t group1)
{
	struct block b = {.m = m};

	for (size_t t = 0; t < n; t++)
		for (b.group = group0; b.group < group1; b.group++)
			for (b.row = 0; b.row < m->rows; b.row += QMAT_SUM_BLOCK) {
				b.height = min_u64(m->rows - b.row, QMAT_SUM_BLOCK);
				block_add(y + t * y_stride + b.group * QMAT_GROUP, &b,
					z + t * z_stride);
			}
}

#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#include <math.h>

/* sum 2^index_bits (code - zero) * x code of entries [begin, end) of a row, four at most. */
static float four_sum(const struct dropmat *m, const uint8_t *entries, size_t begin, size_t end,
	const struct act_group *x, size_t x_stride)
{
	const int32_t zero = (int32_t)(m->zero * (float)(1u << m->index_bits));
	int32_t sum = 0;

	for (size_t e = begin; e < end; e++) {
		uint32_t place = entries[e] & ((1u << m->index_bits) - 1);
		size_t col = e / m->n_keep * m->group + place;
		int32_t input = x[col / MAT_INT_GROUP * x_stride].codes[col % MAT_INT_GROUP];

		sum += ((int32_t)(entries[e] - place) - zero) * input;
	}
	return (float)sum;
}

/* Of entries [begin, end) of a row. */
static float block_total(const struct dropmat *m, const uint8_t *entries, size_t begin, size_t end,
	const struct act_group *x, size_t x_stride)
{
	float chains[DROPMAT_CHAINS] = {0};

	for (size_t e = begin; e < end; e += 4) {
		size_t col = e / m->n_keep * m->group;
		float *chain = &chains[(e - begin) / 4 % DROPMAT_CHAINS];

		*chain = fmaf(four_sum(m, entries, e, min_u64(e + 4, end), x, x_stride),
			x[col / MAT_INT_GROUP * x_stride].scale, *chain);
	}
	for (size_t distance = DROPMAT_CHAINS / 2; distance > 0; distance /= 2)
		for (size_t i = 0; i < distance; i++)
			chains[i] += chains[i + distance];
	return chains[0];
}

void ref_dropmat_dot_int(float *y, size_t y_stride, const struct dropmat *m,
	const struct act_group *x, size_t x_stride, size_t n, size_t row0, size_t row1)
{
	const size_t n_entries = dropmat_row_entries(m->cols, m->group, m->n_keep);
	const size_t block = (size_t)DROPMAT_BLOCK / m->group * m->n_keep;

	for (size_t t = 0; t < n; t++) {
		for (size_t r = row0; r < row1; r++) {
			const uint8_t *entries = (const uint8_t *)m->entries + r * n_entries;
			float factor = m->step, *at = &y[t * y_stride + r];

			if (m->scales)
				factor *= f16_to_f32(m->scales[r * m->scale_row]);
			factor /= (float)(1u << m->index_bits);
			for (size_t e = 0; e < n_entries; e += block)
				*at = fmaf(block_total(m, entries, e, min_u64(e + block, n_entries),
						   x + t, x_stride),
					factor, *at);
		}
	}
}

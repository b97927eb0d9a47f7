#include "kernels/convert.h"
#include "kernels/pack.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

/* By their bits, so that a NaN is larger than any number. */
static float largest_of(const float x[static MAT_INT_GROUP])
{
	uint32_t largest = 0;

	for (size_t i = 0; i < MAT_INT_GROUP; i++) {
		uint32_t bits = f32_to_bits(x[i]) & 0x7fffffff;

		largest = bits > largest ? bits : largest;
	}
	return f32_from_bits(largest);
}

static void round_group(struct act_group *ret, const float x[static MAT_INT_GROUP])
{
	float largest = largest_of(x), inverse;

	memset(ret, 0, sizeof(*ret));
	if (largest < 0x1p-100f)
		return;
	inverse = 127 / largest;
	ret->scale = largest / 127;
	for (size_t i = 0; i < MAT_INT_GROUP; i++) {
		ret->codes[i] = (int8_t)lrintf(x[i] * inverse);
		ret->sums[i / MAT_INT_SUBGROUP] =
			(int16_t)(ret->sums[i / MAT_INT_SUBGROUP] + ret->codes[i]);
	}
}

void ref_act_round(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
	size_t n, uint32_t cols)
{
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < mat_int_groups(cols); g++) {
			const float *from = x + t * x_stride + g * MAT_INT_GROUP;
			size_t left = cols - g * MAT_INT_GROUP;
			float group[MAT_INT_GROUP] = {0};

			memcpy(group, from, min_u64(left, MAT_INT_GROUP) * sizeof(*group));
			round_group(&ret[g * ret_stride + t], group);
		}
}

static float dot(const struct mat_int *w, uint32_t row, const struct act_group *x, size_t x_stride)
{
	int8_t numbers[MAT_INT_GROUP];
	float sum = 0;

	for (size_t g = 0; g < mat_int_groups(w->cols); g++, x += x_stride) {
		float scale = x->scale * mat_int_scale(w, row, g);
		int32_t exact = 0;

		mat_int_group_numbers(numbers, w, row, g);
		for (size_t i = 0; i < MAT_INT_GROUP; i++)
			exact += numbers[i] * x->codes[i];
		sum = fmaf((float)exact, scale, sum);
	}
	return sum;
}

void ref_matmul_int(float *y, size_t y_stride, const struct mat_int *w, const struct act_group *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	size_t end = min_u64(block1 * MAT_BLOCK, w->rows);

	for (size_t o = block0 * MAT_BLOCK; o < end; o++)
		for (size_t t = 0; t < n; t++)
			y[t * y_stride + o] = dot(w, (uint32_t)o, x + t, x_stride);
}

#include "kernels/convert.h"
#include "kernels/ref/ref.h"

static double dot(const struct mat_bf16 *w, uint32_t row, const float *x)
{
	double sum = 0;

	for (uint32_t c = 0; c < w->cols; c++)
		sum += (double)bf16_to_f32(w->data[mat_bf16_index(w->cols, row, c)]) * x[c];
	return sum;
}

void ref_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	size_t end = block1 * MAT_BLOCK < w->rows ? block1 * MAT_BLOCK : w->rows;

	for (size_t o = block0 * MAT_BLOCK; o < end; o++)
		for (size_t t = 0; t < n; t++)
			y[t * y_stride + o] = (float)dot(w, (uint32_t)o, x + t * x_stride);
}

void ref_mat_row(float *ret, const struct mat_bf16 *w, uint32_t row)
{
	for (uint32_t c = 0; c < w->cols; c++)
		ret[c] = bf16_to_f32(w->data[mat_bf16_index(w->cols, row, c)]);
}

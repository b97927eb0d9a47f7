#include "compress/spectrum.h"

#include "kernels/blas.h"

#include <math.h>
#include <string.h>

/* The matrix with its longer side first, so that the Gram matrix is the smaller one. */
static float *upright(const float *d, uint32_t rows, uint32_t cols)
{
	float *x = malloc(((size_t)rows * cols + 1) * sizeof(*x));

	if (!x)
		return NULL;
	if (rows >= cols)
		return memcpy(x, d, (size_t)rows * cols * sizeof(*x));
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++)
			x[(size_t)c * rows + r] = d[(size_t)r * cols + c];
	return x;
}

/* `values` are the squared singular values, ascending. */
static void sum_up(const double *values, uint32_t n, uint8_t *ret)
{
	double all = 0, sum = 0;
	uint32_t taken = 0;

	for (uint32_t i = 0; i < n; i++)
		all += fmax(0, values[i]);
	for (uint32_t i = 0; all > 0 && i < FORMAT_SPECTRUM; i++) {
		uint32_t end =
			(uint32_t)(((uint64_t)n * (i + 1) + FORMAT_SPECTRUM - 1) / FORMAT_SPECTRUM);

		for (; taken < end; taken++)
			sum += fmax(0, values[n - 1 - taken]);
		ret[i] = (uint8_t)lrint(255 * sum / all);
	}
}

int spectrum_measure(
	const float *d, uint32_t rows, uint32_t cols, uint8_t ret[static FORMAT_SPECTRUM])
{
	uint32_t n = (uint32_t)min_u64(rows, cols), longer = (uint32_t)max_u64(rows, cols);
	_cleanup_(freep) double *gram = NULL;
	_cleanup_(freep) double *values = NULL;
	_cleanup_(freep) float *x = NULL;
	int r;

	memset(ret, 0, FORMAT_SPECTRUM);
	if (n == 0 || n > SPECTRUM_MAX_RANKS)
		return 0;
	gram = calloc((size_t)n * n, sizeof(*gram));
	values = malloc(n * sizeof(*values));
	x = upright(d, rows, cols);
	if (!gram || !values || !x)
		return -ENOMEM;
	r = blas_gram_add(gram, x, n, longer, n);
	if (r < 0)
		return r;
	r = blas_eigen(gram, n, values);
	if (r > 0)
		return -EDOM;
	if (r == 0)
		sum_up(values, n, ret);
	return r;
}

#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#include <math.h>

void ref_rms_norm(float *y, const float *x, const float *w, size_t n, float eps)
{
	double squares = 0, factor;

	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		squares += (double)x[i] * x[i];
	factor = 1 / sqrt(squares / (double)n + eps);
	for (size_t i = 0; i < n; i++)
		y[i] = (float)(x[i] * factor * w[i]);
}

void ref_rope(float *x, const float *cosines, const float *sines, size_t n)
{
	size_t half = n / 2;

	for (size_t i = 0; i < half; i++) {
		double a = x[i], b = x[i + half];

		x[i] = (float)(a * cosines[i] - b * sines[i]);
		x[i + half] = (float)(b * cosines[i] + a * sines[i]);
	}
}

void ref_silu_mul(float *y, const float *gate, const float *up, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

void ref_add(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] += x[i];
}

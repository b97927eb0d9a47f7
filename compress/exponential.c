#include "compress/exponential.h"

#include <string.h>

#define LANES 16u
#define LEAST (-87.33654f) /* below it numbers are not normal */
#define MOST 88.37626f

/* Adding and taking it away rounds to an integer. */
#define ROUNDER 12582912.0f
/* ln 2 in two parts, the first with zeros at its end. */
#define LN2_HIGH 0.693359375f
#define LN2_LOW (-2.12194440e-4f)

/* exp(x) = 2^n exp(r), |r| <= ln 2 / 2, by its Taylor polynomial with the last terms adjusted
 * (Cephes, expf). */
static inline float exponential(float x)
{
	float clipped = x < LEAST ? LEAST : x > MOST ? MOST : x;
	float n = (clipped * 1.44269504f + ROUNDER) - ROUNDER;
	float r = clipped - n * LN2_HIGH - n * LN2_LOW, p = 1.9875691500e-4f, power;
	uint32_t bits = ((uint32_t)(int32_t)n + 127) << 23;

	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * (r * r) + r + 1;
	memcpy(&power, &bits, sizeof(power));
	return p * power;
}

_vector_clones_ static float largest(const float *x, size_t n)
{
	float tops[LANES], top;
	size_t i = 0;

	for (size_t k = 0; k < LANES; k++)
		tops[k] = x[0];
	for (; i + LANES <= n; i += LANES)
		for (size_t k = 0; k < LANES; k++)
			tops[k] = x[i + k] > tops[k] ? x[i + k] : tops[k];
	for (; i < n; i++)
		tops[0] = x[i] > tops[0] ? x[i] : tops[0];
	top = tops[0];
	for (size_t k = 1; k < LANES; k++)
		top = tops[k] > top ? tops[k] : top;
	return top;
}

_vector_clones_ static double make_all(float *y, const float *x, float scale, float top, size_t n)
{
	double sums[LANES] = {0}, sum = 0;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		for (size_t k = 0; k < LANES; k++) {
			float e = exponential(x[i + k] * scale - top);

			y[i + k] = e;
			sums[k] += (double)e;
		}
	for (; i < n; i++) {
		y[i] = exponential(x[i] * scale - top);
		sum += (double)y[i];
	}
	for (size_t k = 0; k < LANES; k++)
		sum += sums[k];
	return sum;
}

float exponential_top(const float *x, float scale, size_t n)
{
	return largest(x, n) * scale;
}

double exponential_sum(float *y, const float *x, float scale, float top, size_t n)
{
	return make_all(y, x, scale, top, n);
}

#include "compress/row_grid.h"

#include "kernels/convert.h"

#include <math.h>

#define SHARES 20
#define ROUNDS 8
#define LARGEST_HALF 65504.0
#define SMALLEST_HALF 0x1p-24

static double code_of(double value, double scale, uint32_t bits)
{
	double last = (double)((1u << bits) - 1);

	return fmin(last, fmax(0, nearbyint(value / scale + last / 2)));
}

static double squared_error(const float *values, uint32_t n, uint32_t bits, double scale)
{
	double zero = (double)row_grid_zero(bits), sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		double value = (double)values[i];
		double error = value - scale * (code_of(value, scale, bits) - zero);

		sum += error * error;
	}
	return sum;
}

/* The best scale for the codes that the values get at this one. */
static double refine(const float *values, uint32_t n, uint32_t bits, double scale)
{
	double zero = (double)row_grid_zero(bits), sum_vq = 0, sum_qq = 0;

	for (uint32_t i = 0; i < n; i++) {
		double q = code_of((double)values[i], scale, bits) - zero;

		sum_vq += (double)values[i] * q;
		sum_qq += q * q;
	}
	return sum_vq / sum_qq;
}

static uint16_t half_of(double scale)
{
	return f16_from_f32((float)fmin(LARGEST_HALF, fmax(SMALLEST_HALF, scale)));
}

/* The clipping that loses least: what is past share x largest is cut off. */
static double search(const float *values, uint32_t n, uint32_t bits, double largest)
{
	double whole = largest / fmax(0.5, (double)row_grid_zero(bits));
	double best = whole, least = INFINITY;

	for (int i = 0; i < SHARES; i++) {
		double scale = whole * (SHARES - i) / SHARES;
		double error = squared_error(values, n, bits, scale);

		if (error < least) {
			least = error;
			best = scale;
		}
	}
	return best;
}

double row_grid_fit(const float *values, uint32_t n, uint32_t bits, uint16_t *ret_scale)
{
	double largest = 0, scale;

	for (uint32_t i = 0; i < n; i++)
		largest = fmax(largest, fabs((double)values[i]));
	scale = largest > 0 ? search(values, n, bits, largest) : 0;
	for (int round = 0; largest > 0 && round < ROUNDS; round++) {
		double next = refine(values, n, bits, scale);

		if (!(next > 0) || fabs(next - scale) < 1e-6 * scale)
			break;
		scale = next;
	}
	*ret_scale = half_of(scale);
	return squared_error(values, n, bits, (double)f16_to_f32(*ret_scale));
}

void row_grid_codes(
	const float *values, uint32_t n, uint32_t bits, uint16_t scale, uint8_t *ret_codes)
{
	double step = (double)f16_to_f32(scale);

	for (uint32_t i = 0; i < n; i++)
		ret_codes[i] = (uint8_t)code_of((double)values[i], step, bits);
}

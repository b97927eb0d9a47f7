/* Symmetric grids of rows against a search over all scales. */
#include "compress/row_grid.h"

#include "kernels/convert.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define N 96

static uint64_t state_of_noise = 1;

static double noise(void)
{
	state_of_noise = state_of_noise * 6364136223846793005u + 1442695040888963407u;
	return (double)(state_of_noise >> 11) / 9007199254740992.0;
}

/* About Gaussian, with a heavy tail now and then. */
static void fill(float *values, double size)
{
	for (int i = 0; i < N; i++) {
		double sum = -6;

		for (int k = 0; k < 12; k++)
			sum += noise();
		values[i] = (float)(size * sum * (noise() < 0.02 ? 5 : 1));
	}
}

/* Squared error with the nearest of all values of the grid, found by looking at each. */
static double error_at(const float *values, int bits, double scale)
{
	double sum = 0;

	for (int i = 0; i < N; i++) {
		double least = INFINITY;

		for (int code = 0; code < 1 << bits; code++) {
			double value = scale * (code - ((1 << bits) - 1) / 2.0);

			least = fmin(least, pow((double)values[i] - value, 2));
		}
		sum += least;
	}
	return sum;
}

static double best_error(const float *values, int bits)
{
	double largest = 0, best = INFINITY;

	for (int i = 0; i < N; i++)
		largest = fmax(largest, fabs((double)values[i]));
	for (int i = 1; i <= 2000; i++)
		best = fmin(best, error_at(values, bits, 2 * largest * i / 2000));
	return best;
}

static void test_fit_is_near_the_best(void **state)
{
	static const int widths[] = {1, 2, 3, 4};
	float values[N];

	(void)state;
	for (int round = 0; round < 6; round++) {
		fill(values, 0.01 * (round + 1));
		for (size_t i = 0; i < array_len(widths); i++) {
			uint16_t scale;
			double found = row_grid_fit(values, N, (uint32_t)widths[i], &scale);
			double best = best_error(values, widths[i]);

			if (found > 1.03 * best)
				fail_msg("%d bits: error %g, possible %g", widths[i], found, best);
		}
	}
}

static void test_codes_have_the_promised_error(void **state)
{
	uint8_t codes[N];
	float values[N];

	(void)state;
	fill(values, 0.3);
	for (uint32_t bits = 1; bits <= 8; bits++) {
		double promised, sum = 0;
		uint16_t scale;

		promised = row_grid_fit(values, N, bits, &scale);
		row_grid_codes(values, N, bits, scale, codes);
		for (int i = 0; i < N; i++) {
			assert_true(codes[i] < 1u << bits);
			sum += pow(
				(double)values[i] - (double)f16_to_f32(scale) *
							    (codes[i] - ((1u << bits) - 1) / 2.0),
				2);
		}
		assert_true(fabs(sum - promised) <= 1e-9 * promised);
	}
}

/* Zeros, numbers below what fp16 holds, numbers above it: a finite scale and finite errors. */
static void test_extremes(void **state)
{
	static const float sizes[] = {0, 1e-12f, 1e30f};
	float values[N];

	(void)state;
	for (size_t s = 0; s < array_len(sizes); s++)
		for (uint32_t bits = 1; bits <= 8; bits++) {
			uint16_t scale;
			double error;

			for (int i = 0; i < N; i++)
				values[i] = i % 2 ? sizes[s] : -sizes[s];
			error = row_grid_fit(values, N, bits, &scale);
			assert_true(isfinite(error) && error >= 0);
			assert_true(isfinite(f16_to_f32(scale)) && f16_to_f32(scale) > 0);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fit_is_near_the_best),
		cmocka_unit_test(test_codes_have_the_promised_error),
		cmocka_unit_test(test_extremes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

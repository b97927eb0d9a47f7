/* Spectra of matrices whose singular values are known. */
#include "compress/spectrum.h"

#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 32u
#define LONG 40u

/* Row r has one number, 2^-r or 1, at a column of its own. */
static void fill(float *d, uint32_t cols, bool flat)
{
	memset(d, 0, N * LONG * sizeof(*d));
	for (uint32_t r = 0; r < N; r++)
		d[(size_t)r * cols + (r * 7 + 3) % N] = flat ? 1 : ldexpf(1, -(int)r);
}

static void check(const float *d, uint32_t rows, uint32_t cols, bool flat)
{
	uint8_t spectrum[FORMAT_SPECTRUM];

	assert_int_equal(spectrum_measure(d, rows, cols, spectrum), 0);
	for (int i = 0; i < (int)FORMAT_SPECTRUM; i++) {
		/* The first 2 (i + 1) of 32: all alike, or a geometric series of 1/4. */
		double share = flat ? (i + 1) / 16.0 : 1 - pow(0.25, 2 * (i + 1));

		assert_true(fabs(spectrum[i] - 255 * share) <= 0.51);
	}
}

static void test_known(void **state)
{
	static float d[N * LONG], turned[N * LONG];

	(void)state;
	for (int flat = 0; flat < 2; flat++) {
		fill(d, LONG, flat);
		check(d, N, LONG, flat);
		for (uint32_t r = 0; r < N; r++)
			for (uint32_t c = 0; c < LONG; c++)
				turned[c * N + r] = d[r * LONG + c];
		check(turned, LONG, N, flat);
	}
}

static void test_nothing(void **state)
{
	static const float zeros[12];
	uint8_t spectrum[FORMAT_SPECTRUM];

	(void)state;
	memset(spectrum, 7, sizeof(spectrum));
	assert_int_equal(spectrum_measure(zeros, 3, 4, spectrum), 0);
	for (size_t i = 0; i < FORMAT_SPECTRUM; i++)
		assert_int_equal(spectrum[i], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_nothing),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}

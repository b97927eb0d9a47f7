/* Exponentials against libm in double. */
#include "compress/exponential.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define N 100003u

static float x[N], y[N];

static void test_every_one_is_right(void **state)
{
	double sum = 0, worst = 0;

	(void)state;
	for (size_t i = 0; i < N; i++)
		x[i] = -86 + 172 * (float)i / N;
	for (size_t i = 0; i < N; i++)
		sum += exp((double)x[i] * 1 - 0);
	assert_true(fabs(exponential_sum(y, x, 1, 0, N) / sum - 1) < 1e-6);
	for (size_t i = 0; i < N; i++)
		worst = fmax(worst, fabs((double)y[i] / exp((double)x[i]) - 1));
	assert_true(worst < 2.4e-7);
}

static void test_scaled_from_the_top_and_in_place(void **state)
{
	float top, z[37];
	double sum;

	(void)state;
	for (size_t i = 0; i < array_len(z); i++)
		z[i] = sinf((float)i) * 40;
	memcpy(x, z, sizeof(z));
	top = exponential_top(z, .25f, array_len(z));
	assert_true(top == .25f * 40 * sinf(33));
	sum = exponential_sum(z, z, .25f, top, array_len(z));
	for (size_t i = 0; i < array_len(z); i++) {
		double right = exp((double)(x[i] * .25f - top));

		assert_true(fabs((double)z[i] - right) <= 3e-7 * right);
		sum -= (double)z[i];
	}
	assert_true(fabs(sum) < 1e-12);
}

static void test_the_ends(void **state)
{
	const float ends[] = {-INFINITY, -1e30f, -100, 0, 88};

	(void)state;
	exponential_sum(y, ends, 1, 0, array_len(ends));
	for (size_t i = 0; i < 3; i++)
		assert_true(y[i] >= 0 && y[i] < 1.3e-38f);
	assert_true(y[3] == 1);
	assert_true(fabs((double)y[4] / exp(88) - 1) < 2.4e-7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_one_is_right),
		cmocka_unit_test(test_scaled_from_the_top_and_in_place),
		cmocka_unit_test(test_the_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

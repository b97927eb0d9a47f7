/* The decomposition multiplied out again in double. */
#include "compress/svd.h"

#include "kernels/blas.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static float *numbers(size_t n, uint64_t seed)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		x[i] = (float)((double)(seed >> 33) / 2147483648.0 - 0.5);
	}
	return x;
}

static struct svd *decomposed(const float *a, uint32_t rows, uint32_t cols)
{
	struct reason reason = {0};
	struct svd *s;

	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(svd_new(a, rows, cols, &s, &reason), 0);
	return s;
}

static double residual(const struct svd *s, const float *a, uint32_t rank)
{
	double sum = 0;

	for (uint32_t r = 0; r < s->rows; r++)
		for (uint32_t c = 0; c < s->cols; c++) {
			double value = 0;

			for (uint32_t i = 0; i < rank; i++)
				value += s->sigma[i] * s->u[(size_t)i * s->rows + r] *
					 s->v[(size_t)i * s->cols + c];
			value -= (double)a[(size_t)r * s->cols + c];
			sum += value * value;
		}
	return sum;
}

static void test_full_rank_gives_the_matrix_back(void **state)
{
	static const uint32_t shapes[][2] = {{1, 1}, {1, 9}, {9, 1}, {40, 40}, {64, 23}, {23, 64}};

	(void)state;
	for (size_t i = 0; i < array_len(shapes); i++) {
		uint32_t rows = shapes[i][0], cols = shapes[i][1];
		_cleanup_(freep) float *a = numbers((size_t)rows * cols, i + 1);
		_cleanup_(svd_freep) struct svd *s = decomposed(a, rows, cols);

		assert_int_equal(s->rank, rows < cols ? rows : cols);
		assert_true(residual(s, a, s->rank) < 1e-24 * rows * cols);
		for (uint32_t k = 1; k < s->rank; k++)
			assert_true(s->sigma[k] <= s->sigma[k - 1]);
	}
}

static void test_vectors_have_unit_mean_square(void **state)
{
	_cleanup_(freep) float *a = numbers(50 * 30, 4);
	_cleanup_(svd_freep) struct svd *s = decomposed(a, 50, 30);

	(void)state;
	for (uint32_t i = 0; i < s->rank; i++)
		for (uint32_t j = 0; j <= i; j++) {
			double u = 0, v = 0;

			for (uint32_t r = 0; r < 50; r++)
				u += s->u[i * 50 + r] * s->u[j * 50 + r] / 50;
			for (uint32_t c = 0; c < 30; c++)
				v += s->v[i * 30 + c] * s->v[j * 30 + c] / 30;
			assert_true(fabs(u - (i == j)) < 1e-12);
			assert_true(fabs(v - (i == j)) < 1e-12);
		}
}

/* Eckart and Young: what is cut off is the energy of the dropped components. */
static void test_energy_is_what_truncation_loses(void **state)
{
	_cleanup_(freep) float *a = numbers(31 * 47, 5);
	_cleanup_(svd_freep) struct svd *s = decomposed(a, 31, 47);
	double total = residual(s, a, 0);

	(void)state;
	for (uint32_t rank = 0; rank <= s->rank; rank += 7)
		assert_true(fabs(residual(s, a, rank) - (1 - svd_energy(s, rank)) * total) <
			    1e-12 * total);
}

static void test_numbers_that_are_not_finite_are_refused(void **state)
{
	float a[4] = {1, 2, INFINITY, 4};
	struct reason reason = {0};
	struct svd *s = NULL;

	(void)state;
	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(svd_new(a, 2, 2, &s, &reason), -EDOM);
	assert_null(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_rank_gives_the_matrix_back),
		cmocka_unit_test(test_vectors_have_unit_mean_square),
		cmocka_unit_test(test_energy_is_what_truncation_loses),
		cmocka_unit_test(test_numbers_that_are_not_finite_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

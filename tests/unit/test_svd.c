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

/* Noise under a falling spectrum: a product of two random matrices, the second one's rows scaled.
 */
static float *decaying(uint32_t rows, uint32_t cols, uint32_t rank, double fall)
{
	_cleanup_(freep) float *u = numbers((size_t)rows * rank, 7);
	_cleanup_(freep) float *v = numbers((size_t)rank * cols, 8);
	float *a = numbers((size_t)rows * cols, 9);

	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t c = 0; c < cols; c++) {
			double sum = 1e-5 * (double)a[(size_t)r * cols + c], scale = 1;

			for (uint32_t k = 0; k < rank; k++, scale *= fall)
				sum += scale * (double)u[r * rank + k] * (double)v[k * cols + c];
			a[(size_t)r * cols + c] = (float)sum;
		}
	return a;
}

static void check_orthonormal(const double *x, uint32_t n, uint32_t length)
{
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t j = 0; j <= i; j++) {
			double sum = 0;

			for (uint32_t k = 0; k < length; k++)
				sum += x[(size_t)i * length + k] * x[(size_t)j * length + k];
			assert_true(fabs(sum / length - (i == j)) < 1e-9);
		}
}

static void check_route(enum svd_route route, uint32_t rows, uint32_t cols)
{
	enum { N = 24 };
	_cleanup_(freep) float *a = decaying(rows, cols, 40, 0.9);
	_cleanup_(svd_freep) struct svd *exact = decomposed(a, rows, cols);
	_cleanup_(svd_freep) struct svd *s = NULL;
	struct svd_problem p = {a, rows, cols, N, route};
	double total = residual(exact, a, 0);

	assert_int_equal(svd_solve(NULL, &p, &s, NULL), 0);
	assert_int_equal(s->rank, N);
	for (uint32_t i = 0; i < N; i++)
		assert_true(fabs(s->sigma[i] / exact->sigma[i] - 1) < 1e-6);
	assert_true(fabs(svd_energy(s, N) / svd_energy(exact, N) - 1) < 1e-6);
	assert_true(fabs(residual(s, a, N) - residual(exact, a, N)) < 1e-6 * total);
	check_orthonormal(s->u, N, rows);
	check_orthonormal(s->v, N, cols);
}

static void test_routes_agree_with_the_exact_one(void **state)
{
	static const uint32_t shapes[][2] = {{150, 150}, {130, 210}, {210, 130}, {300, 70}};

	(void)state;
	for (size_t i = 0; i < array_len(shapes); i++) {
		check_route(SVD_GRAM, shapes[i][0], shapes[i][1]);
		check_route(SVD_RANDOMISED, shapes[i][0], shapes[i][1]);
	}
}

/* A LoRA's delta: what is asked for is more than there is. */
static void test_fewer_components_than_asked_for(void **state)
{
	static const enum svd_route routes[] = {SVD_GRAM, SVD_RANDOMISED};
	_cleanup_(freep) float *u = numbers(200 * 3, 1);
	_cleanup_(freep) float *v = numbers(3 * 180, 2);
	_cleanup_(freep) float *a = calloc(200 * 180, sizeof(*a));

	(void)state;
	for (size_t i = 0; i < 200 * 180; i++)
		for (size_t k = 0; k < 3; k++)
			a[i] += u[i / 180 * 3 + k] * v[k * 180 + i % 180];
	for (size_t i = 0; i < array_len(routes); i++) {
		_cleanup_(svd_freep) struct svd *s = NULL;
		struct svd_problem p = {a, 200, 180, 10, routes[i]};

		assert_int_equal(svd_solve(NULL, &p, &s, NULL), 0);
		assert_true(s->sigma[2] > 1e-3 * s->sigma[0]);
		assert_true(s->sigma[3] < 1e-6 * s->sigma[0]);
		assert_true(residual(s, a, 10) < 1e-11 * residual(s, a, 0));
		assert_true(fabs(svd_energy(s, 3) - 1) < 1e-11);
	}
	memset(a, 0, 200 * 180 * sizeof(*a));
	for (size_t i = 0; i < array_len(routes); i++) {
		_cleanup_(svd_freep) struct svd *s = NULL;
		struct svd_problem p = {a, 200, 180, 10, routes[i]};

		assert_int_equal(svd_solve(NULL, &p, &s, NULL), 0);
		assert_true(s->sigma[0] == 0 && svd_energy(s, 10) == 1);
	}
}

static void test_threads_do_not_matter(void **state)
{
	static const enum svd_route routes[] = {SVD_GRAM, SVD_RANDOMISED};
	_cleanup_(freep) float *a = numbers(500 * 300, 3);
	_cleanup_(poolp) struct pool *pool = NULL;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(pool_new(3, &pool, &reason), 0);
	for (size_t i = 0; i < array_len(routes); i++) {
		_cleanup_(svd_freep) struct svd *one = NULL;
		_cleanup_(svd_freep) struct svd *three = NULL;
		struct svd_problem p = {a, 500, 300, 20, routes[i]};

		assert_int_equal(svd_solve(NULL, &p, &one, NULL), 0);
		assert_int_equal(svd_solve(pool, &p, &three, NULL), 0);
		assert_memory_equal(one->u, three->u, 20 * 500 * sizeof(*one->u));
		assert_memory_equal(one->v, three->v, 20 * 300 * sizeof(*one->v));
		assert_memory_equal(one->sigma, three->sigma, 20 * sizeof(*one->sigma));
	}
}

static void test_route_follows_cost(void **state)
{
	(void)state;
	assert_int_equal(svd_route(384, 1024, 86), SVD_EXACT);
	assert_int_equal(svd_route(4096, 4096, 200), SVD_RANDOMISED);
	assert_int_equal(svd_route(4096, 11008, 4096), SVD_GRAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_rank_gives_the_matrix_back),
		cmocka_unit_test(test_vectors_have_unit_mean_square),
		cmocka_unit_test(test_energy_is_what_truncation_loses),
		cmocka_unit_test(test_numbers_that_are_not_finite_are_refused),
		cmocka_unit_test(test_routes_agree_with_the_exact_one),
		cmocka_unit_test(test_fewer_components_than_asked_for),
		cmocka_unit_test(test_threads_do_not_matter),
		cmocka_unit_test(test_route_follows_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Blocked factors and inverses against their definitions, whatever the number of threads. */
#include "compress/cholesky.h"
#include "compress/product.h"
#include "compress/triangle.h"
#include "kernels/blas.h"
#include "tests/compute.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const size_t sizes[] = {1, 7, 256, 257, 700};

static double *positive_matrix(size_t n)
{
	double *a = calloc(n * n, sizeof(*a)), *x = malloc(2 * n * n * sizeof(*x));
	uint64_t state = n;

	assert_non_null(a);
	assert_non_null(x);
	for (size_t i = 0; i < 2 * n * n; i++)
		x[i] = normal_next(&state);
	for (size_t t = 0; t < 2 * n; t++)
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < n; j++)
				a[i * n + j] += x[t * n + i] * x[t * n + j] / (double)n;
	free(x);
	return a;
}

static double *copy_of(const double *a, size_t n)
{
	double *ret = malloc(n * n * sizeof(*ret));

	assert_non_null(ret);
	return memcpy(ret, a, n * n * sizeof(*ret));
}

/* Largest |sum_k left(i, k) right(k, j) - expected(i, j)|, both lower triangles, the second
 * transposed or not. */
static double difference(
	const double *left, const double *right, bool transposed, const double *expected, size_t n)
{
	double worst = 0;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j <= i; j++) {
			double sum = 0, wanted = expected ? expected[i * n + j] : i == j;
			size_t first = transposed ? 0 : j, last = transposed ? j : i;

			for (size_t k = first; k <= last; k++)
				sum += left[i * n + k] * right[transposed ? j * n + k : k * n + j];
			worst = fmax(worst, fabs(sum - wanted));
		}
	return worst;
}

static void check_size(struct pool *pool, size_t n)
{
	double *a = positive_matrix(n), *l = copy_of(a, n), *alone = copy_of(a, n), *inverse;

	assert_int_equal(cholesky_factor(pool, l, n), 0);
	assert_int_equal(cholesky_factor(NULL, alone, n), 0);
	for (size_t i = 0; i < n; i++)
		assert_memory_equal(l + i * n, alone + i * n, (i + 1) * sizeof(*l));
	assert_true(difference(l, l, true, a, n) < 1e-10);
	inverse = copy_of(l, n);
	assert_int_equal(triangle_inverse(pool, inverse, n), 0);
	assert_int_equal(triangle_inverse(NULL, alone, n), 0);
	assert_memory_equal(inverse, alone, n * n * sizeof(*inverse));
	assert_true(difference(inverse, l, false, NULL, n) < 1e-9);
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++)
			assert_true(inverse[i * n + j] == 0);
	free(a);
	free(l);
	free(alone);
	free(inverse);
}

static void test_factor_and_inverse(void **state)
{
	struct reason reason = {0};
	struct pool *pool;

	(void)state;
	assert_int_equal(pool_new(3, &pool, &reason), 0);
	for (size_t i = 0; i < array_len(sizes); i++)
		check_size(pool, sizes[i]);
	pool_free(pool);
}

/* In the first block, and in a later one, which only what was subtracted makes so. */
static void test_not_positive(void **state)
{
	size_t n = 300;
	double *a = positive_matrix(n);

	(void)state;
	a[5 * n + 5] = -1;
	assert_int_equal(cholesky_factor(NULL, a, n), BLAS_E_NOT_POSITIVE);
	free(a);
	a = positive_matrix(n);
	for (size_t j = 0; j < n; j++)
		a[290 * n + j] = a[3 * n + j];
	a[290 * n + 290] = a[3 * n + 3] - 1e-3;
	assert_int_equal(cholesky_factor(NULL, a, n), BLAS_E_NOT_POSITIVE);
	a[0] = 0;
	assert_int_equal(triangle_inverse(NULL, a, n), BLAS_E_SINGULAR);
	free(a);
}

static void test_product(void **state)
{
	enum { M = 300, N = 41, K = 60 };
	const struct blas_gemm gemm = {.m = M, .n = N, .k = K, .alpha = 2, .beta = -1};
	double a[M * K], b[K * N], c[M * N], expected[M * N];
	uint64_t seed = 4;
	struct reason reason = {0};
	struct pool *pool;

	(void)state;
	for (size_t i = 0; i < M * K; i++)
		a[i] = normal_next(&seed);
	for (size_t i = 0; i < K * N; i++)
		b[i] = normal_next(&seed);
	for (size_t i = 0; i < M * N; i++)
		c[i] = normal_next(&seed);
	for (size_t i = 0; i < M; i++)
		for (size_t j = 0; j < N; j++) {
			expected[i * N + j] = -c[i * N + j];
			for (size_t k = 0; k < K; k++)
				expected[i * N + j] += 2 * a[i * K + k] * b[k * N + j];
		}
	assert_int_equal(pool_new(2, &pool, &reason), 0);
	product_f64(pool, &gemm, a, b, c);
	for (size_t i = 0; i < M * N; i++)
		assert_true(fabs(c[i] - expected[i]) < 1e-10);
	pool_free(pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_factor_and_inverse),
		cmocka_unit_test(test_not_positive),
		cmocka_unit_test(test_product),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}

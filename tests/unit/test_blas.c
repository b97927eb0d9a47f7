/* Each routine against naive loops in double or long double, or against what defines its result. */
#include "kernels/blas.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static uint64_t state = 1;

static double uniform(void)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (double)(state >> 11) * 0x1p-52 - 1;
}

static double *matrix(size_t rows, size_t cols)
{
	double *a = calloc(rows * cols + 1, sizeof(*a));

	assert_non_null(a);
	for (size_t i = 0; i < rows * cols; i++)
		a[i] = uniform();
	return a;
}

static double *copy_of(const double *a, size_t n)
{
	double *b = calloc(n + 1, sizeof(*b));

	assert_non_null(b);
	memcpy(b, a, n * sizeof(*b));
	return b;
}

static void expect_near(double got, double expected, double tolerance)
{
	if (!(fabs(got - expected) <= tolerance))
		fail_msg("got %.17g, expected %.17g within %g", got, expected, tolerance);
}

static void check_gemm(size_t m, size_t n, size_t k, bool ta, bool tb)
{
	_cleanup_(freep) double *a = matrix(m, k), *b = matrix(k, n), *c = matrix(m, n);
	_cleanup_(freep) double *old = copy_of(c, m * n);
	_cleanup_(freep) float *af = calloc(m * k, sizeof(float)),
			       *bf = calloc(k * n, sizeof(float)),
			       *cf = calloc(m * n, sizeof(float));
	struct blas_gemm g = {.m = m,
		.n = n,
		.k = k,
		.transpose_a = ta,
		.transpose_b = tb,
		.alpha = 0.5,
		.beta = 2};

	for (size_t i = 0; i < m * k; i++)
		af[i] = (float)a[i];
	for (size_t i = 0; i < k * n; i++)
		bf[i] = (float)b[i];
	for (size_t i = 0; i < m * n; i++)
		cf[i] = (float)c[i];
	blas_gemm_f64(&g, a, b, c);
	blas_gemm_f32(&g, af, bf, cf);
	for (size_t i = 0; i < m; i++) {
		for (size_t j = 0; j < n; j++) {
			double sum = 0;

			for (size_t l = 0; l < k; l++)
				sum += (ta ? a[l * m + i] : a[i * k + l]) *
				       (tb ? b[j * k + l] : b[l * n + j]);
			expect_near(c[i * n + j], 0.5 * sum + 2 * old[i * n + j],
				1e-14 * (double)(k + 8));
			expect_near(cf[i * n + j], 0.5 * sum + 2 * old[i * n + j],
				1e-7 * (double)(k + 8));
		}
	}
}

static void test_gemm(void **unused)
{
	(void)unused;
	for (int op = 0; op < 4; op++) {
		check_gemm(1, 1, 1, op & 1, op & 2);
		check_gemm(3, 17, 5, op & 1, op & 2);
		check_gemm(33, 20, 65, op & 1, op & 2);
	}
}

static void test_gemm_strides(void **unused)
{
	_cleanup_(freep) double *a = matrix(4, 7), *b = matrix(5, 9), *c = matrix(4, 11);
	_cleanup_(freep) double *old = copy_of(c, 44);
	struct blas_gemm g = {
		.m = 4, .n = 6, .k = 5, .alpha = 1, .a_stride = 7, .b_stride = 9, .c_stride = 11};

	(void)unused;
	blas_gemm_f64(&g, a, b, c);
	for (size_t i = 0; i < 4; i++) {
		for (size_t j = 0; j < 11; j++) {
			double sum = 0;

			for (size_t l = 0; l < 5 && j < 6; l++)
				sum += a[i * 7 + l] * b[l * 9 + j];
			expect_near(
				c[i * 11 + j], j < 6 ? sum : old[i * 11 + j], j < 6 ? 1e-14 : 0);
		}
	}
}

static void test_gram(void **unused)
{
	enum { N = 37, ROWS = 300, STRIDE = 40 };
	_cleanup_(freep) double *gram = matrix(N, N), *old = copy_of(gram, N * N);
	_cleanup_(freep) float *x = calloc(ROWS * STRIDE, sizeof(float));

	(void)unused;
	for (size_t i = 0; i < ROWS * STRIDE; i++)
		x[i] = (float)uniform();
	assert_int_equal(blas_gram_add(gram, x, STRIDE, ROWS, N), 0);
	for (size_t i = 0; i < N; i++) {
		for (size_t j = 0; j < N; j++) {
			double sum = old[i * N + j];

			for (size_t t = 0; t < ROWS && j >= i; t++)
				sum += (double)x[t * STRIDE + i] * x[t * STRIDE + j];
			expect_near(gram[i * N + j], sum, j >= i ? 1e-12 : 0);
		}
	}
	blas_mirror_upper(gram, N);
	for (size_t i = 0; i < N; i++)
		for (size_t j = 0; j < N; j++)
			assert_true(gram[i * N + j] == gram[j * N + i]);
}

/* B B^T + n I: symmetric, positive, well conditioned. */
static double *positive_matrix(size_t n)
{
	_cleanup_(freep) double *b = matrix(n, n);
	double *a = matrix(n, n);

	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++) {
			a[i * n + j] = i == j ? (double)n : 0;
			for (size_t l = 0; l < n; l++)
				a[i * n + j] += b[i * n + l] * b[j * n + l];
		}
	}
	return a;
}

static bool in_triangle(size_t i, size_t j, enum blas_triangle triangle)
{
	return triangle == BLAS_LOWER ? j <= i : j >= i;
}

static void keep_triangle(double *a, size_t n, enum blas_triangle triangle)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			if (!in_triangle(i, j, triangle))
				a[i * n + j] = 0;
}

/* Element (i, j) of L L^T or of U^T U. */
static double factor_product(const double *f, size_t n, size_t i, size_t j, enum blas_triangle t)
{
	double sum = 0;

	for (size_t l = 0; l < n; l++)
		sum += t == BLAS_LOWER ? f[i * n + l] * f[j * n + l] : f[l * n + i] * f[l * n + j];
	return sum;
}

static void check_cholesky(size_t n, enum blas_triangle triangle)
{
	_cleanup_(freep) double *a = positive_matrix(n), *f = copy_of(a, n * n);
	_cleanup_(freep) double *inverse = NULL, *triangle_inverse = NULL;

	assert_int_equal(blas_cholesky(f, n, triangle), 0);
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			if (i != j && !in_triangle(i, j, triangle))
				assert_true(f[i * n + j] == a[i * n + j]);
	inverse = copy_of(f, n * n);
	triangle_inverse = copy_of(f, n * n);
	keep_triangle(f, n, triangle);
	assert_int_equal(blas_cholesky_inverse(inverse, n, triangle), 0);
	assert_int_equal(blas_triangle_inverse(triangle_inverse, n, triangle), 0);
	keep_triangle(triangle_inverse, n, triangle);
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++) {
			double product = 0, identity = 0;

			for (size_t l = 0; l < n; l++) {
				bool stored = in_triangle(l, j, triangle);

				product += a[i * n + l] * inverse[stored ? l * n + j : j * n + l];
				identity += f[i * n + l] * triangle_inverse[l * n + j];
			}
			expect_near(factor_product(f, n, i, j, triangle), a[i * n + j],
				1e-13 * (double)n);
			expect_near(product, i == j, 1e-12 * (double)n);
			expect_near(identity, i == j, 1e-12 * (double)n);
		}
	}
}

static void test_cholesky(void **unused)
{
	static const size_t sizes[] = {1, 2, 15, 64, 130};

	(void)unused;
	for (size_t i = 0; i < array_len(sizes); i++) {
		check_cholesky(sizes[i], BLAS_LOWER);
		check_cholesky(sizes[i], BLAS_UPPER);
	}
}

static void test_cholesky_refuses(void **unused)
{
	double indefinite[] = {1, 2, 2, 1}, not_a_number[] = {1, NAN, NAN, 1};
	double singular[] = {1, 5, 0, 0};

	(void)unused;
	assert_int_equal(blas_cholesky(indefinite, 2, BLAS_UPPER), BLAS_E_NOT_POSITIVE);
	assert_int_equal(blas_cholesky(not_a_number, 2, BLAS_UPPER), BLAS_E_NOT_POSITIVE);
	assert_int_equal(blas_triangle_inverse(singular, 2, BLAS_UPPER), BLAS_E_SINGULAR);
	assert_int_equal(blas_cholesky_inverse(singular, 2, BLAS_UPPER), BLAS_E_SINGULAR);
}

static void check_solve(enum blas_triangle triangle, bool transpose, bool right)
{
	enum { M = 13, N = 22 };
	size_t order = right ? N : M;
	_cleanup_(freep) double *t = matrix(order, order), *b = matrix(M, N);
	_cleanup_(freep) double *x = copy_of(b, M * N);
	struct blas_solve s = {
		.m = M, .n = N, .triangle = triangle, .transpose = transpose, .right = right};

	keep_triangle(t, order, triangle);
	for (size_t i = 0; i < order; i++)
		t[i * order + i] = 8;
	blas_triangle_solve(&s, t, x);
	for (size_t i = 0; i < M; i++) {
		for (size_t j = 0; j < N; j++) {
			double sum = 0;

			for (size_t l = 0; l < order; l++) {
				size_t row = right ? l : i, col = right ? j : l;
				double e = transpose ? t[col * order + row] : t[row * order + col];

				sum += right ? x[i * N + l] * e : e * x[l * N + j];
			}
			expect_near(sum, b[i * N + j], 1e-13);
		}
	}
}

static void test_triangle_solve(void **unused)
{
	(void)unused;
	for (int i = 0; i < 8; i++)
		check_solve(i & 1 ? BLAS_UPPER : BLAS_LOWER, i & 2, i & 4);
}

/* How far the n vectors of length `length` are from orthonormal; element e of vector v stands at
 * v * vector_step + e * element_step. */
static double orthonormal_error(
	const double *vectors, size_t n, size_t length, size_t vector_step, size_t element_step)
{
	double worst = 0;

	for (size_t v = 0; v < n; v++) {
		for (size_t w = 0; w <= v; w++) {
			double sum = v == w ? -1 : 0;

			for (size_t e = 0; e < length; e++)
				sum += vectors[v * vector_step + e * element_step] *
				       vectors[w * vector_step + e * element_step];
			worst = fmax(worst, fabs(sum));
		}
	}
	return worst;
}

static void check_svd(size_t m, size_t n)
{
	size_t k = m < n ? m : n;
	_cleanup_(freep) double *a = matrix(m, n), *spoilt = copy_of(a, m * n);
	_cleanup_(freep) double *u = matrix(m, k), *s = matrix(k, 1), *vt = matrix(k, n);

	assert_int_equal(blas_svd(spoilt, m, n, u, s, vt), 0);
	for (size_t i = 0; i < k; i++)
		assert_true(s[i] >= 0 && (i == 0 || s[i] <= s[i - 1]));
	expect_near(orthonormal_error(u, k, m, 1, k), 0, 1e-13);
	expect_near(orthonormal_error(vt, k, n, n, 1), 0, 1e-13);
	for (size_t i = 0; i < m; i++) {
		for (size_t j = 0; j < n; j++) {
			double sum = 0;

			for (size_t l = 0; l < k; l++)
				sum += u[i * k + l] * s[l] * vt[l * n + j];
			expect_near(sum, a[i * n + j], 1e-12);
		}
	}
}

static void test_svd(void **unused)
{
	double bad[] = {1, 2, INFINITY, 4}, u[4], s[2], vt[4];

	(void)unused;
	check_svd(1, 1);
	check_svd(1, 9);
	check_svd(40, 17);
	check_svd(17, 40);
	check_svd(60, 60);
	assert_int_equal(blas_svd(bad, 2, 2, u, s, vt), BLAS_E_NO_CONVERGENCE);
}

static void test_eigen(void **unused)
{
	enum { N = 50 };
	_cleanup_(freep) double *a = positive_matrix(N), *vectors = copy_of(a, N * N);
	double values[N], bad[] = {1, NAN, NAN, 1};

	(void)unused;
	for (size_t i = 0; i < N; i++) /* what must not be read */
		for (size_t j = 0; j < i; j++)
			vectors[i * N + j] = NAN;
	assert_int_equal(blas_eigen(vectors, N, values), 0);
	expect_near(orthonormal_error(vectors, N, N, N, 1), 0, 1e-13);
	for (size_t v = 0; v < N; v++) {
		assert_true(v == 0 || values[v] >= values[v - 1]);
		for (size_t i = 0; i < N; i++) {
			double sum = 0;

			for (size_t j = 0; j < N; j++)
				sum += a[i * N + j] * vectors[v * N + j];
			expect_near(sum, values[v] * vectors[v * N + i], 1e-11);
		}
	}
	assert_int_equal(blas_eigen(bad, 2, values), BLAS_E_NO_CONVERGENCE);
}

static void test_same_input_same_bytes(void **unused)
{
	enum { M = 90, N = 70 };
	_cleanup_(freep) double *a = matrix(M, N), *b = copy_of(a, M * N);
	_cleanup_(freep) double *u = matrix(M, N), *u2 = matrix(M, N), *vt = matrix(N, N),
				*vt2 = matrix(N, N);
	double s[N], s2[N];

	(void)unused;
	blas_set_threads(1);
	assert_int_equal(blas_svd(a, M, N, u, s, vt), 0);
	assert_int_equal(blas_svd(b, M, N, u2, s2, vt2), 0);
	assert_memory_equal(u, u2, M * N * sizeof(*u));
	assert_memory_equal(s, s2, sizeof(s));
	assert_memory_equal(vt, vt2, N * N * sizeof(*vt));
}

static int load(void **unused)
{
	struct reason reason;

	(void)unused;
	if (blas_load(2, &reason) == 0)
		return 0;
	print_error("%s\n", reason.text);
	return -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gemm),
		cmocka_unit_test(test_gemm_strides),
		cmocka_unit_test(test_gram),
		cmocka_unit_test(test_cholesky),
		cmocka_unit_test(test_cholesky_refuses),
		cmocka_unit_test(test_triangle_solve),
		cmocka_unit_test(test_svd),
		cmocka_unit_test(test_eigen),
		cmocka_unit_test(test_same_input_same_bytes),
	};

	return cmocka_run_group_tests(tests, load, NULL);
}

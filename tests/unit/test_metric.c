/* What a metric's feedback and root are for large matrices, against their definitions. */
#include "compress/metric.h"

#include "compress/cholesky.h"
#include "compress/metric_root.h"
#include "common/random.h"
#include "kernels/blas.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
	N = 600, /* some panels, the last not full */
	M = 300,
};

static float number(uint64_t seed, uint64_t at)
{
	return (float)(2 * random_share(random_at(seed, at)) - 1);
}

static float *numbers(size_t n, uint64_t seed)
{
	float *x = malloc(n * sizeof(*x));

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = number(seed, i);
	return x;
}

/* Of fewer vectors than numbers. */
static float *moments_of(uint32_t n, uint64_t seed)
{
	uint32_t n_vectors = n / 2;
	_cleanup_(freep) float *x = numbers((size_t)n * n_vectors, seed);
	float *m = calloc((size_t)n * n, sizeof(*m));
	struct blas_gemm gemm = {.m = n, .n = n, .k = n_vectors, .transpose_a = true, .alpha = 1};

	assert_non_null(m);
	gemm.a_stride = n;
	blas_gemm_f32(&gemm, x, x, m);
	return m;
}

static struct metric *feedback_of(struct pool *p, const float *moments, uint32_t n, double damping)
{
	struct reason reason = {0};
	struct metric *m;

	assert_int_equal(metric_new_feedback(p, moments, n, damping, &m, &reason), 0);
	return m;
}

static void test_the_feedback_makes_the_damped_moments(void **state)
{
	_cleanup_(freep) float *moments = moments_of(N, 1);
	_cleanup_(metric_freep) struct metric *m = feedback_of(compute_pool, moments, N, .3);
	double mean = 0;

	(void)state;
	for (size_t i = 0; i < N; i++)
		mean += (double)moments[i * N + i] / N;
	assert_true(fabs(m->mean - mean) < 1e-9 * mean);
	for (size_t i = 0; i < N; i += 7)
		for (size_t j = 0; j < N; j += 5) {
			double sum = 0, expected = (double)moments[i * N + j] / 1.3;

			for (size_t k = 0; k < N; k++)
				sum += (double)m->feedback[i * N + k] * m->weights[k] *
				       (double)m->feedback[j * N + k];
			if (i == j)
				expected += .3 * mean / 1.3;
			assert_true(fabs(sum - expected) < 2e-6 * mean);
		}
	for (size_t i = 0; i < N; i++) {
		assert_true(m->feedback[i * N + i] == 1);
		for (size_t j = 0; j < i; j++)
			assert_true(m->feedback[i * N + j] == 0);
	}
}

static void test_the_feedback_does_not_depend_on_threads(void **state)
{
	_cleanup_(poolp) struct pool *three = NULL;
	_cleanup_(freep) float *moments = moments_of(N, 2);
	_cleanup_(metric_freep) struct metric *a = feedback_of(compute_pool, moments, N, .1),
					      *b = NULL;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(pool_new(3, &three, &reason), 0);
	b = feedback_of(three, moments, N, .1);
	assert_memory_equal(a->feedback, b->feedback, (size_t)N * N * sizeof(float));
	assert_memory_equal(a->weights, b->weights, N * sizeof(double));
}

static void test_it_is_that_of_a_small_metric(void **state)
{
	_cleanup_(freep) float *moments = moments_of(M, 3);
	_cleanup_(metric_freep) struct metric *a = feedback_of(compute_pool, moments, M, .2),
					      *b = NULL;
	struct reason reason = {0};

	(void)state;
	assert_int_equal(metric_new(moments, M, .2, &b, &reason), 0);
	assert_true(a->mean == b->mean);
	for (size_t i = 0; i < (size_t)M * M; i++)
		assert_true(fabsf(a->feedback[i] - b->feedback[i]) < 1e-5f);
	for (size_t i = 0; i < M; i++)
		assert_true(fabs(a->weights[i] / b->weights[i] - 1) < 1e-9);
}

static void test_what_has_no_factor_is_refused(void **state)
{
	_cleanup_(freep) double *a = calloc((size_t)N * N, sizeof(*a));
	_cleanup_(freep) float *bad = moments_of(M, 4);
	struct reason reason = {0};
	struct metric *m;

	(void)state;
	assert_non_null(a);
	for (size_t i = 0; i < N; i++)
		a[i * N + i] = i == N - 2 ? -1 : 1;
	assert_int_equal(cholesky_factor(compute_pool, a, N), BLAS_E_NOT_POSITIVE);
	bad[17] = NAN;
	assert_int_equal(metric_new_feedback(compute_pool, bad, M, .1, &m, &reason), -EDOM);
}

/* tr(G E H E^T) by metric_loss(), in double. */
static void test_turned_errors_cost_their_squares(void **state)
{
	_cleanup_(freep) float *g_moments = moments_of(N, 5), *h_moments = moments_of(M, 6);
	_cleanup_(freep) float *error = numbers((size_t)N * M, 7);
	_cleanup_(freep) float *turned = numbers((size_t)N * M, 8);
	_cleanup_(metric_freep) struct metric *g = NULL, *h = NULL;
	struct reason reason = {0};
	double sum = 0, expected;

	(void)state;
	assert_int_equal(metric_new(g_moments, N, .3, &g, &reason), 0);
	assert_int_equal(metric_new(h_moments, M, .1, &h, &reason), 0);
	assert_int_equal(metric_loss(g, h, error, &expected), 0);
	assert_int_equal(metric_root_turn(compute_pool, g, h, error, turned), 0);
	for (size_t i = 0; i < (size_t)N * M; i++)
		sum += (double)turned[i] * (double)turned[i];
	assert_true(fabs(sum / expected - 1) < 1e-4);
}

static void test_solving_undoes_the_root(void **state)
{
	_cleanup_(freep) float *moments = moments_of(N, 9);
	_cleanup_(freep) float *x = numbers((size_t)M * N, 10), *y = numbers((size_t)M * N, 11);
	_cleanup_(metric_freep) struct metric *m = feedback_of(compute_pool, moments, N, .3);

	(void)state;
	metric_root_right(compute_pool, m, x, M, y);
	metric_root_solve(compute_pool, m, y, M);
	for (size_t i = 0; i < (size_t)M * N; i++)
		assert_true(fabsf(x[i] - y[i]) < 1e-3f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_feedback_makes_the_damped_moments),
		cmocka_unit_test(test_the_feedback_does_not_depend_on_threads),
		cmocka_unit_test(test_it_is_that_of_a_small_metric),
		cmocka_unit_test(test_what_has_no_factor_is_refused),
		cmocka_unit_test(test_turned_errors_cost_their_squares),
		cmocka_unit_test(test_solving_undoes_the_root),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}

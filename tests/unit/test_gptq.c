/* GPTQ against rounding to nearest and against its objective computed directly. */
#include "compress/gptq.h"

#include "kernels/blas.h"
#include "kernels/types.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static double *normal_numbers(size_t n, uint64_t seed)
{
	double *x = malloc(n * sizeof(*x));
	uint64_t state = seed;

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = normal_next(&state);
	return x;
}

/* H = A A^T with A of few, uneven directions: strongly correlated inputs. */
static double *correlated_hessian(uint32_t n, uint64_t seed)
{
	double *h = calloc((size_t)n * n, sizeof(*h));
	_cleanup_(freep) double *a = normal_numbers((size_t)n * n, seed);

	assert_non_null(h);
	for (uint32_t k = 0; k < n; k++)
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++)
				h[(size_t)i * n + j] += a[(size_t)k * n + i] *
							a[(size_t)k * n + j] /
							((k + 1.0) * (k + 1.0));
	return h;
}

static struct qvectors *empty(uint32_t n_vectors, uint32_t length, uint8_t bits)
{
	_cleanup_(freep) uint8_t *widths = malloc(n_vectors);
	struct qvectors *q;

	assert_non_null(widths);
	memset(widths, bits, n_vectors);
	assert_int_equal(qvectors_new(n_vectors, length, widths, &q), 0);
	return q;
}

static struct qvectors *nearest(const double *x, uint32_t n_vectors, uint32_t length, uint8_t bits)
{
	struct qvectors *q = empty(n_vectors, length, bits);

	for (uint32_t v = 0; v < n_vectors; v++) {
		for (size_t g = 0; g < q->n_groups; g++)
			qvectors_fit_grid(q, v, g, x + (size_t)v * length + g * QMAT_GROUP);
		for (uint32_t i = 0; i < length; i++)
			qvectors_put(q, v, i, x[(size_t)v * length + i]);
	}
	return q;
}

/* tr(E H E^T) with E the errors of rows of vectors (along) or columns (across). */
static double objective(const struct qvectors *q, const double *x, const double *h, bool across)
{
	uint32_t n = across ? q->n_vectors : q->length;
	uint32_t n_rows = across ? q->length : q->n_vectors;
	_cleanup_(freep) double *e = malloc((size_t)q->n_vectors * q->length * sizeof(*e));
	double sum = 0;

	assert_non_null(e);
	for (uint32_t v = 0; v < q->n_vectors; v++) {
		qvectors_values(q, v, e + (size_t)v * q->length);
		for (uint32_t i = 0; i < q->length; i++)
			e[(size_t)v * q->length + i] -= x[(size_t)v * q->length + i];
	}
	for (uint32_t r = 0; r < n_rows; r++)
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++) {
				double a =
					across ? e[(size_t)i * n_rows + r] : e[(size_t)r * n + i];
				double b =
					across ? e[(size_t)j * n_rows + r] : e[(size_t)r * n + j];

				sum += a * h[(size_t)i * n + j] * b;
			}
	return sum;
}

static struct gptq *prepared(const double *h, uint32_t n)
{
	struct reason reason = {0};
	struct gptq *g;

	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(gptq_new(NULL, h, n, &g, &reason), 0);
	return g;
}

static void assert_same_codes(const struct qvectors *a, const struct qvectors *b)
{
	size_t n_scales = a->n_vectors * a->n_groups;

	assert_memory_equal(a->codes, b->codes, (size_t)a->n_vectors * a->length);
	assert_memory_equal(a->scales, b->scales, n_scales * sizeof(*a->scales));
	assert_memory_equal(a->zeros, b->zeros, n_scales);
}

/* Uncorrelated inputs leave nothing to compensate, whatever their sizes and the sweep's order. */
static void test_diagonal_hessian_is_rounding_to_nearest(void **state)
{
	enum { VECTORS = 5, LENGTH = 300 };
	_cleanup_(freep) double *x = normal_numbers((size_t)VECTORS * LENGTH, 1);
	_cleanup_(freep) double *h = calloc((size_t)LENGTH * LENGTH, sizeof(*h));
	_cleanup_(qvectors_freep) struct qvectors *expected = nearest(x, VECTORS, LENGTH, 3);
	_cleanup_(qvectors_freep) struct qvectors *along = empty(VECTORS, LENGTH, 3);
	_cleanup_(qvectors_freep) struct qvectors *across = empty(VECTORS, LENGTH, 3);
	_cleanup_(gptq_freep) struct gptq *inputs = NULL;
	_cleanup_(gptq_freep) struct gptq *ranks = NULL;

	(void)state;
	assert_non_null(h);
	for (uint32_t i = 0; i < LENGTH; i++)
		h[(size_t)i * LENGTH + i] = 1 + (i * 37) % 101;
	inputs = prepared(h, LENGTH);
	assert_int_equal(gptq_along(inputs, x, 0, VECTORS, along), 0);
	assert_same_codes(along, expected);

	memset(h, 0, VECTORS * VECTORS * sizeof(*h));
	for (uint32_t i = 0; i < VECTORS; i++)
		h[i * VECTORS + i] = 1;
	ranks = prepared(h, VECTORS);
	assert_int_equal(gptq_across(ranks, x, 0, LENGTH, across), 0);
	assert_same_codes(across, expected);
}

static void test_correlated_inputs_gain_over_rounding(void **state)
{
	enum { VECTORS = 4, LENGTH = 260 };

	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		_cleanup_(freep) double *x = normal_numbers((size_t)VECTORS * LENGTH, seed);
		_cleanup_(freep) double *h = correlated_hessian(LENGTH, seed + 100);
		_cleanup_(qvectors_freep) struct qvectors *rounded = nearest(x, VECTORS, LENGTH, 2);
		_cleanup_(qvectors_freep) struct qvectors *swept = empty(VECTORS, LENGTH, 2);
		_cleanup_(gptq_freep) struct gptq *g = prepared(h, LENGTH);

		assert_int_equal(gptq_along(g, x, 0, VECTORS, swept), 0);
		assert_true(objective(swept, x, h, false) < 0.7 * objective(rounded, x, h, false));
	}
}

static void test_correlated_ranks_gain_over_rounding(void **state)
{
	enum { VECTORS = 140, LENGTH = 200 };

	(void)state;
	for (uint64_t seed = 1; seed <= 3; seed++) {
		_cleanup_(freep) double *x = normal_numbers((size_t)VECTORS * LENGTH, seed);
		_cleanup_(freep) double *h = correlated_hessian(VECTORS, seed + 200);
		_cleanup_(qvectors_freep) struct qvectors *rounded = nearest(x, VECTORS, LENGTH, 2);
		_cleanup_(qvectors_freep) struct qvectors *swept = empty(VECTORS, LENGTH, 2);
		_cleanup_(gptq_freep) struct gptq *g = prepared(h, VECTORS);

		assert_int_equal(gptq_across(g, x, 0, LENGTH, swept), 0);
		assert_true(objective(swept, x, h, true) < 0.7 * objective(rounded, x, h, true));
	}
}

/* A split of the rows changes nothing: that is what lets threads share a matrix. */
static void test_rows_are_independent(void **state)
{
	enum { VECTORS = 6, LENGTH = 300 };
	_cleanup_(freep) double *x = normal_numbers((size_t)VECTORS * LENGTH, 9);
	_cleanup_(freep) double *h = correlated_hessian(LENGTH, 10);
	_cleanup_(freep) double *h_ranks = correlated_hessian(VECTORS, 11);
	_cleanup_(qvectors_freep) struct qvectors *whole = empty(VECTORS, LENGTH, 3);
	_cleanup_(qvectors_freep) struct qvectors *split = empty(VECTORS, LENGTH, 3);
	_cleanup_(gptq_freep) struct gptq *g = prepared(h, LENGTH);
	_cleanup_(gptq_freep) struct gptq *ranks = prepared(h_ranks, VECTORS);

	(void)state;
	assert_int_equal(gptq_along(g, x, 0, VECTORS, whole), 0);
	assert_int_equal(gptq_along(g, x, 0, 1, split), 0);
	assert_int_equal(gptq_along(g, x, 1, VECTORS, split), 0);
	assert_true(fabs(objective(whole, x, h, false) - objective(split, x, h, false)) <
		    1e-9 * objective(whole, x, h, false));
	assert_int_equal(gptq_across(ranks, x, 0, LENGTH, whole), 0);
	assert_int_equal(gptq_across(ranks, x, 0, 128, split), 0);
	assert_int_equal(gptq_across(ranks, x, 128, LENGTH, split), 0);
	assert_true(fabs(objective(whole, x, h_ranks, true) - objective(split, x, h_ranks, true)) <
		    1e-9 * objective(whole, x, h_ranks, true));
}

/* The largest diagonal is met first although it stands last; with the order undone, the error of a
 * column that dominates H stays that of rounding. */
static void test_order_is_undone(void **state)
{
	enum { LENGTH = 140 };
	_cleanup_(freep) double *x = normal_numbers(LENGTH, 5);
	_cleanup_(freep) double *h = correlated_hessian(LENGTH, 6);
	_cleanup_(qvectors_freep) struct qvectors *expected = nearest(x, 1, LENGTH, 8);
	_cleanup_(qvectors_freep) struct qvectors *q = empty(1, LENGTH, 8);
	_cleanup_(gptq_freep) struct gptq *g = NULL;

	(void)state;
	h[(size_t)(LENGTH - 1) * LENGTH + LENGTH - 1] *= 1e4;
	g = prepared(h, LENGTH);
	assert_int_equal(gptq_along(g, x, 0, 1, q), 0);
	assert_int_equal(q->codes[LENGTH - 1], expected->codes[LENGTH - 1]);
	assert_true(objective(q, x, h, false) <= objective(expected, x, h, false));
}

static void test_dead_inputs_get_zeros(void **state)
{
	enum { LENGTH = 200, DEAD = 77 };
	_cleanup_(freep) double *x = normal_numbers(LENGTH, 7);
	_cleanup_(freep) double *h = correlated_hessian(LENGTH, 8);
	_cleanup_(freep) double *values = calloc(LENGTH, sizeof(*values));
	_cleanup_(qvectors_freep) struct qvectors *q = empty(1, LENGTH, 3);
	_cleanup_(gptq_freep) struct gptq *g = NULL;

	(void)state;
	for (uint32_t i = 0; i < LENGTH; i++)
		h[(size_t)i * LENGTH + DEAD] = h[(size_t)DEAD * LENGTH + i] = 0;
	g = prepared(h, LENGTH);
	assert_int_equal(gptq_along(g, x, 0, 1, q), 0);
	qvectors_values(q, 0, values);
	assert_true(values[DEAD] == 0);
}

static void test_numbers_that_are_not_finite_are_refused(void **state)
{
	double h[4] = {1, 0, 0, NAN};
	struct reason reason = {0};
	struct gptq *g = NULL;

	(void)state;
	assert_int_equal(blas_load(1, &reason), 0);
	assert_int_equal(gptq_new(NULL, h, 2, &g, &reason), -EDOM);
	assert_null(g);
	assert_non_null(strstr(reason.text, "finite"));
}

/* Half a step at most inside the range, and zero exactly: the grid's promise. */
static void test_grid_covers_its_values(void **state)
{
	static const uint8_t widths[] = {2, 3, 4, 8};
	static const double magnitudes[] = {1e-7, 1e-3, 1, 1e4};
	uint64_t seed = 3;

	(void)state;
	for (size_t w = 0; w < array_len(widths); w++)
		for (size_t m = 0; m < array_len(magnitudes); m++) {
			_cleanup_(qvectors_freep) struct qvectors *q = empty(1, 130, widths[w]);
			double x[256] = {0}, low = 0, high = 0, step;

			for (size_t i = 0; i < 130; i++)
				x[i] = normal_next(&seed) * magnitudes[m];
			for (size_t i = 0; i < QMAT_GROUP; i++) {
				low = fmin(low, x[i]);
				high = fmax(high, x[i]);
			}
			qvectors_fit_grid(q, 0, 0, x);
			/* 2^-24 is the smallest half: steps below it cannot be had. */
			step = fmax(1.001 * (high - low) / ((1 << widths[w]) - 1), 0x1p-23);
			for (uint32_t i = 0; i < QMAT_GROUP; i++)
				assert_true(fabs(qvectors_put(q, 0, i, x[i]) - x[i]) <= step);
			assert_true(qvectors_put(q, 0, 0, 0.0) == 0);
		}
}

/* x (H + damping) H^-1 is x again, but for inputs that never occur. */
static void test_solve_undoes_the_damped_hessian(void **state)
{
	enum { ROWS = 5, N = 70, DEAD = 9 };
	_cleanup_(freep) double *x = normal_numbers((size_t)ROWS * N, 17);
	_cleanup_(freep) double *h = correlated_hessian(N, 18);
	_cleanup_(freep) double *rows = calloc((size_t)ROWS * N, sizeof(*rows));
	_cleanup_(gptq_freep) struct gptq *g = NULL;
	double damping = 0;

	(void)state;
	for (size_t i = 0; i < N; i++)
		h[i * N + DEAD] = h[DEAD * N + i] = 0;
	g = prepared(h, N);
	for (size_t i = 0; i < N; i++)
		damping += GPTQ_DAMPING / N * (i == DEAD ? 1 : h[i * N + i]);
	for (size_t r = 0; r < ROWS; r++)
		for (size_t i = 0; i < N; i++) {
			rows[r * N + i] = damping * x[r * N + i];
			for (size_t k = 0; k < N; k++)
				rows[r * N + i] += x[r * N + k] * h[k * N + i];
		}
	assert_int_equal(gptq_solve(g, rows, ROWS), 0);
	for (size_t i = 0; i < (size_t)ROWS * N; i++)
		assert_true(fabs(rows[i] - (i % N == DEAD ? 0 : x[i])) < 1e-8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_diagonal_hessian_is_rounding_to_nearest),
		cmocka_unit_test(test_correlated_inputs_gain_over_rounding),
		cmocka_unit_test(test_correlated_ranks_gain_over_rounding),
		cmocka_unit_test(test_rows_are_independent),
		cmocka_unit_test(test_order_is_undone),
		cmocka_unit_test(test_dead_inputs_get_zeros),
		cmocka_unit_test(test_numbers_that_are_not_finite_are_refused),
		cmocka_unit_test(test_grid_covers_its_values),
		cmocka_unit_test(test_solve_undoes_the_damped_hessian),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Two-sided error feedback against plain rounding, one-sided feedback and exhaustive search. */
#include "compress/ldlq.h"

#include "tests/compute.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static float *normal_numbers(size_t n, uint64_t seed)
{
	float *x = malloc(n * sizeof(*x));
	uint64_t state = seed;

	assert_non_null(x);
	for (size_t i = 0; i < n; i++)
		x[i] = (float)normal_next(&state);
	return x;
}

/* A A^T with A of few, uneven directions. */
static float *correlated_moments(uint32_t n, uint64_t seed)
{
	float *m = calloc((size_t)n * n, sizeof(*m));
	_cleanup_(freep) float *a = normal_numbers((size_t)n * n, seed);

	assert_non_null(m);
	for (uint32_t k = 0; k < n; k++)
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < n; j++)
				m[(size_t)i * n + j] += a[(size_t)k * n + i] *
							a[(size_t)k * n + j] / ((float)k + 1);
	return m;
}

static struct metric *metric_of(const float *moments, uint32_t n, double damping)
{
	struct reason reason = {0};
	struct metric *m;

	assert_int_equal(metric_new(moments, n, damping, &m, &reason), 0);
	return m;
}

static struct metric *random_metric(uint32_t n, uint64_t seed)
{
	_cleanup_(freep) float *moments = correlated_moments(n, seed);

	return metric_of(moments, n, .1);
}

struct rounded {
	struct ldlq ldlq;
	struct ldlq_problem problem;
};

static void rounded_done(struct rounded *r)
{
	free(r->ldlq.codes);
	free(r->ldlq.error);
}

static void run(struct rounded *r, const struct ldlq_problem *problem)
{
	size_t n = (size_t)problem->rows * problem->cols;

	r->problem = *problem;
	r->ldlq.codes = malloc(n);
	r->ldlq.error = malloc(n * sizeof(float));
	assert_non_null(r->ldlq.codes);
	assert_non_null(r->ldlq.error);
	assert_int_equal(ldlq_run(problem, &r->ldlq), 0);
}

/* sum_rsij G_rs E_si H_ij E_rj in double, by its definition. */
static double objective(const struct ldlq_problem *p, const int8_t *codes)
{
	uint32_t rows = p->rows, cols = p->cols;
	_cleanup_(freep) double *e = calloc((size_t)rows * cols, sizeof(*e));
	_cleanup_(freep) double *eh = calloc((size_t)rows * cols, sizeof(*e));
	double sum = 0;

	assert_non_null(e);
	assert_non_null(eh);
	for (size_t i = 0; i < (size_t)rows * cols; i++)
		e[i] = (double)p->target[i] - p->step * codes[i];
	for (uint32_t s = 0; s < rows; s++)
		for (uint32_t j = 0; j < cols; j++)
			for (uint32_t i = 0; i < cols; i++)
				eh[s * cols + j] +=
					e[s * cols + i] * (p->h->matrix ? p->h->matrix[i * cols + j]
									: (double)(i == j));
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t s = 0; s < rows; s++)
			for (uint32_t j = 0; j < cols; j++)
				sum += (p->g->matrix ? p->g->matrix[r * rows + s] : r == s) *
				       eh[s * cols + j] * e[r * cols + j];
	return sum;
}

static void test_factors_give_the_matrix(void **state)
{
	enum { N = 70 };
	_cleanup_(metric_freep) struct metric *m = random_metric(N, 1);

	(void)state;
	for (uint32_t i = 0; i < N; i++)
		for (uint32_t j = 0; j < N; j++) {
			double by_feedback = 0, by_root = 0;

			for (uint32_t k = 0; k < N; k++) {
				by_feedback += (double)m->feedback[i * N + k] * m->weights[k] *
					       (double)m->feedback[j * N + k];
				by_root += m->root[i * N + k] * m->root[j * N + k];
			}
			assert_true(fabs(by_feedback - m->matrix[i * N + j]) < 1e-4);
			assert_true(fabs(by_root - m->matrix[i * N + j]) < 1e-9);
		}
}

static void test_moments_of_nothing_and_of_nan(void **state)
{
	_cleanup_(metric_freep) struct metric *m = NULL;
	float zeros[4] = {0}, broken[4] = {1, 0, 0, NAN}, negative[4] = {1, 3, 3, 1};
	struct reason reason = {0};

	(void)state;
	m = metric_of(zeros, 2, .3);
	assert_true(m->weights[0] > 0 && m->weights[1] > 0);
	m = metric_free(m);
	assert_int_equal(metric_new(broken, 2, .3, &m, &reason), -EDOM);
	assert_int_equal(metric_new(negative, 2, .3, &m, &reason), -EDOM);
}

static void test_identity_is_plain_rounding(void **state)
{
	enum { ROWS = 70, COLS = 130 };
	_cleanup_(freep) float *x = normal_numbers((size_t)ROWS * COLS, 2);
	_cleanup_(metric_freep) struct metric *g = metric_of(NULL, ROWS, 0);
	_cleanup_(metric_freep) struct metric *h = metric_of(NULL, COLS, 0);
	_cleanup_(rounded_done) struct rounded r = {0};

	(void)state;
	run(&r, &(struct ldlq_problem){.rows = ROWS,
			.cols = COLS,
			.target = x,
			.g = g,
			.h = h,
			.step = .5,
			.n_sweeps = 1});
	for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
		assert_int_equal(r.ldlq.codes[i], lrintf(x[i] / .5f));
}

static void test_loss_is_the_objective(void **state)
{
	enum { ROWS = 70, COLS = 130 };
	_cleanup_(freep) float *x = normal_numbers((size_t)ROWS * COLS, 3);
	_cleanup_(metric_freep) struct metric *g = random_metric(ROWS, 4);
	_cleanup_(metric_freep) struct metric *h = random_metric(COLS, 5);

	(void)state;
	for (double lambda = 0; lambda < 2; lambda++) {
		_cleanup_(rounded_done) struct rounded r = {0};
		double expected, direct;

		run(&r, &(struct ldlq_problem){.rows = ROWS,
				.cols = COLS,
				.target = x,
				.g = g,
				.h = h,
				.step = .7,
				.lambda = lambda,
				.n_sweeps = 2});
		expected = objective(&r.problem, r.ldlq.codes);
		assert_int_equal(metric_loss(g, h, r.ldlq.error, &direct), 0);
		assert_true(fabs(r.ldlq.loss / expected - 1) < 1e-4);
		assert_true(fabs(direct / expected - 1) < 1e-4);
	}
}

static void test_two_sides_beat_one(void **state)
{
	enum { ROWS = 48, COLS = 64 };
	_cleanup_(metric_freep) struct metric *one = metric_of(NULL, ROWS, 0);
	_cleanup_(metric_freep) struct metric *other = metric_of(NULL, COLS, 0);

	(void)state;
	for (uint64_t seed = 10; seed < 20; seed++) {
		_cleanup_(freep) float *x = normal_numbers((size_t)ROWS * COLS, seed);
		_cleanup_(metric_freep) struct metric *g = random_metric(ROWS, seed + 100);
		_cleanup_(metric_freep) struct metric *h = random_metric(COLS, seed + 200);
		struct ldlq_problem p = {.rows = ROWS,
			.cols = COLS,
			.target = x,
			.g = g,
			.h = h,
			.step = 1,
			.n_sweeps = 1};
		struct ldlq_problem inputs_only = p, plain = p;
		_cleanup_(rounded_done) struct rounded two = {0}, gptq = {0}, nearest = {0};

		inputs_only.g = plain.g = one;
		plain.h = other;
		run(&two, &p);
		run(&gptq, &inputs_only);
		run(&nearest, &plain);
		assert_true(objective(&p, two.ldlq.codes) < objective(&p, gptq.ldlq.codes));
		assert_true(objective(&p, gptq.ldlq.codes) < objective(&p, nearest.ldlq.codes));
	}
}

/* Of all matrices of 2 x 2 codes within SEARCH of the values. */
static double least_objective(const struct ldlq_problem *p)
{
	enum { SEARCH = 5, WIDTH = 2 * SEARCH + 1 };
	double best = INFINITY;

	for (int number = 0; number < WIDTH * WIDTH * WIDTH * WIDTH; number++) {
		int8_t codes[4];

		for (int i = 0, rest = number; i < 4; i++, rest /= WIDTH)
			codes[i] = (int8_t)(lrintf(p->target[i]) + rest % WIDTH - SEARCH);
		best = fmin(best, objective(p, codes));
	}
	return best;
}

static void test_against_exhaustive_search(void **state)
{
	double sum_best = 0, sum_ldlq = 0, sum_nearest = 0;
	_cleanup_(metric_freep) struct metric *identity = metric_of(NULL, 2, 0);

	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		_cleanup_(freep) float *x = normal_numbers(4, seed);
		_cleanup_(metric_freep) struct metric *g = random_metric(2, seed + 100);
		_cleanup_(metric_freep) struct metric *h = random_metric(2, seed + 200);
		struct ldlq_problem p = {.rows = 2,
			.cols = 2,
			.target = x,
			.g = g,
			.h = h,
			.step = 1,
			.n_sweeps = 1};
		struct ldlq_problem plain = p;
		_cleanup_(rounded_done) struct rounded r = {0}, nearest = {0};
		double best = least_objective(&p);

		plain.g = plain.h = identity;
		run(&r, &p);
		run(&nearest, &plain);
		assert_true(r.ldlq.loss >= best * (1 - 1e-5));
		sum_best += best;
		sum_ldlq += r.ldlq.loss;
		sum_nearest += objective(&p, nearest.ldlq.codes);
		assert_true(least_objective(&plain) >= nearest.ldlq.loss * (1 - 1e-5));
	}
	assert_true(sum_ldlq < 2 * sum_best);
	assert_true(sum_nearest > sum_ldlq);
}

/* Entropy of the codes, neighbours unknown: independent of the estimate that the sweep uses. */
static double entropy(const int8_t *codes, size_t n)
{
	double counts[256] = {0}, bits = 0;

	for (size_t i = 0; i < n; i++)
		counts[codes[i] + 128]++;
	for (size_t i = 0; i < 256; i++)
		if (counts[i] > 0)
			bits += counts[i] * log2((double)n / counts[i]);
	return bits;
}

static void test_lambda_trades_error_for_bits(void **state)
{
	enum { ROWS = 96, COLS = 128 };
	_cleanup_(freep) float *x = normal_numbers((size_t)ROWS * COLS, 30);
	_cleanup_(metric_freep) struct metric *g = random_metric(ROWS, 31);
	_cleanup_(metric_freep) struct metric *h = random_metric(COLS, 32);
	double bits = INFINITY, loss = 0;

	(void)state;
	for (double lambda = 0; lambda<100; lambda = lambda> 0 ? 8 * lambda : .1) {
		_cleanup_(rounded_done) struct rounded r = {0};
		double found;

		run(&r, &(struct ldlq_problem){.rows = ROWS,
				.cols = COLS,
				.target = x,
				.g = g,
				.h = h,
				.step = 1,
				.lambda = lambda,
				.n_sweeps = 2});
		found = entropy(r.ldlq.codes, (size_t)ROWS * COLS);
		assert_true(found < bits);
		assert_true(r.ldlq.loss > loss);
		/* Rows and columns of uneven energy cost less than their mixture. */
		assert_true(r.ldlq.bits > .3 * found && r.ldlq.bits < 1.1 * found);
		bits = found;
		loss = r.ldlq.loss;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_factors_give_the_matrix),
		cmocka_unit_test(test_moments_of_nothing_and_of_nan),
		cmocka_unit_test(test_identity_is_plain_rounding),
		cmocka_unit_test(test_loss_is_the_objective),
		cmocka_unit_test(test_two_sides_beat_one),
		cmocka_unit_test(test_against_exhaustive_search),
		cmocka_unit_test(test_lambda_trades_error_for_bits),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}

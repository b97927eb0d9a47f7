/*
 * One factor solved for the codes of the other: that no other would be better, by sums in double;
 * that the error of a compressed matrix never rises for it; and the order of Delta-CoMe's recipe,
 * the same with U solved again, and the same whitened, at equal bytes.
 */
#include "compress/refit.h"

#include "compress/gptq.h"
#include "compress/methods.h"
#include "compress/part_values.h"
#include "compress/qvectors.h"
#include "compress/svd.h"
#include "tests/compute.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 320u
#define COLS 256u
#define N 24u /* components of the tests that solve by themselves */

/* A change, and the second moments of inputs whose directions fall as 1 / k with some channels far
 * above the others. */
struct fixture {
	float delta[ROWS * COLS], base[ROWS * COLS];
	double moments[COLS * COLS];
	double damped[COLS * COLS]; /* as GPTQ has them */
};

static void add_moments(struct fixture *f, uint64_t seed)
{
	double trace = 0, x[COLS];

	memset(f->moments, 0, sizeof(f->moments));
	for (uint32_t k = 0; k < COLS; k++) {
		for (uint32_t c = 0; c < COLS; c++)
			x[c] = normal_next(&seed) / sqrt(k + 1.0) * (c % 64 == 5 ? 6 : 1);
		for (uint32_t i = 0; i < COLS; i++)
			for (uint32_t j = 0; j < COLS; j++)
				f->moments[i * COLS + j] += x[i] * x[j];
	}
	for (uint32_t i = 0; i < COLS; i++)
		trace += f->moments[i * COLS + i];
	memcpy(f->damped, f->moments, sizeof(f->moments));
	for (uint32_t i = 0; i < COLS; i++)
		f->damped[i * COLS + i] += GPTQ_DAMPING * trace / COLS;
}

/* `spikes` of the energy is in 16 directions that fall as 1 / k, the rest is flat. */
static struct fixture *fixture_new(double spikes, uint64_t seed)
{
	enum { DIRECTIONS = 16 };
	struct fixture *f = calloc(1, sizeof(*f));
	double energy = 0, u[ROWS], v[COLS];

	assert_non_null(f);
	for (uint32_t k = 1; k <= DIRECTIONS; k++)
		energy += 1.0 / (k * k);
	for (uint32_t k = 1; k <= DIRECTIONS; k++) {
		for (uint32_t r = 0; r < ROWS; r++)
			u[r] = normal_next(&seed);
		for (uint32_t c = 0; c < COLS; c++)
			v[c] = normal_next(&seed);
		for (uint32_t i = 0; i < ROWS * COLS; i++)
			f->delta[i] += (float)(1e-3 * sqrt(spikes / energy) / k * u[i / COLS] *
					       v[i % COLS]);
	}
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		f->delta[i] += (float)(1e-3 * sqrt(1 - spikes) * normal_next(&seed));
	add_moments(f, seed);
	return f;
}

/* tr(E H E^T) by its definition. */
static double loss_of(const double *h, const double *error)
{
	double sum = 0;

	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t i = 0; i < COLS; i++) {
			double part = 0;

			for (uint32_t j = 0; j < COLS; j++)
				part += h[i * COLS + j] * error[r * COLS + j];
			sum += error[r * COLS + i] * part;
		}
	return sum;
}

/* Of D - sum_i factors[i] u_i w_i^T; factors may be NULL: all 1. */
static double loss_with(
	const struct fixture *f, const double *u, const double *w, const double *factors)
{
	double *error = malloc(sizeof(double) * ROWS * COLS), loss;

	assert_non_null(error);
	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t c = 0; c < COLS; c++) {
			double sum = (double)f->delta[r * COLS + c];

			for (uint32_t i = 0; i < N; i++)
				sum -= (factors ? factors[i] : 1) * u[i * ROWS + r] *
				       w[i * COLS + c];
			error[r * COLS + c] = sum;
		}
	loss = loss_of(f->damped, error);
	free(error);
	return loss;
}

/* What codes of `bits` make of vectors. */
static void round_vectors(double *x, uint32_t length, uint8_t bits)
{
	uint8_t widths[N];
	struct qvectors *q;

	memset(widths, bits, sizeof(widths));
	assert_int_equal(qvectors_new(N, length, widths, &q), 0);
	for (uint32_t i = 0; i < N; i++) {
		for (size_t g = 0; g < q->n_groups; g++)
			qvectors_fit_grid(q, i, g, x + (size_t)i * length + g * 128);
		for (uint32_t k = 0; k < length; k++)
			qvectors_put(q, i, k, x[(size_t)i * length + k]);
		qvectors_values(q, i, x + (size_t)i * length);
	}
	qvectors_free(q);
}

/* The first components of a matrix: u with sigma 1, and w with sigma in it, of 2 bits. */
struct rounded {
	double u[N * ROWS], w[N * COLS];
	struct refit refit;
};

static struct rounded *rounded_new(const struct fixture *f)
{
	struct rounded *t = calloc(1, sizeof(*t));
	struct reason reason = {0};
	struct svd *s;
	const struct refit_problem problem = {
		.pool = compute_pool,
		.target = f->delta,
		.moments = f->moments,
		.w = t->w,
		.rows = ROWS,
		.cols = COLS,
		.n = N,
	};

	assert_non_null(t);
	assert_int_equal(svd_leading(NULL, f->delta, ROWS, COLS, N, &s, &reason), 0);
	memcpy(t->u, s->u, sizeof(t->u));
	memcpy(t->w, s->v, sizeof(t->w));
	round_vectors(t->w, COLS, 2);
	for (uint32_t i = 0; i < N * COLS; i++)
		t->w[i] *= s->sigma[i / COLS];
	svd_free(s);
	assert_int_equal(refit_init(&problem, &t->refit), 0);
	return t;
}

static void rounded_free(struct rounded *t)
{
	refit_done(&t->refit);
	free(t);
}

static const double spikes[] = {0, .4, .8, .999};

/* U is a minimum: better than the singular vectors, and any step from it, in any direction tried,
 * loses as much as the step weighs: E is a square there and has no slope. */
static void test_no_other_u_is_better(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(spikes); i++) {
		struct fixture *f = fixture_new(spikes[i], 11 + i);
		struct rounded *t = rounded_new(f);
		double *u = calloc(N * ROWS, sizeof(*u)), *step = calloc(N * ROWS, sizeof(*step));
		struct reason reason = {0};
		uint64_t seed = 5;
		double least, more, less;

		assert_non_null(u);
		assert_non_null(step);
		assert_int_equal(refit_vectors(&t->refit, u, &reason), 0);
		least = loss_with(f, u, t->w, NULL);
		assert_true(least < loss_with(f, t->u, t->w, NULL));
		for (uint32_t k = 0; k < N * ROWS; k++)
			step[k] = .1 * normal_next(&seed);
		for (uint32_t k = 0; k < N * ROWS; k++)
			u[k] += step[k];
		more = loss_with(f, u, t->w, NULL);
		for (uint32_t k = 0; k < N * ROWS; k++)
			u[k] -= 2 * step[k];
		less = loss_with(f, u, t->w, NULL);
		assert_true(more > least && less > least);
		assert_true(fabs(more - less) < 1e-6 * (more - least));
		free(u);
		free(step);
		rounded_free(t);
		free(f);
	}
}

static void test_no_other_sigma_is_better(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(spikes); i++) {
		struct fixture *f = fixture_new(spikes[i], 21 + i);
		struct rounded *t = rounded_new(f);
		struct reason reason = {0};
		double factors[N], least, more, less;

		round_vectors(t->u, ROWS, 2);
		assert_int_equal(refit_factors(&t->refit, t->u, factors, &reason), 0);
		least = loss_with(f, t->u, t->w, factors);
		assert_true(least < loss_with(f, t->u, t->w, NULL));
		for (uint32_t k = 0; k < N; k += 5) {
			double best = factors[k];

			factors[k] = best * 1.1;
			more = loss_with(f, t->u, t->w, factors);
			factors[k] = best * .9;
			less = loss_with(f, t->u, t->w, factors);
			factors[k] = best;
			assert_true(more > least && less > least);
			assert_true(fabs(more - less) < 1e-6 * (more - least));
		}
		rounded_free(t);
		free(f);
	}
}

/* A vector that rounding has made zero takes no part. */
static void test_a_vector_of_zeros(void **state)
{
	struct fixture *f = fixture_new(.5, 31);
	struct rounded *t = rounded_new(f);
	const struct refit_problem problem = {
		.target = f->delta,
		.moments = f->moments,
		.w = t->w,
		.rows = ROWS,
		.cols = COLS,
		.n = N,
	};
	struct reason reason = {0};
	double factors[N];

	(void)state;
	memset(t->w + 3 * COLS, 0, COLS * sizeof(*t->w));
	memset(t->u + 7 * ROWS, 0, ROWS * sizeof(*t->u));
	refit_done(&t->refit);
	assert_int_equal(refit_init(&problem, &t->refit), 0);
	assert_int_equal(refit_factors(&t->refit, t->u, factors, &reason), 0);
	for (uint32_t i = 0; i < N; i++)
		assert_true(i == 3 || i == 7 ? factors[i] == 0 : factors[i] != 0);
	assert_int_equal(refit_vectors(&t->refit, t->u, &reason), 0);
	for (uint32_t r = 0; r < ROWS; r++)
		assert_true(t->u[3 * ROWS + r] == 0);
	rounded_free(t);
	free(f);
}

/* Twice the same vector: any share of each would do. Damping of H does not help, and it is said. */
static void test_vectors_that_depend_on_each_other(void **state)
{
	struct fixture *f = fixture_new(.5, 41);
	struct rounded *t = rounded_new(f);
	struct reason reason = {0};

	(void)state;
	for (uint32_t i = 0; i < N * N; i++)
		t->refit.gram[i] = 1;
	t->refit.gram[N * N - 1] = .5;
	assert_int_equal(refit_vectors(&t->refit, t->u, &reason), -EDOM);
	assert_non_null(strstr(reason.text, "depend on each other"));
	rounded_free(t);
	free(f);
}

struct outcome {
	double error; /* tr(E H E^T) over that of D, H as it is */
	uint64_t bytes;
};

static struct outcome outcome_of(const struct fixture *f, const struct method *method, double ratio)
{
	const struct method_options options = {.ratio = ratio};
	struct method_matrix m = {
		.role = ROLE_Q,
		.rows = ROWS,
		.cols = COLS,
		.base = f->base,
		.delta = f->delta,
		.budget = (uint64_t)(2.0 * ROWS * COLS / ratio),
	};
	struct method_group group = {
		.options = &options,
		.pool = compute_pool,
		.cols = COLS,
		.moments = f->moments,
		.held_out = f->moments,
		.matrices = &m,
		.n_matrices = 1,
	};
	double *error = malloc(sizeof(double) * ROWS * COLS), whole;
	float *values = calloc((size_t)ROWS * COLS, sizeof(*values));
	struct outcome ret = {0};
	struct reason reason = {0};

	assert_non_null(error);
	assert_non_null(values);
	if (method->quantise(NULL, &group, &reason) < 0)
		fail_msg("%s: %s", method->name, reason.text);
	for (uint32_t i = 0; i < m.n_parts; i++) {
		assert_int_equal(part_apply(NULL, &m.parts[i], values, &reason), 0);
		ret.bytes += part_file_bytes(&m.parts[i]);
	}
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		error[i] = (double)f->delta[i];
	whole = loss_of(f->moments, error);
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		error[i] -= (double)values[i];
	ret.error = loss_of(f->moments, error) / whole;
	assert_true(ret.bytes > 0 && ret.bytes <= m.budget);
	method_matrix_done(&m);
	free(error);
	free(values);
	return ret;
}

/* Through rounding, record and payload, as a reader has it. */
static void test_error_never_rises(void **state)
{
	static const double ratios[] = {5, 12, 30};

	(void)state;
	for (size_t i = 0; i < array_len(spikes); i++)
		for (size_t k = 0; k < array_len(ratios); k++) {
			struct fixture *f = fixture_new(spikes[i], 51 + 10 * i + k);
			struct outcome paper = outcome_of(f, &method_delta_come, ratios[k]);
			struct outcome solved = outcome_of(f, &method_delta_come_solved, ratios[k]);

			assert_int_equal(solved.bytes, paper.bytes);
			if (!(solved.error <= paper.error))
				fail_msg("spikes %g at %g: %g solved, %g as the paper has it",
					spikes[i], ratios[k], solved.error, paper.error);
			free(f);
		}
}

/* At a bit a weight: the recipe, U solved again, whitened; each is clearly better, by a tenth and
 * more, than the one before on deltas that are flat, and on such with 40 and 80 % of spikes. */
static void test_order_of_recipes(void **state)
{
	static const struct method *const methods[] = {
		&method_delta_come, &method_delta_come_solved, &method_delta_come_whitened};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct fixture *f = fixture_new(spikes[i], 101 + i);
		struct outcome before = {.error = INFINITY};

		for (size_t k = 0; k < array_len(methods); k++) {
			struct outcome now = outcome_of(f, methods[k], 16);

			print_message("spikes %g, %s: %.3f in %llu bytes\n", spikes[i],
				methods[k]->name, now.error, (unsigned long long)now.bytes);
			assert_true(k == 0 || now.bytes == before.bytes);
			assert_true(now.error < .9 * before.error);
			before = now;
		}
		free(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_other_u_is_better),
		cmocka_unit_test(test_no_other_sigma_is_better),
		cmocka_unit_test(test_a_vector_of_zeros),
		cmocka_unit_test(test_vectors_that_depend_on_each_other),
		cmocka_unit_test(test_error_never_rises),
		cmocka_unit_test(test_order_of_recipes),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}

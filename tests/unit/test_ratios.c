/*
 * Methods that fill any size, at every ratio that a table asks for: the budget is kept and used,
 * the bytes told are those of the parts, more bytes are never worse, and what is split between a
 * low rank and codes is no worse than the low rank alone.
 */
#include "compress/methods.h"
#include "compress/part_values.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 640u
#define COLS 512u
#define RANK 6u

static const double ratios[] = {128, 64, 32, 16, 8};

static double next_value(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (double)(*seed >> 8) / 0x1p23 - 1;
}

/* A few directions and noise. */
static float *some_change(void)
{
	float *d = calloc((size_t)ROWS * COLS, sizeof(*d));
	double u[ROWS], v[COLS];
	uint32_t seed = 7;

	assert_non_null(d);
	for (uint32_t k = 0; k < RANK; k++) {
		for (uint32_t r = 0; r < ROWS; r++)
			u[r] = next_value(&seed) / (1 + k);
		for (uint32_t c = 0; c < COLS; c++)
			v[c] = next_value(&seed);
		for (uint32_t i = 0; i < ROWS * COLS; i++)
			d[i] += (float)(1e-3 * u[i / COLS] * v[i % COLS]);
	}
	for (uint32_t i = 0; i < ROWS * COLS; i++)
		d[i] += (float)(5e-4 * next_value(&seed));
	return d;
}

/* Of inputs that differ in size and go together. */
static double *some_moments(void)
{
	double *h = calloc((size_t)COLS * COLS, sizeof(*h)), x[COLS];
	uint32_t seed = 3;

	assert_non_null(h);
	for (uint32_t t = 0; t < 2 * COLS; t++) {
		double common = next_value(&seed);

		for (uint32_t i = 0; i < COLS; i++)
			x[i] = (next_value(&seed) + common) * (1 + i % 5);
		for (uint32_t i = 0; i < COLS; i++)
			for (uint32_t j = 0; j < COLS; j++)
				h[i * COLS + j] += x[i] * x[j] / (2 * COLS);
	}
	return h;
}

/* tr(E H E^T) of what the parts leave of D, over that of D. */
static double relative_error(const struct method_matrix *m, const double *h)
{
	float *left = calloc((size_t)ROWS * COLS, sizeof(*left));
	struct reason reason = {0};
	double error = 0, whole = 0;

	assert_non_null(left);
	for (uint32_t i = 0; i < m->n_parts; i++)
		assert_int_equal(part_apply(NULL, &m->parts[i], left, &reason), 0);
	for (uint32_t k = 0; k < ROWS * COLS; k++)
		left[k] -= m->delta[k];
	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t i = 0; i < COLS; i++)
			for (uint32_t j = 0; j < COLS; j++) {
				size_t a = (size_t)r * COLS + i, b = (size_t)r * COLS + j;

				error += (double)left[a] * h[i * COLS + j] * (double)left[b];
				whole +=
					(double)m->delta[a] * h[i * COLS + j] * (double)m->delta[b];
			}
	free(left);
	return error / whole;
}

struct field {
	float *delta, *base;
	double *moments;
	struct pool *pool;
};

static struct field field_new(void)
{
	struct reason reason = {0};
	struct field f = {
		.delta = some_change(),
		.base = calloc((size_t)ROWS * COLS, sizeof(float)),
		.moments = some_moments(),
	};

	assert_non_null(f.base);
	assert_int_equal(pool_new(2, &f.pool, &reason), 0);
	return f;
}

static void field_done(struct field *f)
{
	free(f->delta);
	free(f->base);
	free(f->moments);
	pool_free(f->pool);
}

static double error_at(const struct field *f, const struct method *method, double ratio)
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
		.pool = f->pool,
		.cols = COLS,
		.moments = f->moments,
		.held_out = f->moments,
		.matrices = &m,
		.n_matrices = 1,
	};
	struct reason reason = {0};
	uint64_t bytes = 0;
	double error;

	if (method->quantise(NULL, &group, &reason) < 0)
		fail_msg("%s: %s", method->name, reason.text);
	assert_true(m.n_parts > 0);
	for (uint32_t i = 0; i < m.n_parts; i++) {
		assert_int_equal(m.parts[i].record.level, i);
		bytes += part_file_bytes(&m.parts[i]);
	}
	if (bytes > m.budget || (double)bytes < 0.6 * (double)m.budget)
		fail_msg("%s at %g: %llu bytes of %llu", method->name, ratio,
			(unsigned long long)bytes, (unsigned long long)m.budget);
	error = relative_error(&m, f->moments);
	method_matrix_done(&m);
	return error;
}

static void check_ratios(const struct method *method, double *ret)
{
	struct field f = field_new();
	double before = 1;

	for (size_t i = 0; i < array_len(ratios); i++) {
		ret[i] = error_at(&f, method, ratios[i]);
		if (!(ret[i] < before))
			fail_msg("%s at %g: error %g, with less %g", method->name, ratios[i],
				ret[i], before);
		before = ret[i];
	}
	field_done(&f);
}

static void test_sparse(void **state)
{
	double errors[array_len(ratios)];

	(void)state;
	check_ratios(&method_sparse, errors);
}

static void test_low_rank(void **state)
{
	double errors[array_len(ratios)];

	(void)state;
	check_ratios(&method_low_rank, errors);
}

static void test_split(void **state)
{
	double alone[array_len(ratios)], split[array_len(ratios)];
	bool better = false;

	(void)state;
	check_ratios(&method_low_rank_whitened, alone);
	check_ratios(&method_low_rank_k_bit, split);
	for (size_t i = 0; i < array_len(ratios); i++) {
		assert_true(split[i] <= alone[i] * (1 + 1e-6));
		better = better || split[i] < 0.9 * alone[i];
	}
	assert_true(better);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_low_rank),
		cmocka_unit_test(test_split),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}

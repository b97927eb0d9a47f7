/* The choice of a codec on random matrices, against the codecs alone. */
#include "compress/trial.h"

#include "common/random.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 48u
#define COLS 32u
#define ALL (1u << TRIAL_NOTHING | 1u << TRIAL_CODES | 1u << TRIAL_FACTORS)

struct fixture {
	float delta[ROWS * COLS];
	struct metric *g, *h;
	struct trial *trial;
};

static float noise(uint64_t i)
{
	return (float)(random_share(random_at(1, i)) - .5);
}

/* Some strong components in noise. */
static void setup(struct fixture *f)
{
	static float moments[ROWS * ROWS];
	struct trial_settings s = {.place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS}};
	struct reason reason = {0};

	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t c = 0; c < COLS; c++)
			f->delta[r * COLS + c] = noise(r) * noise(100 + c) * 4 +
						 noise(200 + r) * noise(300 + c) * 2 +
						 .05f * noise(1000 + r * COLS + c);
	for (uint32_t i = 0; i < ROWS; i++)
		for (uint32_t j = 0; j < ROWS; j++)
			moments[i * ROWS + j] = (i == j) + .5f / (1 + (float)(i + j));
	assert_int_equal(metric_new(moments, ROWS, .3, &f->g, &reason), 0);
	for (uint32_t i = 0; i < COLS; i++)
		for (uint32_t j = 0; j < COLS; j++)
			moments[i * COLS + j] = i == j ? 1 + (float)i / 8 : 0;
	assert_int_equal(metric_new(moments, COLS, .3, &f->h, &reason), 0);
	s.delta = f->delta;
	s.codes.g = s.factors.g = f->g;
	s.codes.h = s.factors.h = f->h;
	assert_int_equal(trial_new(&s, &f->trial), 0);
}

static void done(struct fixture *f)
{
	trial_free(f->trial);
	metric_free(f->g);
	metric_free(f->h);
}

static double cost_with(struct fixture *f, uint32_t codecs, double lambda)
{
	struct rate_loss point;
	struct reason reason = {0};

	trial_allow(f->trial, codecs);
	assert_int_equal(trial_encode(f->trial, lambda, &point, &reason), 0);
	return point.loss + lambda * point.bytes;
}

static void test_the_best_codec_is_taken(void **state)
{
	static const double lambdas[] = {1e-4, 1e-3, 1e-2, 1, 100};
	uint32_t seen = 0;

	(void)state;
	for (size_t i = 0; i < array_len(lambdas); i++) {
		struct fixture f;
		double codes, factors, nothing, best;

		setup(&f);
		nothing = cost_with(&f, 1u << TRIAL_NOTHING, lambdas[i]);
		codes = cost_with(&f, 1u << TRIAL_CODES, lambdas[i]);
		factors = cost_with(&f, 1u << TRIAL_FACTORS, lambdas[i]);
		best = cost_with(&f, ALL, lambdas[i]);
		assert_true(best == fmin(nothing, fmin(codes, factors)));
		seen |= 1u << f.trial->at.winner.codec;
		done(&f);
	}
	assert_int_equal(seen, ALL);
}

/* tr(G E H E^T) in double, half of it, and more for codes. */
static double loss_of(const struct fixture *f)
{
	static float values[ROWS * COLS];
	static double ge[ROWS * COLS], error[ROWS * COLS];
	double sum = 0;

	assert_int_equal(trial_values(f->trial, values), 0);
	for (size_t i = 0; i < ROWS * COLS; i++)
		error[i] = (double)f->delta[i] - (double)values[i];
	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t c = 0; c < COLS; c++) {
			ge[r * COLS + c] = 0;
			for (uint32_t k = 0; k < ROWS; k++)
				ge[r * COLS + c] +=
					f->g->matrix[r * ROWS + k] * error[k * COLS + c];
		}
	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t c = 0; c < COLS; c++)
			for (uint32_t k = 0; k < COLS; k++)
				sum += ge[r * COLS + c] * f->h->matrix[c * COLS + k] *
				       error[r * COLS + k];
	return sum / 2 * (f->trial->at.winner.codec == TRIAL_CODES ? TRIAL_OPTIMISM : 1);
}

static void test_losses_and_bytes_are_those_of_what_stands(void **state)
{
	static const uint32_t codecs[] = {
		1u << TRIAL_NOTHING, 1u << TRIAL_CODES, 1u << TRIAL_FACTORS};

	(void)state;
	for (size_t i = 0; i < array_len(codecs); i++) {
		struct fixture f;
		struct rate_loss first;
		struct part part;

		setup(&f);
		cost_with(&f, codecs[i], 1e-4);
		first = f.trial->at.point;
		assert_true(fabs(first.loss / loss_of(&f) - 1) < 1e-3);
		assert_int_equal(trial_part(f.trial, &part), 0);
		assert_true(first.bytes == (part.payload ? (double)part_file_bytes(&part) : 0));
		part_done(&part);
		assert_int_equal(trial_weigh(f.trial), 0);
		assert_true(fabs(f.trial->at.point.loss / first.loss - 1) < 1e-3);
		assert_true(f.trial->at.point.bytes == first.bytes);
		done(&f);
	}
}

static void test_what_is_aside_comes_back(void **state)
{
	static int8_t codes[ROWS * COLS];
	struct fixture f;
	struct rate_loss point;

	(void)state;
	setup(&f);
	cost_with(&f, 1u << TRIAL_CODES, 1e-4);
	memcpy(codes, f.trial->at.codes, sizeof(codes));
	point = f.trial->at.point;
	trial_swap(f.trial);
	cost_with(&f, 1u << TRIAL_FACTORS, 1e-3);
	trial_swap(f.trial);
	assert_int_equal(f.trial->at.winner.codec, TRIAL_CODES);
	assert_memory_equal(codes, f.trial->at.codes, sizeof(codes));
	assert_memory_equal(&point, &f.trial->at.point, sizeof(point));
	done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_best_codec_is_taken),
		cmocka_unit_test(test_losses_and_bytes_are_those_of_what_stands),
		cmocka_unit_test(test_what_is_aside_comes_back),
	};

	return cmocka_run_group_tests(tests, compute_load, NULL);
}

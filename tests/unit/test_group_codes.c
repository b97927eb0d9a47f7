/*
 * Codes of a base that are rounded with their inputs in mind, against rounding each number by
 * itself: what the matrix answers to the very inputs, computed in double.
 */
#include "compress/group_codes.h"

#include "kernels/blas.h"
#include "kernels/pack.h"
#include "store/codec.h"
#include "tests/normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 150u
#define COLS 300u
#define N_INPUTS 1200u
#define N_CAUSES 40u /* behind the inputs: they have much in common */

/* A matrix, inputs of it, and what was made of them. */
struct fixture {
	uint16_t numbers[ROWS * COLS];
	float matrix[ROWS * COLS];
	double inputs[N_INPUTS][COLS];
	double were[N_INPUTS][COLS]; /* the inputs, before matrices before this one were rounded */
	double moments[COLS * COLS];
	double drift[COLS * COLS];
	struct tensor_record record;
	struct pool *pool;
	struct gptq *gptq;
};

static void fill_inputs(struct fixture *f, uint64_t *state)
{
	static double mixing[N_CAUSES][COLS];

	for (size_t k = 0; k < N_CAUSES; k++)
		for (size_t c = 0; c < COLS; c++)
			mixing[k][c] = normal_next(state);
	for (size_t t = 0; t < N_INPUTS; t++) {
		for (size_t c = 0; c < COLS; c++)
			f->inputs[t][c] = 0.5 * normal_next(state);
		for (size_t k = 0; k < N_CAUSES; k++) {
			double cause = normal_next(state) / 2;

			for (size_t c = 0; c < COLS; c++)
				f->inputs[t][c] += cause * mixing[k][c];
		}
		/* One that is much larger than the others, and one that is never there. */
		f->inputs[t][7] *= 10;
		f->inputs[t][200] = 0;
	}
}

/* What is lost is, in part, what others still tell. */
static void fill_former_inputs(struct fixture *f, uint64_t *state)
{
	for (size_t t = 0; t < N_INPUTS; t++)
		for (size_t c = 0; c < COLS; c++)
			f->were[t][c] = f->inputs[t][c] + 0.2 * f->inputs[t][(c + 1) % COLS] +
					0.1 * normal_next(state);
}

static void fill_moments(struct fixture *f)
{
	for (size_t t = 0; t < N_INPUTS; t++)
		for (size_t i = 0; i < COLS; i++)
			for (size_t j = 0; j < COLS; j++) {
				double lost = f->were[t][i] - f->inputs[t][i];

				f->moments[i * COLS + j] +=
					f->inputs[t][i] * f->inputs[t][j] / N_INPUTS;
				f->drift[i * COLS + j] += lost * f->inputs[t][j] / N_INPUTS;
			}
}

static int open_fixture(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	uint64_t seed = 11;

	assert_non_null(f);
	assert_int_equal(blas_load(1, NULL), 0);
	assert_int_equal(pool_new(3, &f->pool, NULL), 0);
	for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
		f->numbers[i] = bf16_from_f32((float)normal_next(&seed) * 0.05f);
		f->matrix[i] = bf16_to_f32(f->numbers[i]);
	}
	fill_inputs(f, &seed);
	fill_former_inputs(f, &seed);
	fill_moments(f);
	assert_int_equal(gptq_new(f->pool, f->moments, COLS, &f->gptq, NULL), 0);
	*state = f;
	return 0;
}

static int close_fixture(void **state)
{
	struct fixture *f = *state;

	gptq_free(f->gptq);
	pool_free(f->pool);
	free(f);
	return 0;
}

static uint8_t *new_payload(struct fixture *f, enum weights w)
{
	f->record = (struct tensor_record){.role = ROLE_UP, .rows = ROWS, .cols = COLS};
	weights_record(w, &f->record);
	return aligned_alloc(64, align_up(f->record.bytes, 64));
}

static uint8_t *rounded_with(
	struct fixture *f, enum weights w, struct pool *pool, const double *drift)
{
	uint8_t *payload = new_payload(f, w);
	const struct group_codes g = {
		.pool = pool,
		.record = &f->record,
		.matrix = f->matrix,
		.moments = f->moments,
		.drift = drift,
		.gptq = f->gptq,
	};

	assert_non_null(payload);
	assert_int_equal(group_codes_pack(&g, payload), 0);
	return payload;
}

static uint8_t *rounded(struct fixture *f, enum weights w, struct pool *pool)
{
	return rounded_with(f, w, pool, NULL);
}

/* Mean squared difference of what the matrices answer to the inputs, `wanted` being those of the
 * one that was rounded. */
static double answers_error(
	const struct fixture *f, const float *served, const double wanted[][COLS])
{
	double sum = 0;

	for (size_t t = 0; t < N_INPUTS; t++)
		for (size_t r = 0; r < ROWS; r++) {
			double difference = 0;

			for (size_t c = 0; c < COLS; c++)
				difference += (double)served[r * COLS + c] * f->inputs[t][c] -
					      (double)f->matrix[r * COLS + c] * wanted[t][c];
			sum += difference * difference / N_INPUTS;
		}
	return sum;
}

/* Every number by itself to the nearest on the grids of a payload. */
static void nearest_on_grids(const struct fixture *f, const uint8_t *payload, float *ret)
{
	const struct payload p = {.record = &f->record, .bytes = payload};
	const struct mat_int m = codec_mat_int(&p);

	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t c = 0; c < COLS; c++) {
			double scale = (double)mat_int_scale(&m, r, c / MAT_INT_GROUP);
			double number = (double)f->matrix[r * COLS + c] / scale, code;
			int step = 1, offset = 128;

			if (m.bits == 4) {
				uint8_t grid = mat_int_grid(&m, r, c / MAT_INT_GROUP,
					c % MAT_INT_GROUP / MAT_INT_SUBGROUP);

				step = mat_int_step(grid);
				offset = mat_int_offset(grid);
			}
			code = round((number + offset) / step);
			code = fmin(fmax(code, 0), m.bits == 4 ? 15 : 255);
			ret[r * COLS + c] = (float)(scale * (step * code - offset));
		}
}

static void expect_gain(struct fixture *f, enum weights w, double most)
{
	_cleanup_(freep) uint8_t *payload = rounded(f, w, f->pool);
	_cleanup_(freep) uint8_t *plain = new_payload(f, w);
	_cleanup_(freep) float *served = malloc(sizeof(f->matrix));
	double error, by_itself, on_grids;

	weights_values(&f->record, payload, served);
	error = answers_error(f, served, f->inputs);
	nearest_on_grids(f, payload, served);
	on_grids = answers_error(f, served, f->inputs);
	weights_pack(&f->record, f->numbers, plain);
	weights_values(&f->record, plain, served);
	by_itself = answers_error(f, served, f->inputs);
	if (error > most * on_grids || error > most * by_itself)
		fail_msg("%s: error %g, %g nearest on the same grids, %g each by itself",
			weights_name(w), error, on_grids, by_itself);
}

static void answers_are_nearer_than_of_nearest_numbers(void **state)
{
	expect_gain(*state, WEIGHTS_INT4, 0.5);
	expect_gain(*state, WEIGHTS_INT8, 0.5);
}

/* Answers to inputs that have lost something are nearer to those to the inputs as they were. */
static void what_inputs_have_lost_is_made_up_for(void **state)
{
	struct fixture *f = *state;
	_cleanup_(freep) uint8_t *without = rounded(f, WEIGHTS_INT4, f->pool);
	_cleanup_(freep) uint8_t *with = rounded_with(f, WEIGHTS_INT4, f->pool, f->drift);
	_cleanup_(freep) float *served = malloc(sizeof(f->matrix));
	double error, before;

	weights_values(&f->record, without, served);
	before = answers_error(f, served, f->were);
	weights_values(&f->record, with, served);
	error = answers_error(f, served, f->were);
	if (error > 0.5 * before)
		fail_msg("error %g, %g without", error, before);
}

static void threads_change_no_byte(void **state)
{
	struct fixture *f = *state;
	_cleanup_(freep) uint8_t *many = rounded_with(f, WEIGHTS_INT4, f->pool, f->drift);
	_cleanup_(freep) uint8_t *alone = rounded_with(f, WEIGHTS_INT4, NULL, f->drift);

	assert_memory_equal(many, alone, f->record.bytes);
}

/* What nothing is known of is left out, but for what keeps 0 from being on a grid of 4 bits; what
 * matters most is not. */
static void inputs_that_never_occur_get_next_to_nothing(void **state)
{
	struct fixture *f = *state;
	_cleanup_(freep) uint8_t *payload = rounded(f, WEIGHTS_INT4, f->pool);
	_cleanup_(freep) float *served = malloc(sizeof(f->matrix));
	const struct payload p = {.record = &f->record, .bytes = payload};
	const struct mat_int m = codec_mat_int(&p);

	weights_values(&f->record, payload, served);
	for (uint32_t r = 0; r < ROWS; r++) {
		uint8_t grid = mat_int_grid(
			&m, r, 200 / MAT_INT_GROUP, 200 % MAT_INT_GROUP / MAT_INT_SUBGROUP);

		assert_true(
			fabsf(served[r * COLS + 200]) <=
			mat_int_scale(&m, r, 200 / MAT_INT_GROUP) * (float)mat_int_step(grid) / 2);
		assert_true(served[r * COLS + 7] != 0 || fabsf(f->matrix[r * COLS + 7]) < 0.02f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_are_nearer_than_of_nearest_numbers),
		cmocka_unit_test(what_inputs_have_lost_is_made_up_for),
		cmocka_unit_test(threads_change_no_byte),
		cmocka_unit_test(inputs_that_never_occur_get_next_to_nothing),
	};

	return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}

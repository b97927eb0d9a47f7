/*
 * Bases of codes: what rounding makes of numbers, that all who round agree, which deltas fit, and
 * that the model computes with exactly what it says it serves.
 */
#include "foreign/weights.h"
#include "engine/score.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include "store/codec.h"
#include "tests/double_model.h"
#include "tests/imported_base.h"
#include "tests/random_delta.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define FOLDER "tests/golden/data/tiny/llama-gqa"
#define TIED_FOLDER "tests/golden/data/tiny/llama-mha-tied"
#define ROWS 19
#define COLS 300
#define N_IDS 24

static const enum weights codes[] = {WEIGHTS_INT8, WEIGHTS_INT4};

static void fill(uint16_t *values)
{
	uint32_t state = 5;

	for (size_t i = 0; i < (size_t)ROWS * COLS; i++) {
		float x = random_float(&state);

		/* Heavy tails, rows of different sizes, one of zeros. */
		values[i] = bf16_from_f32(
			x * x * x * (float)(i / COLS) * 0.03f + 0.01f * (float)(i / COLS % 3));
	}
	memset(values, 0, COLS * sizeof(*values));
}

static void served_of(enum weights w, const uint16_t *values, float *ret)
{
	const struct tensor_record shape = {.role = ROLE_UP, .rows = ROWS, .cols = COLS};

	assert_int_equal(weights_served(w, &shape, values, ret, NULL), 0);
}

/* Squared error of a stretch on a plain grid from its least to its largest number, in double. */
static double plain_error(const uint16_t *values, size_t n, double steps)
{
	double low = 0, high = 0, sum = 0;

	for (size_t i = 0; i < n; i++) {
		low = fmin(low, (double)bf16_to_f32(values[i]));
		high = fmax(high, (double)bf16_to_f32(values[i]));
	}
	for (size_t i = 0; i < n && high > low; i++) {
		double v = (double)bf16_to_f32(values[i]), step = (high - low) / steps;
		double error = v - (low + step * round((v - low) / step));

		sum += error * error;
	}
	return sum;
}

/* Of a stretch of what serves. */
static double served_error(const uint16_t *values, const float *served, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++) {
		double error = (double)served[i] - (double)bf16_to_f32(values[i]);

		sum += error * error;
	}
	return sum;
}

/* Nothing is off by more than two steps of 127 to the largest of its group, and all in all no more
 * is lost than by 254 steps from end to end. */
static void int8_is_near_every_number(void **state)
{
	uint16_t values[ROWS * COLS];
	float served[ROWS * COLS];
	double all = 0, all_plain = 0;

	(void)state;
	fill(values);
	served_of(WEIGHTS_INT8, values, served);
	for (size_t r = 0; r < ROWS; r++)
		for (size_t begin = 0; begin < COLS; begin += MAT_INT_GROUP) {
			size_t n = min_u64(MAT_INT_GROUP, COLS - begin), at = r * COLS + begin;
			double largest = 0;

			for (size_t i = 0; i < n; i++)
				largest = fmax(largest, fabs((double)bf16_to_f32(values[at + i])));
			for (size_t i = 0; i < n; i++)
				assert_true(fabs((double)served[at + i] -
						    (double)bf16_to_f32(values[at + i])) <=
					    largest * 2 / 127);
			all += served_error(values + at, served + at, n);
			for (size_t i = 0; i < n; i++)
				all_plain += pow(largest / 127, 2) / 12;
		}
	assert_true(all < all_plain);
}

/* A plain grid for each 16 has two numbers of full precision where we have six bits. */
static void int4_is_as_good_as_plain_grids_of_16(void **state)
{
	uint16_t values[ROWS * COLS];
	float served[ROWS * COLS];
	double all = 0, all_plain = 0;

	(void)state;
	fill(values);
	served_of(WEIGHTS_INT4, values, served);
	for (size_t r = 0; r < ROWS; r++)
		for (size_t begin = 0; begin < COLS; begin += MAT_INT_SUBGROUP) {
			size_t n = min_u64(MAT_INT_SUBGROUP, COLS - begin), at = r * COLS + begin;

			all += served_error(values + at, served + at, n);
			all_plain += plain_error(values + at, n, 15);
		}
	assert_true(all < 1.02 * all_plain);
}

/* Squared error of a sub-group with its fitted codes, or, if they are NULL, with the nearest. */
static double grid_error(const float *values, double scale, uint8_t grid, const uint8_t *fitted)
{
	int step = mat_int_step(grid), offset = mat_int_offset(grid);
	double sum = 0;

	for (size_t i = 0; i < MAT_INT_SUBGROUP; i++) {
		double nearest = round(((double)values[i] / scale + offset) / step);
		double code = fitted ? fitted[i] : fmin(fmax(nearest, 0), 15);

		sum += pow((double)values[i] - scale * (step * code - offset), 2);
	}
	return sum;
}

/* For the scale that was found, few of all 64 grids are tried. */
static void hardly_a_grid_of_int4_is_better(void **state)
{
	uint16_t numbers[ROWS * COLS];
	double all = 0, all_least = 0;

	(void)state;
	fill(numbers);
	for (size_t r = 1; r < ROWS; r++) {
		float values[MAT_INT_GROUP];
		struct int_group g;

		for (size_t i = 0; i < MAT_INT_GROUP; i++)
			values[i] = bf16_to_f32(numbers[r * COLS + i]);
		int_group_fit(&g, values, NULL, 4);
		for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++) {
			const float *at = values + s * MAT_INT_SUBGROUP;
			double scale = (double)bf16_to_f32(g.scale), least = INFINITY;

			for (uint8_t grid = 0; grid < 64; grid++)
				least = fmin(least, grid_error(at, scale, grid, NULL));
			all += grid_error(at, scale, g.grids[s], g.codes + s * MAT_INT_SUBGROUP);
			all_least += least;
		}
	}
	if (all > 1.02 * all_least)
		fail_msg("error %g, that of the best grids %g", all, all_least);
}

/* Far larger and far smaller ones than any model has. */
static void numbers_of_any_size_are_kept(void **state)
{
	static const float sizes[] = {1e34f, 1, 0x1p-110f};

	(void)state;
	for (size_t i = 0; i < array_len(sizes); i++)
		for (uint32_t bits = 4; bits <= 8; bits += 4) {
			float values[MAT_INT_GROUP];
			struct int_group g;

			for (size_t k = 0; k < MAT_INT_GROUP; k++)
				values[k] = k % 3 ? sizes[i] : -sizes[i];
			int_group_fit(&g, values, NULL, bits);
			for (size_t k = 0; k < MAT_INT_GROUP; k++) {
				struct int_grid grid =
					int_group_grid(&g, k / MAT_INT_SUBGROUP, bits);
				double value = grid.scale * (grid.step * g.codes[k] - grid.offset);

				assert_true(
					fabs(value - (double)values[k]) < 0.1 * (double)sizes[i]);
			}
		}
}

static void bf16_stays(void **state)
{
	uint16_t values[ROWS * COLS];
	float served[ROWS * COLS];

	(void)state;
	fill(values);
	served_of(WEIGHTS_BF16, values, served);
	for (size_t i = 0; i < ROWS * COLS; i++)
		assert_true(served[i] == bf16_to_f32(values[i]));
}

static struct checkpoint *open_folder(void)
{
	struct checkpoint *c = NULL;
	struct reason reason = {0};

	if (checkpoint_open(FOLDER, &c, &reason) < 0)
		fail_msg("%s", reason.text);
	return c;
}

/* Of a matrix of codes, element by element through the image's own codes. */
static void expect_same(struct checkpoint *c, enum weights w, const struct base *base,
	enum tensor_role role, uint32_t layer)
{
	const struct base_matrix *m = base_matrix(base, role, layer);
	const struct tensor_record shape = {.role = role, .rows = m->rows, .cols = m->cols};
	size_t n = (size_t)m->rows * m->cols;
	uint16_t *values = malloc(n * sizeof(*values));
	float *served = malloc(n * sizeof(*served)), *row = malloc(m->cols * sizeof(*row));

	assert_true(values && served && row);
	assert_int_equal(m->codec, CODEC_MAT_INT);
	assert_int_equal(checkpoint_read_bf16(c, role, layer, values, NULL, NULL), 0);
	assert_int_equal(weights_served(w, &shape, values, served, NULL), 0);
	for (uint32_t r = 0; r < m->rows; r++) {
		base_matrix_row(row, m, r);
		assert_memory_equal(row, served + (size_t)r * m->cols, m->cols * sizeof(*row));
	}
	free(row);
	free(values);
	free(served);
}

static void import_and_rounding_agree(void **state)
{
	struct checkpoint *c = open_folder();
	struct digest model, served;

	(void)state;
	assert_int_equal(weights_digest(c, WEIGHTS_BF16, NULL, &model, NULL), 0);
	for (size_t i = 0; i < array_len(codes); i++) {
		struct base *base = imported_base_as(FOLDER, codes[i]);

		assert_string_equal(base_weights_name(base), weights_name(codes[i]));
		expect_same(c, codes[i], base, ROLE_Q, 0);
		expect_same(c, codes[i], base, ROLE_DOWN, base->config.n_layers - 1);
		expect_same(c, codes[i], base, ROLE_HEAD, base->config.n_layers - 1);
		assert_int_equal(base->head.ints.bits, 8);
		assert_int_equal(base->embed.codec, CODEC_MAT_BF16);
		assert_int_equal(weights_digest(c, codes[i], NULL, &served, NULL), 0);
		assert_true(digest_equal(&model, base_model_digest(base)));
		assert_true(digest_equal(&served, base_served_digest(base)));
		assert_false(digest_equal(&served, &model));
		base_free(base);
	}
	checkpoint_free(c);
}

/* One matrix, and it is the embedding's. */
static void a_tied_head_has_no_codes(void **state)
{
	(void)state;
	for (size_t i = 0; i < array_len(codes); i++) {
		struct base *base = imported_base_as(TIED_FOLDER, codes[i]);

		assert_int_equal(base->layers[0].q.codec, CODEC_MAT_INT);
		assert_int_equal(base->embed.codec, CODEC_MAT_BF16);
		assert_int_equal(base->head.codec, CODEC_MAT_BF16);
		assert_ptr_equal(base->head.bf16.data, base->embed.bf16.data);
		base_free(base);
	}
}

/* random_delta() makes them for what the base serves. */
static void deltas_fit_what_they_were_made_for(void **state)
{
	struct base *bf16 = imported_base(FOLDER), *int8 = imported_base_as(FOLDER, WEIGHTS_INT8),
		    *int4 = imported_base_as(FOLDER, WEIGHTS_INT4);
	struct delta *general = random_delta(bf16, 1, 0), *special = random_delta(int8, 1, 0);
	const struct format_header *h = &special->image->header;

	(void)state;
	assert_true(image_fits(&general->image->header, &bf16->image->header));
	assert_true(image_fits(&general->image->header, &int8->image->header));
	assert_true(image_fits(&general->image->header, &int4->image->header));
	assert_true(image_fits(h, &int8->image->header));
	assert_false(image_fits(h, &bf16->image->header));
	assert_false(image_fits(h, &int4->image->header));
	delta_free(general);
	delta_free(special);
	base_free(bf16);
	base_free(int8);
	base_free(int4);
}

static void misfits_are_told(void **state)
{
	struct base *int8 = imported_base_as(FOLDER, WEIGHTS_INT8);
	struct base *int4 = imported_base_as(FOLDER, WEIGHTS_INT4);
	struct delta *delta = random_delta(int8, 1, 0), *other = NULL;
	char served[DIGEST_HEX_SIZE];
	struct reason reason = {0};

	(void)state;
	assert_int_equal(delta_bind(delta->image, int4, &other, &reason), -EMEDIUMTYPE);
	digest_hex(base_served_digest(int8), served);
	assert_non_null(strstr(reason.text, served));
	digest_hex(base_served_digest(int4), served);
	assert_non_null(strstr(reason.text, served));
	delta_free(delta);
	base_free(int8);
	base_free(int4);
}

/* The checkpoint with every matrix as the base says that it serves it. */
static struct dense_model *dense_of(struct checkpoint *c, const struct base *base)
{
	struct dense_model *m = NULL;

	assert_int_equal(dense_model_read(c, &m, NULL), 0);
	for (uint32_t layer = 0; layer < base->config.n_layers; layer++)
		for (uint32_t role = 0; role < N_ROLES; role++) {
			const struct base_matrix *b =
				base_matrix(base, (enum tensor_role)role, layer);
			float *values = m->layers[layer].at[role];

			for (uint32_t r = 0; values && b && r < b->rows; r++)
				base_matrix_row(values + (size_t)r * b->cols, b, r);
		}
	return m;
}

static void take_logits(void *user, size_t position, const float *logits)
{
	float **at = user;

	memcpy(at[0] + position * (size_t)(at[1] - at[0]) / N_IDS, logits,
		(size_t)(at[1] - at[0]) / N_IDS * sizeof(*logits));
}

/* N_IDS x vocab logits of a base by the engine; malloc'ed. */
static float *engine_logits(const struct base *base, const uint32_t *ids, size_t threads)
{
	size_t n = (size_t)N_IDS * base->config.vocab;
	float *logits = malloc(n * sizeof(*logits));
	float *range[] = {logits, logits + n};
	struct kernels kernels;
	struct pool *pool = NULL;
	struct model *model = NULL;
	struct variant *variant = NULL;
	struct scorer *scorer = NULL;

	assert_non_null(logits);
	assert_int_equal(kernels_select(&kernels, NULL, NULL), 0);
	assert_int_equal(pool_new(threads, &pool, NULL), 0);
	assert_int_equal(model_new(base, &kernels, &model, NULL), 0);
	assert_int_equal(variant_new(model, NULL, &variant, NULL), 0);
	assert_int_equal(scorer_new(model, pool, N_IDS, &scorer, NULL), 0);
	assert_int_equal(score_sequence(scorer, variant, ids, N_IDS, take_logits, range, NULL), 0);
	scorer_free(scorer);
	variant_free(variant);
	model_free(model);
	pool_free(pool);
	return logits;
}

/* Largest difference, of the largest number in b. */
static double distance(const float *a, const double *b, size_t n)
{
	double worst = 0, largest = 0;

	for (size_t i = 0; i < n; i++) {
		worst = fmax(worst, fabs((double)a[i] - b[i]));
		largest = fmax(largest, fabs(b[i]));
	}
	return worst / largest;
}

/* The length of the difference, of the length of b. */
static double mean_distance(const float *a, const double *b, size_t n)
{
	double off = 0, all = 0;

	for (size_t i = 0; i < n; i++) {
		off += pow((double)a[i] - b[i], 2);
		all += b[i] * b[i];
	}
	return sqrt(off / all);
}

/* The logits of a base of integers are those of the dequantised weights in double, which takes
 * rounded inputs as well. Those of int8 are within 10 % of those of the original, int4 within a
 * half: tiny models with random weights, whose every input is rounded in steps of its largest, are
 * far more sensitive than real ones. */
static void logits_are_those_of_what_serves(void **state)
{
	static const double most[] = {0.1, 0.5};
	struct checkpoint *c = open_folder();
	struct dense_model *dense = NULL;
	struct double_model *reference;
	uint32_t ids[N_IDS];
	size_t n = (size_t)N_IDS * checkpoint_config(c)->vocab;
	double *exact = malloc(n * sizeof(*exact)), *original = malloc(n * sizeof(*original));

	(void)state;
	assert_true(exact && original);
	/* With these no input is so near to the middle between two codes that f32 rounds it
	 * otherwise than double does. */
	for (uint32_t i = 0; i < N_IDS; i++)
		ids[i] = (i * 41 + 5) % checkpoint_config(c)->vocab;
	assert_int_equal(dense_model_read(c, &dense, NULL), 0);
	reference = double_model_of(dense, N_IDS);
	double_model_logits(reference, ids, N_IDS, NULL, original);
	double_model_free(reference);
	dense_model_free(dense);
	for (size_t i = 0; i < array_len(codes); i++) {
		struct base *base = imported_base_as(FOLDER, codes[i]);
		float *one = engine_logits(base, ids, 1), *three = engine_logits(base, ids, 3);

		dense = dense_of(c, base);
		reference = double_model_of(dense, N_IDS);
		reference->rounds = reference->rounds_head = true;
		double_model_logits(reference, ids, N_IDS, NULL, exact);
		assert_true(distance(one, exact, n) < 1e-4);
		assert_true(mean_distance(one, original, n) > 1e-3);
		assert_true(mean_distance(one, original, n) < most[i]);
		assert_memory_equal(one, three, n * sizeof(*one));
		double_model_free(reference);
		dense_model_free(dense);
		free(one);
		free(three);
		base_free(base);
	}
	free(exact);
	free(original);
	checkpoint_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(int8_is_near_every_number),
		cmocka_unit_test(int4_is_as_good_as_plain_grids_of_16),
		cmocka_unit_test(hardly_a_grid_of_int4_is_better),
		cmocka_unit_test(numbers_of_any_size_are_kept),
		cmocka_unit_test(bf16_stays),
		cmocka_unit_test(import_and_rounding_agree),
		cmocka_unit_test(a_tied_head_has_no_codes),
		cmocka_unit_test(deltas_fit_what_they_were_made_for),
		cmocka_unit_test(misfits_are_told),
		cmocka_unit_test(logits_are_those_of_what_serves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rows of embedding and head as codes: sizes, promised errors, what a reader decodes, and choices.
 */
#include "compress/embedding.h"

#include "compress/part_values.h"
#include "kernels/convert.h"
#include "tests/random_delta.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BASE_ROWS 300u
#define N_ADDED 3u
#define COLS 200u
#define N_POINTS 40u

/* A model's two embeddings: every tenth row is unchanged, the others by very different amounts. */
struct fixture {
	struct pair_rows rows;
	double weights[BASE_ROWS];
	struct pool *pool;
	struct embedding *e;
};

static void set_up(struct fixture *f, uint32_t n_added)
{
	struct pair_rows *rows = &f->rows;
	struct reason reason = {0};
	uint32_t seed = 7;

	*rows = (struct pair_rows){
		.rows = BASE_ROWS + n_added, .base_rows = BASE_ROWS, .cols = COLS};
	rows->base = malloc(BASE_ROWS * COLS * sizeof(uint16_t));
	rows->values = malloc(rows->rows * COLS * sizeof(uint16_t));
	assert_true(rows->base && rows->values);
	for (uint32_t row = 0; row < rows->rows; row++) {
		float size = row % 10 == 0 ? 0 : 0.001f * (float)(1 + row % 37);

		for (uint32_t c = 0; c < COLS; c++) {
			size_t at = (size_t)row * COLS + c;
			float base = random_float(&seed);

			if (row < BASE_ROWS)
				rows->base[at] = bf16_from_f32(base);
			rows->values[at] =
				bf16_from_f32(bf16_to_f32(bf16_from_f32(base)) +
					      size * (random_float(&seed) + random_float(&seed)));
		}
		if (row < BASE_ROWS)
			f->weights[row] = pow(10, -4.0 * (row % 7) / 6);
	}
	assert_int_equal(pool_new(2, &f->pool, &reason), 0);
	assert_int_equal(embedding_new(rows, f->weights, f->pool, &f->e), 0);
}

static void tear_down(struct fixture *f)
{
	embedding_free(f->e);
	pool_free(f->pool);
	pair_rows_done(&f->rows);
}

/* sum of w ||tuned - value||^2 over the base's rows, from the matrix that a reader has. */
static double loss_of(const struct fixture *f, const float *values)
{
	double sum = 0;

	for (uint32_t row = 0; row < BASE_ROWS; row++)
		for (uint32_t c = 0; c < COLS; c++) {
			size_t at = (size_t)row * COLS + c;
			double error = (double)bf16_to_f32(f->rows.values[at]) - (double)values[at];

			sum += f->weights[row] * error * error;
		}
	return sum;
}

static float *base_of(const struct fixture *f)
{
	float *values = calloc((size_t)f->rows.rows * COLS, sizeof(*values));

	assert_non_null(values);
	for (size_t i = 0; i < BASE_ROWS * COLS; i++)
		values[i] = bf16_to_f32(f->rows.base[i]);
	return values;
}

/* Writes the parts of the present choice and holds them against everything that was promised. */
static void check_parts(const struct fixture *f, bool coded)
{
	const struct embedding_place place = {.role = ROLE_EMBED, .level = 1, .coded = coded};
	uint16_t *promised = malloc((size_t)f->rows.rows * COLS * sizeof(*promised));
	struct part parts[EMBEDDING_MAX_PARTS] = {0};
	float *values = base_of(f);
	struct reason reason = {0};
	uint64_t bytes = 0;
	uint32_t n = 0;

	assert_non_null(promised);
	assert_int_equal(embedding_parts(f->e, &place, parts, &n), 0);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(parts[i].record.level, 1 + i);
		assert_true(i == 0 || parts[i].record.codec == CODEC_CODES);
		bytes += parts[i].record.bytes + sizeof(parts[i].record) + sizeof(parts[i].quality);
		if (part_apply(f->pool, &parts[i], values, &reason) < 0)
			fail_msg("part %u: %s", i, reason.text);
	}
	if (coded)
		assert_true(bytes > 0);
	else
		assert_int_equal(bytes, embedding_bytes(f->e));
	assert_true(fabs(loss_of(f, values) - embedding_loss(f->e)) <=
		    1e-4 * embedding_loss(f->e) + 1e-9);
	if (n > 0)
		assert_true(fabs((double)parts[n - 1].quality.loss - embedding_loss(f->e)) <=
			    1e-5 * embedding_loss(f->e));
	embedding_values(f->e, promised);
	for (size_t i = 0; i < (size_t)f->rows.rows * COLS; i++)
		assert_int_equal(promised[i], bf16_from_f32(values[i]));
	for (size_t i = BASE_ROWS * COLS; i < (size_t)f->rows.rows * COLS; i++)
		assert_int_equal(promised[i], f->rows.values[i]);
	for (uint32_t i = 0; i < n; i++)
		part_done(&parts[i]);
	free(values);
	free(promised);
}

static void test_one_width(void **state)
{
	static const uint32_t widths[] = {1, 2, 3, 4, 8};
	double before = INFINITY;
	struct fixture f;

	(void)state;
	set_up(&f, 0);
	for (size_t i = 0; i < array_len(widths); i++) {
		embedding_choose_bits(f.e, widths[i]);
		for (uint32_t row = 0; row < BASE_ROWS; row++)
			assert_int_equal(
				embedding_row_bits(f.e, row), row % 10 == 0 ? 0 : widths[i]);
		assert_true(embedding_loss(f.e) < 0.6 * before);
		before = embedding_loss(f.e);
		check_parts(&f, false);
		check_parts(&f, true);
	}
	tear_down(&f);
}

static void test_added_tokens_are_exact(void **state)
{
	struct fixture f;

	(void)state;
	set_up(&f, N_ADDED);
	embedding_choose(f.e, 1e9);
	assert_int_equal(embedding_row_bits(f.e, 1), 0);
	assert_int_equal(embedding_row_bits(f.e, BASE_ROWS), 16);
	check_parts(&f, false);
	embedding_choose_size(&f.e, 1, 1.5);
	check_parts(&f, false);
	check_parts(&f, true);
	tear_down(&f);
}

struct point {
	double lambda;
	uint64_t bytes;
	double loss;
};

/* Choices of falling bytes, from every changed row to none. */
static size_t choose_less_and_less(struct embedding *e, struct point ret[static N_POINTS])
{
	size_t n = 0;

	for (double lambda = 1e-12; n == 0 || ret[n - 1].bytes > 0; lambda *= 4) {
		embedding_choose(e, lambda);
		if (n > 0 && embedding_bytes(e) == ret[n - 1].bytes)
			continue;
		assert_true(n < N_POINTS);
		ret[n++] = (struct point){lambda, embedding_bytes(e), embedding_loss(e)};
	}
	return n;
}

/* No other way that was at hand costs less: not one width for all, not another row's bits. */
static void test_choice_costs_least(void **state)
{
	struct point points[N_POINTS];
	struct fixture f;
	size_t n;

	(void)state;
	set_up(&f, 0);
	n = choose_less_and_less(f.e, points);
	assert_true(n >= 5);
	for (size_t i = 0; i < n; i++) {
		double cost;

		if (i > 0)
			assert_true(points[i].bytes < points[i - 1].bytes &&
				    points[i].loss > points[i - 1].loss);
		embedding_choose(f.e, points[i].lambda);
		assert_int_equal(embedding_bytes(f.e), points[i].bytes);
		cost = points[i].loss + points[i].lambda * (double)points[i].bytes;
		for (uint32_t bits = 1; bits <= 4; bits *= 2) {
			embedding_choose_bits(f.e, bits);
			assert_true(embedding_loss(f.e) +
					    points[i].lambda * (double)embedding_bytes(f.e) >=
				    0.999999 * cost);
		}
	}
	assert_true(points[0].loss < 0.02 * points[n - 1].loss);
	assert_int_equal(points[n - 1].bytes, 0);
	tear_down(&f);
}

/* Of rows that changed alike, the used one never gets fewer bits. */
static void test_use_decides(void **state)
{
	uint32_t n_more = 0;
	struct fixture f;

	(void)state;
	set_up(&f, 0);
	embedding_choose_size(&f.e, 1, 1);
	assert_true((double)embedding_bytes(f.e) <= BASE_ROWS * COLS / 8.0);
	assert_true((double)embedding_bytes(f.e) > 0.9 * BASE_ROWS * COLS / 8.0);
	for (uint32_t row = 0; row + 259 < BASE_ROWS; row++) {
		/* 37 * 7 rows further on everything repeats; 37 on, only the change does. */
		uint32_t other = row + 37;
		bool used = f.weights[row] > f.weights[other];
		uint32_t more = used ? row : other, less = used ? other : row;

		if (row % 10 == 0 || other % 10 == 0)
			continue;
		assert_true(embedding_row_bits(f.e, more) + 1 >= embedding_row_bits(f.e, less));
		n_more += embedding_row_bits(f.e, more) > embedding_row_bits(f.e, less);
	}
	assert_true(n_more > 10);
	embedding_rescale(f.e, 3);
	assert_true(embedding_loss(f.e) > 0);
	tear_down(&f);
}

static void test_weights(void **state)
{
	static const uint32_t read[] = {0, 1, 1, 9}, asked[] = {1, 2};
	struct embedding_use use = {.read = read,
		.n_read = 4,
		.asked = asked,
		.n_asked = 2,
		.read_nats = 6,
		.asked_nats = 16};
	double w[4];

	(void)state;
	/* read: (uses + 1/2) / (4 + 2) * 6; asked: (uses + 1/2) / (2 + 2) * 16; id 9 has no row. */
	embedding_weigh(&use, 4, w);
	assert_true(fabs(w[0] - (1.5 + 2)) < 1e-12);
	assert_true(fabs(w[1] - (2.5 + 6)) < 1e-12);
	assert_true(fabs(w[2] - (0.5 + 6)) < 1e-12);
	assert_true(fabs(w[3] - (0.5 + 2)) < 1e-12);
	use.asked = NULL;
	embedding_weigh(&use, 4, w);
	assert_true(fabs(w[1] - 2.5) < 1e-12);
}

static void test_choice_by_name(void **state)
{
	static const char *const wrong[] = {"", "5", "16", "Exact", "auto "};
	struct embedding_choice choice;

	(void)state;
	assert_true(embedding_choice_parse("exact", &choice) && choice.kind == EMBEDDING_EXACT);
	assert_true(embedding_choice_parse("auto", &choice) && choice.kind == EMBEDDING_AUTO);
	assert_true(embedding_choice_parse("3", &choice) && choice.kind == EMBEDDING_BITS);
	assert_int_equal(choice.bits, 3);
	for (size_t i = 0; i < array_len(wrong); i++)
		assert_false(embedding_choice_parse(wrong[i], &choice));
}

static void test_not_finite(void **state)
{
	struct embedding *e = NULL;
	struct fixture f;

	(void)state;
	set_up(&f, 0);
	f.rows.values[17] = 0x7f80;
	assert_int_equal(embedding_new(&f.rows, f.weights, f.pool, &e), -EDOM);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_width),
		cmocka_unit_test(test_added_tokens_are_exact),
		cmocka_unit_test(test_choice_costs_least),
		cmocka_unit_test(test_use_decides),
		cmocka_unit_test(test_weights),
		cmocka_unit_test(test_choice_by_name),
		cmocka_unit_test(test_not_finite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Estimated costs against what the coder makes of the same codes. */
#include "store/code_cost.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Geometric magnitudes whose mean depends on row and column. */
static uint8_t *random_codes(const struct code_shape *s, double energy)
{
	uint8_t *codes = malloc((size_t)s->rows * s->cols);
	int top = (1 << s->bits) - 1;
	uint64_t seed = 4;

	assert_non_null(codes);
	for (uint32_t r = 0; r < s->rows; r++)
		for (uint32_t c = 0; c < s->cols; c++) {
			double go = energy * (0.4 + 0.6 * (r % 5) / 4) * (0.4 + 0.6 * (c % 9) / 8);
			int code = s->centre, step = random_next(&seed) & 1 ? 1 : -1;

			while ((double)(random_next(&seed) >> 11) * 0x1p-53 < go &&
				code + step >= 0 && code + step <= top)
				code += step;
			codes[(size_t)r * s->cols + c] = (uint8_t)code;
		}
	return codes;
}

/* Chosen row by row, or column by column as an encoder with feedback along rows does. */
static double estimate(const struct code_shape *s, const uint8_t *codes, bool by_columns)
{
	_cleanup_(code_costp) struct code_cost *cost = NULL;
	uint32_t n_outer = by_columns ? s->cols : s->rows, n_inner = by_columns ? s->rows : s->cols;
	double bits = 0;

	assert_int_equal(code_cost_new(s, &cost), 0);
	for (uint32_t i = 0; i < n_outer; i++)
		for (uint32_t j = 0; j < n_inner; j++) {
			uint32_t r = by_columns ? j : i, c = by_columns ? i : j;
			int value = codes[(size_t)r * s->cols + c] - s->centre;

			bits += code_cost_bits(cost, r, c, value);
			code_cost_choose(cost, r, c, value);
		}
	return bits;
}

static void test_sums_are_near_the_coded_length(void **state)
{
	static const double energies[] = {0.03, 0.1, 0.3, 0.6, 0.9};
	static const struct code_shape shapes[] = {
		{300, 400, 8, 128}, {400, 300, 4, 7}, {500, 200, 2, 1}, {1000, 120, 1, 0}};

	(void)state;
	for (size_t k = 0; k < array_len(shapes); k++)
		for (size_t i = 0; i < array_len(energies); i++) {
			_cleanup_(freep) uint8_t *codes = random_codes(&shapes[k], energies[i]);
			_cleanup_(freep) uint8_t *bytes = NULL;
			uint64_t n;

			assert_int_equal(code_stream_encode(&shapes[k], codes, &bytes, &n), 0);
			for (int by_columns = 0; by_columns < 2; by_columns++) {
				double bits = estimate(&shapes[k], codes, by_columns);

				assert_true(bits > 0.97 * 8 * (double)n);
				assert_true(bits < 1.03 * 8 * (double)n);
			}
		}
}

/* A code exists for every value, and the costs of all are those of a distribution. */
static void test_costs_are_those_of_a_distribution(void **state)
{
	(void)state;
	for (uint32_t bits = 1; bits <= 6; bits++)
		for (uint32_t centre = 0; centre < 1u << bits; centre++) {
			const struct code_shape s = {8, 8, bits, (uint8_t)centre};
			_cleanup_(code_costp) struct code_cost *cost = NULL;
			int below = (int)centre, above = (1 << bits) - 1 - below;
			double sum = 0;

			assert_int_equal(code_cost_new(&s, &cost), 0);
			for (uint32_t i = 0; i < 64; i++)
				code_cost_choose(cost, i / 8, i % 8, i % 3 && above ? 1 : 0);
			for (int value = -below; value <= above; value++)
				sum += exp2(-code_cost_bits(cost, 3, 3, value));
			assert_true(fabs(sum - 1) < 0.002);
			assert_true(isinf(code_cost_bits(cost, 3, 3, above + 1)));
			assert_true(isinf(code_cost_bits(cost, 3, 3, -below - 1)));
		}
}

static void test_bad_shapes_are_refused(void **state)
{
	const struct code_shape bad[] = {{1, 1, 0, 0}, {1, 1, 9, 0}, {1, 1, 2, 4}};
	const struct code_shape empty = {0, 0, 8, 0};
	struct code_cost *cost = NULL;

	(void)state;
	for (size_t i = 0; i < array_len(bad); i++)
		assert_int_equal(code_cost_new(&bad[i], &cost), -EINVAL);
	assert_null(cost);
	assert_int_equal(code_cost_new(&empty, &cost), 0);
	assert_null(code_cost_free(cost));
	assert_null(code_cost_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sums_are_near_the_coded_length),
		cmocka_unit_test(test_costs_are_those_of_a_distribution),
		cmocka_unit_test(test_bad_shapes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

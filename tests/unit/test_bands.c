/* Bands against the published table and against their budget. */
#include "compress/bands.h"

#include "store/part.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const uint32_t shapes[][2] = {{4096, 4096}, {11008, 4096}, {4096, 11008}, {1024, 4096},
	{384, 384}, {1024, 384}, {384, 1024}, {64, 64}, {32, 64}, {160, 64}, {16, 8}};
#define N_LARGE_SHAPES 7
static const double ratios[] = {1, 1.5, 2, 3, 4, 8, 10, 16, 20, 32, 64, 128, 1000};

/* Bits of the codes alone, read off the layout. */
static double code_bits(uint32_t rows, uint32_t cols, uint32_t n8, uint32_t n3, uint32_t n2)
{
	const uint8_t bits[] = {8, 3, 2};
	const uint32_t n[] = {n8, n3, n2};
	uint64_t bytes = 0;

	for (size_t i = 0; i < array_len(bits); i++) {
		const struct tensor_record t = {.codec = CODEC_FACTORS,
			.n = n[i],
			.bits = bits[i],
			.grid = GRID_GROUP,
			.rows = rows,
			.cols = cols};
		const struct part_layout l = part_layout(&t);

		bytes += l.v.scales - l.v.codes + l.u.scales - l.u.codes;
	}
	return 8.0 * (double)bytes;
}

/* 8 bits for 2 ranks, 3 bits for 32, 2 bits for the rest are 16 * alpha bits a weight. */
static void test_published_ranks_cost_what_they_say(void **state)
{
	static const struct {
		uint32_t rows, cols, n2;
		double bits;
	} rows[] = {
		{4096, 4096, 968, 1.0},
		{11008, 4096, 1436, 1.0},
		{4096, 4096, 763, 16.0 / 20},
		{11008, 4096, 1138, 16.0 / 20},
		{4096, 4096, 456, 16.0 / 32},
		{11008, 4096, 690, 16.0 / 32},
		{4096, 4096, 200, 16.0 / 64},
		{11008, 4096, 317, 16.0 / 64},
		{4096, 4096, 72, 16.0 / 128},
		{11008, 4096, 130, 16.0 / 128},
	};

	(void)state;
	for (size_t i = 0; i < array_len(rows); i++) {
		double weights = (double)rows[i].rows * rows[i].cols;
		double bits = code_bits(rows[i].rows, rows[i].cols, 2, 32, rows[i].n2) / weights;
		double one_rank = 2.0 * (rows[i].rows + rows[i].cols) / weights;

		assert_true(bits <= rows[i].bits && bits > rows[i].bits - one_rank);
	}
	assert_true(code_bits(4096, 4096, 2, 32, 968) == 4096.0 * 4096);
}

static uint32_t ranks_of(const struct band_plan *plan, uint32_t bits)
{
	for (uint32_t i = 0; i < plan->n_bands; i++)
		if (plan->bands[i].bits == bits)
			return plan->bands[i].n_ranks;
	return 0;
}

static void test_large_matrices_have_the_published_first_bands(void **state)
{
	struct band_plan plan;

	(void)state;
	bands_plan(4096, 4096, 16, &plan);
	assert_int_equal(plan.n_bands, 3);
	assert_int_equal(ranks_of(&plan, 8), 2);
	assert_int_equal(ranks_of(&plan, 3), 32);
	/* Scales, zero points and sigma cost about a tenth of the codes. */
	assert_in_range(ranks_of(&plan, 2), 860, 900);
}

static void test_budget_is_used_and_never_exceeded(void **state)
{
	(void)state;
	for (size_t s = 0; s < array_len(shapes); s++)
		for (size_t i = 0; i < array_len(ratios); i++) {
			uint32_t rows = shapes[s][0], cols = shapes[s][1];
			uint32_t most = rows < cols ? rows : cols;
			struct band_plan plan;
			uint32_t more[BANDS_KINDS];

			bands_plan(rows, cols, ratios[i], &plan);
			assert_true((double)plan.bytes <= 2.0 * rows * cols / ratios[i]);
			assert_true(plan.n_ranks <= most);
			more[0] = ranks_of(&plan, 8);
			more[1] = ranks_of(&plan, 3);
			more[2] = ranks_of(&plan, 2);
			assert_int_equal(bands_bytes(rows, cols, more), plan.bytes);
			if (plan.n_ranks < most) {
				more[2]++;
				assert_true(bands_bytes(rows, cols, more) > plan.limit_bytes);
			} else if (more[2] > 0) {
				more[2]--;
				more[1]++;
				assert_true(bands_bytes(rows, cols, more) > plan.limit_bytes);
			} else if (more[1] > 0) {
				more[1]--;
				more[0]++;
				assert_true(bands_bytes(rows, cols, more) > plan.limit_bytes);
			}
		}
}

/* Of a matrix that is large enough for a band's header and padding not to decide. */
static void test_a_lower_ratio_never_keeps_fewer_ranks(void **state)
{
	(void)state;
	for (size_t s = 0; s < N_LARGE_SHAPES; s++)
		for (size_t i = 1; i < array_len(ratios); i++) {
			struct band_plan larger, smaller;

			bands_plan(shapes[s][0], shapes[s][1], ratios[i - 1], &larger);
			bands_plan(shapes[s][0], shapes[s][1], ratios[i], &smaller);
			assert_true(larger.n_ranks >= smaller.n_ranks);
			assert_true(larger.bytes >= smaller.bytes);
		}
}

/* Grouped-query attention: k has a quarter of q's outputs and must not get q's ranks. */
static void test_budget_is_by_shape(void **state)
{
	struct band_plan q, k;

	(void)state;
	bands_plan(4096, 4096, 16, &q);
	bands_plan(1024, 4096, 16, &k);
	assert_true(k.bytes * 4 <= q.bytes + 4 * 4096);
	assert_true(k.n_ranks < q.n_ranks / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_ranks_cost_what_they_say),
		cmocka_unit_test(test_large_matrices_have_the_published_first_bands),
		cmocka_unit_test(test_budget_is_used_and_never_exceeded),
		cmocka_unit_test(test_a_lower_ratio_never_keeps_fewer_ranks),
		cmocka_unit_test(test_budget_is_by_shape),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

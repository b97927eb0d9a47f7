/* What the certificate says of a projection, against sums by hand. */
#include "compress/judge.h"

#include "kernels/convert.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define ROWS 8u
#define COLS 16u
#define N ((size_t)ROWS * COLS)

/* Every third number changes, by an amount that bf16 holds; the new rows are those of even number.
 */
static void test_half_of_the_rows(void **state)
{
	static const uint32_t rows[] = {0, 2, 4, 6};
	float base[N], delta[N] = {0}, weights[N];
	uint16_t values[N / 2];
	double held_out[COLS * COLS] = {0}, all = 0, missed = 0, whole = 0;
	struct method_matrix m = {
		.role = ROLE_Q, .rows = ROWS, .cols = COLS, .base = base, .delta = delta};
	struct method_group group = {
		.cols = COLS, .pool = compute_pool, .held_out = held_out, .matrices = &m};
	const struct part_place place = {.role = ROLE_Q, .rows = ROWS, .cols = COLS};
	const struct new_rows changed = {.n = array_len(rows), .rows = rows, .values = values};
	size_t n_unchanged = 0;
	struct judgement judgement;
	struct reason reason = {0};

	(void)state;
	for (size_t i = 0; i < N; i++) {
		size_t row = i / COLS;

		base[i] = 1 + (float)(i % 7);
		if (i % 3 == 0)
			delta[i] = row % 2 ? .5f : -1;
		n_unchanged += delta[i] == 0;
		whole += (double)base[i] * (double)base[i];
		all += (double)delta[i] * (double)delta[i];
		if (row % 2)
			missed += (double)delta[i] * (double)delta[i];
		else
			values[row / 2 * COLS + i % COLS] = bf16_from_f32(base[i] + delta[i]);
	}
	for (size_t i = 0; i < COLS; i++)
		held_out[i * COLS + i] = 1;
	assert_int_equal(part_rows(&place, &changed, &m.parts[0]), 0);
	m.n_parts = 1;
	if (judge_matrix(&group, &m, weights, &judgement, &reason) < 0)
		fail_msg("%s", reason.text);

	assert_true(fabs(judgement.weight_error - sqrt(missed / all)) < 1e-6);
	assert_true(fabs(judgement.held_out_error - sqrt(missed / all)) < 1e-6);
	assert_true(isnan(judgement.calibration_error));
	assert_true(fabs((double)m.parts[0].quality.delta_norm - sqrt(all / whole)) < 1e-6);
	assert_int_equal(m.parts[0].quality.unchanged,
		lround((double)n_unchanged / N * (QUALITY_UNMEASURED - 1)));
	for (size_t i = 0; i < N; i++)
		assert_true(weights[i] == base[i] + (i / COLS % 2 ? 0 : delta[i]));
	part_done(&m.parts[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_half_of_the_rows)};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}

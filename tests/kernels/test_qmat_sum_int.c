#include "tests/kernels/qmat_problem.h"

#define MAX_BITS (QMAT_MAX_BITS - 1)

/* One row of the matrix in a column, over the scale that its factor takes. */
static double over_scale(const struct problem *p, uint32_t row, uint32_t col, float *ret_scale)
{
	const size_t at = row * p->m.scale_row + col / QMAT_GROUP * p->m.scale_group;

	*ret_scale = p->m.scales ? f16_to_f32(p->scales[at]) : 1;
	return *ret_scale == 0 ? 0 : p->values[(size_t)row * p->cols + col] / *ret_scale;
}

/* What the definition of qmat_accumulate_int() says in double of one row of z, and what its
 * roundings are allowed. */
static double accumulate_int_of(
	const struct problem *p, const float *z, float y, uint32_t col, double *ret_allowed)
{
	double sum = y, magnitude = fabs(sum);

	for (uint32_t block = 0; block < p->rows; block += 128) {
		const uint32_t height = (uint32_t)min_u64(p->rows - block, 128);
		float factors[128], scale, largest = 0;
		double values[128];

		for (uint32_t i = 0; i < height; i++) {
			values[i] = over_scale(p, block + i, col, &scale);
			factors[i] = z[block + i] * scale;
			largest = fmaxf(largest, fabsf(factors[i]));
		}
		for (uint32_t i = 0; i < height && largest >= 0x1p-100f; i++) {
			double term = values[i] * rint(factors[i] * (127 / largest)) *
				      ((double)largest / 127);

			sum += term;
			magnitude += fabs(term);
		}
	}
	*ret_allowed = (p->rows + 8) * ROUNDING * magnitude;
	return sum;
}

/* The bits of ref, in any company; and ref is what the definition says. */
static void check_accumulate_int_of(
	const struct kernels *k, const struct problem *p, const float *z, size_t n)
{
	const size_t stride = p->cols + 2;
	_cleanup_(freep) float *before = random_new(n * stride);
	_cleanup_(freep) float *expected = random_new(n * stride);
	struct guarded y = guarded_new(n * stride);
	struct kernels ref;

	assert_int_equal(kernels_select(&ref, "ref", NULL), 0);
	memcpy(expected, before, n * stride * sizeof(*before));
	memcpy(guarded_at(&y), before, n * stride * sizeof(*before));
	ref.qmat_accumulate_int(expected, stride, &p->m, z, p->rows, n, 0, p->n_groups);
	k->qmat_accumulate_int(guarded_at(&y), stride, &p->m, z, p->rows, n, 0, p->n_groups);
	guarded_check(&y);
	for (size_t i = 0; i < n * stride; i++) {
		const size_t t = i / stride;
		const uint32_t col = (uint32_t)(i % stride);
		double allowed, exact;

		if (!same_bits(guarded_at(&y)[i], expected[i]))
			fail_msg("%s: %u bits %u x %u row %zu of %zu column %u: got %.9g, ref %.9g",
				k->name, p->bits, p->rows, p->cols, t, n, col, guarded_at(&y)[i],
				expected[i]);
		if (col >= p->cols)
			continue;
		exact = accumulate_int_of(p, z + t * p->rows, before[i], col, &allowed);
		expect_near(k->name, expected[i], exact, allowed, "%u bits %u x %u", p->bits,
			p->rows, p->cols);
	}
	for (size_t t = 0; t < n; t++) {
		const size_t cut = (p->n_groups + 1) / 3;
		float *alone = before + t * stride;

		k->qmat_accumulate_int(alone, 0, &p->m, z + t * p->rows, 0, 1, cut, p->n_groups);
		k->qmat_accumulate_int(alone, 0, &p->m, z + t * p->rows, 0, 1, 0, cut);
		for (size_t c = 0; c < p->cols; c++)
			assert_true(same_bits(alone[c], guarded_at(&y)[t * stride + c]));
	}
	guarded_done(&y);
}

static void check_accumulate_int(const struct kernels *k, const struct problem *p, size_t n)
{
	_cleanup_(freep) float *z = random_new(n * p->rows);

	if (p->bits > MAX_BITS)
		return;
	for (size_t i = 0; n > 2 && i < p->rows; i++)
		z[i] *= random_u32() % 100 ? 1e-20f : 1e4f;
	check_accumulate_int_of(k, p, z, n);
}

/* The largest sums of a block, likewise. */
static void check_accumulate_extremes(const struct kernels *k)
{
	for (uint32_t i = 0; i < MAX_BITS * N_GRIDS; i++) {
		const uint32_t bits = i % MAX_BITS + 1, top = (1u << bits) - 1;
		struct problem p = problem_new(261, 300, bits, (enum grid)(i / MAX_BITS));
		const uint32_t last = p.m.zeros ? top : top + 1;
		const uint32_t cases[][2] = {{top, 0}, {0, last}, {top, last}};
		_cleanup_(freep) float *z = random_new(2 * (size_t)p.rows);

		/* The same factor in each row of a group. */
		for (size_t r = 0; p.m.scales && r < p.rows * (p.m.zeros ? p.n_groups : 1); r++)
			p.scales[r] = f16_from_f32(0.25f);
		for (size_t r = 0; r < p.rows; r++) {
			z[r] = 0.7f;
			z[p.rows + r] = -0.7f;
		}
		for (size_t j = 0; j < array_len(cases); j++) {
			problem_make_uniform(&p, (uint8_t)cases[j][0], cases[j][1]);
			check_accumulate_int_of(k, &p, z, 2);
		}
		problem_done(&p);
	}
}

/* A number that is not finite makes its row of y so, and no other. */
static void check_not_finite(const struct kernels *k)
{
	static const float numbers[] = {NAN, INFINITY, -INFINITY};

	for (uint32_t i = 0; i < MAX_BITS * array_len(numbers); i++) {
		struct problem p = problem_new(131, 300, i % MAX_BITS + 1, GRID_OF_MATRIX);
		_cleanup_(freep) float *z = random_new(3 * (size_t)p.rows);
		_cleanup_(freep) float *y = numbers_new(3 * (size_t)p.cols, sizeof(*y));
		_cleanup_(freep) float *alone = numbers_new(p.cols, sizeof(*alone));

		z[p.rows + random_u32() % p.rows] = numbers[i / MAX_BITS];
		k->qmat_accumulate_int(y, p.cols, &p.m, z, p.rows, 3, 0, p.n_groups);
		k->qmat_accumulate_int(alone, 0, &p.m, z + 2 * (size_t)p.rows, 0, 1, 0, p.n_groups);
		for (size_t c = 0; c < p.cols; c++) {
			assert_true(isfinite(y[c]) && !isfinite(y[p.cols + c]));
			assert_true(same_bits(y[2 * p.cols + c], alone[c]));
		}
		problem_done(&p);
	}
}

/* All widths and grids, and more rows and columns than are taken at once. */
static void check_all_accumulates_int(const struct kernels *k)
{
	check_all(k, check_accumulate_int);
	for (uint32_t i = 0; i < MAX_BITS * N_GRIDS; i++) {
		struct problem p =
			problem_new(126 + i % 7, 2200, i % MAX_BITS + 1, (enum grid)(i / MAX_BITS));

		check_accumulate_int(k, &p, 2);
		problem_done(&p);
	}
}

static void check_set(const struct kernels *k)
{
	check_all_accumulates_int(k);
	check_accumulate_extremes(k);
	check_not_finite(k);
}

static void test_accumulate_int(void **unused)
{
	(void)unused;
	for_each_set(check_set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accumulate_int),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

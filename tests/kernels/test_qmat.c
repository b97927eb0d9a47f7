#include "tests/kernels/qmat_problem.h"

static void check_dot_alone(
	const struct kernels *k, const struct problem *p, const float *x, const float *together)
{
	struct guarded z = guarded_new(p->rows);
	size_t cut = p->rows / 3;

	k->qmat_dot(guarded_at(&z), 0, &p->m, x, 0, 1, cut, p->rows);
	for (size_t r = 0; r < cut; r++)
		assert_true(is_untouched(guarded_at(&z) + r));
	k->qmat_dot(guarded_at(&z), 0, &p->m, x, 0, 1, 0, cut);
	guarded_check(&z);
	for (size_t r = 0; r < p->rows; r++)
		assert_true(same_bits(guarded_at(&z)[r], together[r]));
	guarded_done(&z);
}

/* What rounding x in blocks may add for column c: see qmat_dot() in kernels.h. */
static double rounding_of(const struct problem *p, const float *x, size_t c)
{
	const size_t block = c / 1024 * 1024;
	double largest = 0x1p-100;

	if (p->m.zeros || p->bits > QMAT_MAX_BITS)
		return 0;
	for (size_t i = block; i < block + 1024 && i < p->cols; i++)
		largest = fmax(largest, fabs((double)x[i]));
	return 2 * ROUNDING * largest;
}

static void check_dot_row(
	const struct kernels *k, const struct problem *p, const float *x, const float *got)
{
	_cleanup_(freep) double *rounding = numbers_new(p->cols, sizeof(*rounding));

	for (size_t c = 0; c < p->cols; c++)
		rounding[c] = c % 1024 ? rounding[c - 1] : rounding_of(p, x, c);
	for (size_t r = 0; r < p->rows; r++) {
		double sum = 0, magnitude = 0, allowed = 0;

		for (size_t c = 0; c < p->cols; c++) {
			double value = p->values[r * p->cols + c];

			sum += value * x[c];
			magnitude += fabs(value * x[c]);
			allowed += fabs(value) * rounding[c];
		}
		allowed += (p->cols + 8) * ROUNDING * magnitude;
		expect_near(k->name, got[r], sum, allowed, "%u bits %u x %u", p->bits, p->rows,
			p->cols);
	}
}

static void check_dot(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t x_stride = p->cols + 1, z_stride = p->rows + 2;
	_cleanup_(freep) float *x = random_new(n ? n * x_stride : 0);
	struct guarded z = guarded_new(n * z_stride);

	/* A row of outliers, one of small numbers. */
	for (size_t i = 0; n > 2 && i < p->cols; i++) {
		if (random_u32() % 100 == 0)
			x[1 + i] *= 1e4f;
		x[1 + x_stride + i] *= 1e-20f;
	}
	k->qmat_dot(guarded_at(&z), z_stride, &p->m, x + 1, x_stride, n, 0, p->rows);
	guarded_check(&z);
	for (size_t t = 0; t < n; t++) {
		const float *row = x + 1 + t * x_stride, *got = guarded_at(&z) + t * z_stride;

		check_dot_row(k, p, row, got);
		assert_true(is_untouched(got + p->rows) && is_untouched(got + p->rows + 1));
		check_dot_alone(k, p, row, got);
	}
	guarded_done(&z);
}

/* The bits of ref, in any company; and ref is what the definition says in double of n rows of x. */
static void check_dot_int_of(
	const struct kernels *k, const struct problem *p, const float *x, size_t n)
{
	const size_t z_stride = p->rows + 2, n_groups = max_u64(p->n_groups, 1);
	_cleanup_(freep) float *inputs = random_new(p->cols), *expected = random_new(n * z_stride);
	struct act_group *rounded = aligned_alloc(64, (n * n_groups + 1) * sizeof(*rounded));
	struct guarded z = guarded_new(n * z_stride);
	const size_t cut = p->rows / 3;
	struct kernels ref;

	assert_non_null(rounded);
	assert_int_equal(kernels_select(&ref, "ref", NULL), 0);
	ref.act_round(rounded, n, x, p->cols, n, p->cols);
	ref.qmat_dot_int(expected, z_stride, &p->m, rounded, n, n, 0, p->rows);
	k->qmat_dot_int(guarded_at(&z), z_stride, &p->m, rounded, n, n, 0, p->rows);
	guarded_check(&z);
	for (size_t t = 0; t < n; t++) {
		const float *got = guarded_at(&z) + t * z_stride;

		for (size_t c = 0; c < p->cols; c++)
			inputs[c] = rounded[c / QMAT_GROUP * n + t].scale *
				    (float)rounded[c / QMAT_GROUP * n + t].codes[c % QMAT_GROUP];
		for (size_t r = 0; r < p->rows; r++)
			if (!same_bits(got[r], expected[t * z_stride + r]))
				fail_msg("%s: %u bits %u x %u row %zu of %zu: got %.9g, ref %.9g",
					k->name, p->bits, p->rows, p->cols, r, t, got[r],
					expected[t * z_stride + r]);
		check_dot_row(k, p, inputs, got);
		assert_true(is_untouched(got + p->rows) && is_untouched(got + p->rows + 1));
	}
	for (size_t t = 0; t < n; t++) {
		struct guarded alone = guarded_new(p->rows);

		k->qmat_dot_int(guarded_at(&alone), 0, &p->m, rounded + t, n, 1, cut, p->rows);
		for (size_t r = 0; r < cut; r++)
			assert_true(is_untouched(guarded_at(&alone) + r));
		k->qmat_dot_int(guarded_at(&alone), 0, &p->m, rounded + t, n, 1, 0, cut);
		guarded_check(&alone);
		for (size_t r = 0; r < p->rows; r++)
			assert_true(
				same_bits(guarded_at(&alone)[r], guarded_at(&z)[t * z_stride + r]));
		guarded_done(&alone);
	}
	guarded_done(&z);
	free(rounded);
}

static void check_dot_int(const struct kernels *k, const struct problem *p, size_t n)
{
	_cleanup_(freep) float *x = random_new(n * p->cols);

	for (size_t i = 0; n > 2 && i < p->cols; i++)
		x[i] *= random_u32() % 100 ? 1e-20f : 1e4f;
	check_dot_int_of(k, p, x, n);
}

/* The largest sums of a group that there are, in either direction, and large terms that cancel. A
 * zero of a group is a byte, that of a matrix may be one more than that. */
static void check_extremes(const struct kernels *k)
{
	for (uint32_t i = 0; i < QMAT_MAX_BITS * N_GRIDS; i++) {
		const uint32_t bits = i % QMAT_MAX_BITS + 1, top = (1u << bits) - 1;
		struct problem p = problem_new(5, 1500, bits, (enum grid)(i / QMAT_MAX_BITS));
		const uint32_t last = p.m.zeros ? top : top + 1;
		const uint32_t cases[][2] = {{top, 0}, {0, last}, {top, last}};
		_cleanup_(freep) float *x = random_new(2 * (size_t)p.cols);

		for (size_t c = 0; c < p.cols; c++) {
			x[c] = 0.7f;
			x[p.cols + c] = -0.7f;
		}
		for (size_t j = 0; j < array_len(cases); j++) {
			problem_make_uniform(&p, (uint8_t)cases[j][0], cases[j][1]);
			check_dot_int_of(k, &p, x, 2);
		}
		problem_done(&p);
	}
}

static void check_accumulate_alone(const struct kernels *k, const struct problem *p, const float *z,
	const float *before, const float *together)
{
	struct guarded y = guarded_new(p->cols);
	size_t cut = (p->n_groups + 1) / 3;

	memcpy(guarded_at(&y), before, p->cols * sizeof(*before));
	k->qmat_accumulate(guarded_at(&y), 0, &p->m, z, 0, 1, cut, p->n_groups);
	for (size_t c = 0; c < cut * QMAT_GROUP && c < p->cols; c++)
		assert_true(same_bits(guarded_at(&y)[c], before[c]));
	k->qmat_accumulate(guarded_at(&y), 0, &p->m, z, 0, 1, 0, cut);
	guarded_check(&y);
	for (size_t c = 0; c < p->cols; c++)
		assert_true(same_bits(guarded_at(&y)[c], together[c]));
	guarded_done(&y);
}

static void check_accumulate(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t y_stride = p->cols + 2, z_stride = p->rows + 1;
	_cleanup_(freep) float *z = random_new(n * z_stride), *before = random_new(n * p->cols);
	struct guarded y = guarded_new(n * y_stride);

	for (size_t t = 0; t < n; t++)
		memcpy(guarded_at(&y) + t * y_stride, before + t * p->cols,
			p->cols * sizeof(*before));
	k->qmat_accumulate(guarded_at(&y), y_stride, &p->m, z, z_stride, n, 0, p->n_groups);
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		const float *got = guarded_at(&y) + t * y_stride;

		for (size_t c = 0; c < p->cols; c++) {
			double sum = before[t * p->cols + c], magnitude = fabs(sum);

			for (size_t r = 0; r < p->rows; r++) {
				double term = p->values[r * p->cols + c] * z[t * z_stride + r];

				sum += term;
				magnitude += fabs(term);
			}
			expect_near(k->name, got[c], sum, (p->rows + 8) * ROUNDING * magnitude,
				"%u bits %u x %u", p->bits, p->rows, p->cols);
		}
		assert_true(is_untouched(got + p->cols) && is_untouched(got + p->cols + 1));
		check_accumulate_alone(k, p, z + t * z_stride, before + t * p->cols, got);
	}
	guarded_done(&y);
}

static void test_extremes(void **unused)
{
	(void)unused;
	for_each_set(check_extremes);
}

static void check_plain(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t))
{
	check_shapes(k, check, 16, GRID_OF_MATRIX);
	check_shapes(k, check, 32, GRID_OF_MATRIX);
}

static void check_all_dots(const struct kernels *k)
{
	check_all(k, check_dot);
	check_plain(k, check_dot);
}

static void check_all_dots_int(const struct kernels *k)
{
	check_all(k, check_dot_int);
}

/* One number that is not finite spoils its row, and nothing else. */
static void check_broken_input(const struct kernels *k)
{
	static const float broken[] = {INFINITY, -INFINITY, NAN};

	for (size_t i = 0; i < array_len(broken) * N_GRIDS; i++) {
		struct problem p = problem_new(3, 1500, 2, (enum grid)(i % N_GRIDS));
		_cleanup_(freep) float *x = random_new(2 * (size_t)p.cols);
		float z[6];

		p.m.zero += 0.25f; /* so that no code is worth 0 */
		x[1200] = broken[i / N_GRIDS];
		p.m.zeros = NULL;
		k->qmat_dot(z, 3, &p.m, x, p.cols, 2, 0, 3);
		for (size_t r = 0; r < 3; r++) {
			assert_false(isfinite(z[r]));
			assert_true(isfinite(z[3 + r]));
		}
		problem_done(&p);
	}
}

static void test_broken_input(void **unused)
{
	(void)unused;
	for_each_set(check_broken_input);
}

/* Several chunks of columns of the widest sets. */
static void check_long_rows(const struct kernels *k)
{
	for (uint32_t bits = 1; bits <= QMAT_MAX_BITS; bits++) {
		struct problem p = problem_new(7, 9001, bits, GRID_OF_ROW);

		check_dot(k, &p, 5);
		check_dot_int(k, &p, 5);
		problem_done(&p);
	}
}

static void test_long_rows(void **unused)
{
	(void)unused;
	for_each_set(check_long_rows);
}

static void test_dot(void **unused)
{
	(void)unused;
	for_each_set(check_all_dots);
}

static void test_dot_int(void **unused)
{
	(void)unused;
	for_each_set(check_all_dots_int);
}

static void check_all_accumulates(const struct kernels *k)
{
	check_all(k, check_accumulate);
	check_plain(k, check_accumulate);
}

static void test_accumulate(void **unused)
{
	(void)unused;
	for_each_set(check_all_accumulates);
}

static void test_row_values(void **unused)
{
	(void)unused;
	for (uint32_t bits = 1; bits <= 32; bits++) {
		for (enum grid grid = 0; qmat_bits_valid(bits) && grid < N_GRIDS; grid++) {
			struct problem p = problem_new(3, 333, bits, grid);
			float values[333];

			for (uint32_t r = 0; r < p.rows; r++) {
				qmat_row_values(values, &p.m, r);
				for (uint32_t c = 0; c < p.cols; c++) {
					float exact = (float)p.values[r * p.cols + c];

					assert_true(values[c] == exact);
					assert_true(qmat_value(&p.m, r, c) == exact);
				}
			}
			problem_done(&p);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dot),
		cmocka_unit_test(test_dot_int),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_long_rows),
		cmocka_unit_test(test_broken_input),
		cmocka_unit_test(test_accumulate),
		cmocka_unit_test(test_row_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

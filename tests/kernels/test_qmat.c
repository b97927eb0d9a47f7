#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

/* Where the scales and zeros of a matrix stand. */
enum grid {
	GRID_OF_GROUP,
	GRID_OF_ROW,
	GRID_OF_MATRIX,
	N_GRIDS,
};

struct problem {
	uint32_t rows, cols, bits;
	size_t n_groups;
	double *values; /* exact, row-major */
	uint8_t *codes;
	uint16_t *scales;
	uint8_t *zeros;
	struct qmat m;
};

/* Of any sign and size, subnormal halves too. */
static float random_scale(size_t i)
{
	return random_f32() * (i % 7 ? 0.1f : 1e-6f);
}

static void problem_grid(struct problem *p, enum grid grid)
{
	size_t n_scales = grid == GRID_OF_GROUP ? qmat_n_scales(p->rows, p->cols)
						: (grid == GRID_OF_ROW ? p->rows : 0);

	p->m.step = grid == GRID_OF_GROUP && random_u32() % 2 ? 1 : random_f32();
	if (n_scales == 0)
		p->m.step *= 0.01f;
	p->scales = numbers_new(n_scales, sizeof(*p->scales));
	p->zeros = numbers_new(n_scales, 1);
	for (size_t i = 0; i < n_scales; i++) {
		p->scales[i] = f16_from_f32(random_scale(i));
		p->zeros[i] = (uint8_t)(random_u32() % (1u << p->bits));
	}
	switch (grid) {
	case GRID_OF_GROUP:
		p->m.scales = p->scales;
		p->m.zeros = p->zeros;
		p->m.scale_row = (uint32_t)p->n_groups;
		p->m.scale_group = 1;
		return;
	case GRID_OF_ROW:
		p->m.scales = p->scales;
		p->m.scale_row = 1;
		break;
	case GRID_OF_MATRIX:
	case N_GRIDS:
		break;
	}
	p->m.zero = (float)(random_u32() % (2u << p->bits)) / 2;
}

static double problem_value(const struct problem *p, uint32_t row, uint32_t col, uint8_t code)
{
	size_t group = row * p->n_groups + col / QMAT_GROUP;
	double zero = p->m.zeros ? p->zeros[group] : p->m.zero, value = p->m.step * (code - zero);

	if (p->m.zeros)
		return value * f16_to_f32(p->scales[group]);
	return p->m.scales ? value * f16_to_f32(p->scales[row]) : value;
}

/* Packed rows of random codes. */
static void problem_codes(struct problem *p)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) uint8_t *row = numbers_new(p->cols, 1);

	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++) {
			row[c] = (uint8_t)(random_u32() % (1u << p->bits));
			p->values[(size_t)r * p->cols + c] = problem_value(p, r, c, row[c]);
		}
		qmat_row_pack(p->codes + r * row_bytes, row,
			p->m.zeros ? p->zeros + r * p->n_groups : NULL, p->cols, p->bits);
	}
}

/* Rows of plain numbers, 16 or 32 bits each. */
static void problem_plain(struct problem *p)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) float *row = numbers_new(p->cols, sizeof(*row));

	p->m.step = random_f32();
	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++) {
			row[c] = random_scale(c);
			if (p->bits == 16)
				row[c] = f16_to_f32(f16_from_f32(row[c]));
			p->values[(size_t)r * p->cols + c] = (double)p->m.step * row[c];
		}
		qmat_row_pack_plain(p->codes + r * row_bytes, row, p->cols, p->bits);
	}
}

static struct problem problem_new(uint32_t rows, uint32_t cols, uint32_t bits, enum grid grid)
{
	struct problem p = {
		.rows = rows, .cols = cols, .bits = bits, .n_groups = qmat_groups(cols)};

	p.values = numbers_new((size_t)rows * cols, sizeof(*p.values));
	p.codes = numbers_new(qmat_codes_bytes(rows, cols, bits), 1);
	p.m = (struct qmat){.codes = p.codes, .rows = rows, .cols = cols, .bits = bits};
	if (bits > QMAT_MAX_BITS) {
		problem_plain(&p);
		return p;
	}
	problem_grid(&p, grid);
	problem_codes(&p);
	return p;
}

static void problem_done(struct problem *p)
{
	free(p->values);
	free(p->codes);
	free(p->scales);
	free(p->zeros);
}

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

/* One code and one zero for all. */
static void problem_make_uniform(struct problem *p, uint8_t code, uint32_t zero)
{
	const size_t row_bytes = p->n_groups * qmat_group_bytes(p->bits);
	_cleanup_(freep) uint8_t *row = numbers_new(p->cols, 1);

	memset(row, code, p->cols);
	p->m.zero = (float)zero;
	if (p->m.zeros)
		memset(p->zeros, (int)zero, p->rows * p->n_groups);
	for (uint32_t r = 0; r < p->rows; r++) {
		for (uint32_t c = 0; c < p->cols; c++)
			p->values[(size_t)r * p->cols + c] = problem_value(p, r, c, code);
		qmat_row_pack(p->codes + r * row_bytes, row,
			p->m.zeros ? p->zeros + r * p->n_groups : NULL, p->cols, p->bits);
	}
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

static void test_extremes(void **unused)
{
	(void)unused;
	for_each_set(check_extremes);
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

static void check_shapes(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t), uint32_t bits,
	enum grid grid)
{
	static const uint32_t rows[] = {0, 1, 2, 3, 17};
	static const uint32_t cols[] = {0, 1, 15, 16, 17, 127, 128, 129, 256, 401, 1100};
	static const size_t batches[] = {0, 1, 2, 3, 4, 5, 9};

	for (size_t i = 0; i < array_len(rows); i++) {
		for (size_t j = 0; j < array_len(cols); j++) {
			struct problem p = problem_new(rows[i], cols[j], bits, grid);

			for (size_t b = 0; b < array_len(batches); b++)
				check(k, &p, batches[b]);
			problem_done(&p);
		}
	}
}

static void check_all(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t))
{
	struct problem large = problem_new(300, 3001, 3, GRID_OF_GROUP);

	for (uint32_t bits = 1; bits <= QMAT_MAX_BITS; bits++)
		for (enum grid grid = 0; grid < N_GRIDS; grid++)
			check_shapes(k, check, bits, grid);
	check(k, &large, 3);
	problem_done(&large);
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

#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

struct problem {
	struct dropmat m;
	void *entries;
	uint16_t *scales;
	double *values; /* exact, row-major */
	size_t *order;  /* scratch: the columns of a group */
};

/* The first n_keep of a shuffled group, ascending: `is_kept` by place. */
static void draw_places(const struct problem *p, bool *is_kept)
{
	for (uint32_t i = 0; i < p->m.group; i++) {
		p->order[i] = i;
		is_kept[i] = false;
	}
	for (uint32_t i = 0; i < p->m.n_keep; i++) {
		uint32_t other = i + random_u32() % (p->m.group - i);
		size_t place = p->order[other];

		p->order[other] = p->order[i];
		is_kept[place] = true;
	}
}

static void fill_group(struct problem *p, uint32_t row, uint32_t group)
{
	size_t entry = row * dropmat_row_entries(p->m.cols, p->m.group, p->m.n_keep) +
		       (size_t)group * p->m.n_keep;
	_cleanup_(freep) bool *is_kept = numbers_new(p->m.group, sizeof(*is_kept));
	double factor = p->m.step;

	if (p->m.scales)
		factor *= f16_to_f32(p->scales[row]);
	draw_places(p, is_kept);
	for (uint32_t i = 0; i < p->m.group; i++) {
		uint8_t code = (uint8_t)(random_u32() % (1u << p->m.bits));

		if (!is_kept[i])
			continue;
		dropmat_entry_put(&p->m, p->entries, entry++, i, code);
		p->values[(size_t)row * p->m.cols + group * p->m.group + i] =
			factor * (code - (double)p->m.zero);
	}
}

struct shape {
	uint32_t group, n_keep, bits;
};

static struct problem problem_new(uint32_t rows, uint32_t n_groups, struct shape s, bool scaled)
{
	struct problem p = {.m = {.rows = rows,
				    .cols = n_groups * s.group,
				    .group = s.group,
				    .n_keep = s.n_keep,
				    .index_bits = dropmat_index_bits(s.group),
				    .bits = s.bits,
				    .scale_row = scaled,
				    .step = random_f32(),
				    .zero = (float)(random_u32() % (2u << s.bits)) / 2}};

	p.entries = numbers_new(dropmat_entries_bytes(&p.m), 1);
	p.scales = numbers_new(rows, sizeof(*p.scales));
	p.values = numbers_new((size_t)rows * p.m.cols, sizeof(*p.values));
	p.order = numbers_new(s.group, sizeof(*p.order));
	p.m.entries = p.entries;
	p.m.scales = scaled ? p.scales : NULL;
	for (uint32_t r = 0; r < rows; r++) {
		p.scales[r] = f16_from_f32(random_f32() * (r % 5 ? 1 : 1e-6f));
		for (uint32_t g = 0; g < n_groups; g++)
			fill_group(&p, r, g);
	}
	return p;
}

static void problem_done(struct problem *p)
{
	free(p->entries);
	free(p->scales);
	free(p->values);
	free(p->order);
}

/* One row of x, and the rows of the matrix in two calls. */
static void check_alone(const struct kernels *k, const struct problem *p, const float *x,
	const float *before, const float *together)
{
	struct guarded y = guarded_new(p->m.rows);
	size_t cut = p->m.rows / 3;

	memcpy(guarded_at(&y), before, p->m.rows * sizeof(*before));
	k->dropmat_dot(guarded_at(&y), 0, &p->m, x, 0, 1, cut, p->m.rows);
	for (size_t r = 0; r < cut; r++)
		assert_true(same_bits(guarded_at(&y)[r], before[r]));
	k->dropmat_dot(guarded_at(&y), 0, &p->m, x, 0, 1, 0, cut);
	guarded_check(&y);
	for (size_t r = 0; r < p->m.rows; r++)
		assert_true(same_bits(guarded_at(&y)[r], together[r]));
	guarded_done(&y);
}

static void check_row(const struct kernels *k, const struct problem *p, const float *x,
	const float *before, const float *got)
{
	size_t n_entries = dropmat_row_entries(p->m.cols, p->m.group, p->m.n_keep);

	for (size_t r = 0; r < p->m.rows; r++) {
		double sum = before[r], magnitude = fabs(sum);

		for (size_t c = 0; c < p->m.cols; c++) {
			double term = p->values[r * p->m.cols + c] * x[c];

			sum += term;
			magnitude += fabs(term);
		}
		expect_near(k->name, got[r], sum, (n_entries + 1 + 8) * ROUNDING * magnitude,
			"group %u keep %u bits %u, %u x %u", p->m.group, p->m.n_keep, p->m.bits,
			p->m.rows, p->m.cols);
	}
}

static void check_dot(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t rows = p->m.rows, x_stride = p->m.cols + 1, y_stride = rows + 2;
	_cleanup_(freep) float *x = random_new(n * x_stride), *before = random_new(n * rows);
	struct guarded y = guarded_new(n * y_stride);

	for (size_t t = 0; t < n; t++)
		memcpy(guarded_at(&y) + t * y_stride, before + t * rows, rows * sizeof(*before));
	k->dropmat_dot(guarded_at(&y), y_stride, &p->m, x + 1, x_stride, n, 0, rows);
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		const float *got = guarded_at(&y) + t * y_stride, *row = x + 1 + t * x_stride;

		check_row(k, p, row, before + t * rows, got);
		assert_true(is_untouched(got + rows) && is_untouched(got + rows + 1));
		check_alone(k, p, row, before + t * rows, got);
	}
	guarded_done(&y);
}

static void check_alone_int(const struct kernels *k, const struct problem *p,
	const struct act_group *x, size_t x_stride, const float *before, const float *together)
{
	struct guarded y = guarded_new(p->m.rows);
	size_t cut = p->m.rows / 3;

	memcpy(guarded_at(&y), before, p->m.rows * sizeof(*before));
	k->dropmat_dot_int(guarded_at(&y), 0, &p->m, x, x_stride, 1, cut, p->m.rows);
	for (size_t r = 0; r < cut; r++)
		assert_true(same_bits(guarded_at(&y)[r], before[r]));
	k->dropmat_dot_int(guarded_at(&y), 0, &p->m, x, x_stride, 1, 0, cut);
	guarded_check(&y);
	for (size_t r = 0; r < p->m.rows; r++)
		assert_true(same_bits(guarded_at(&y)[r], together[r]));
	guarded_done(&y);
}

/* The bits of ref, in any company; and the sums of what n rows of x were rounded to. */
static void check_dot_int_of(
	const struct kernels *k, const struct problem *p, const float *x, size_t n)
{
	const size_t rows = p->m.rows, y_stride = rows + 2, cols = p->m.cols;
	_cleanup_(freep) float *before = random_new(n * y_stride);
	_cleanup_(freep) float *expected = random_new(n * y_stride), *inputs = random_new(cols);
	struct act_group *rounded =
		aligned_alloc(64, (n * mat_int_groups(p->m.cols) + 1) * sizeof(*rounded));
	struct guarded y = guarded_new(n * y_stride);
	struct kernels ref;

	assert_non_null(rounded);
	assert_int_equal(kernels_select(&ref, "ref", NULL), 0);
	ref.act_round(rounded, n, x, cols, n, p->m.cols);
	memcpy(expected, before, n * y_stride * sizeof(*before));
	for (size_t t = 0; t < n; t++)
		memcpy(guarded_at(&y) + t * y_stride, before + t * y_stride,
			rows * sizeof(*before));
	ref.dropmat_dot_int(expected, y_stride, &p->m, rounded, n, n, 0, rows);
	k->dropmat_dot_int(guarded_at(&y), y_stride, &p->m, rounded, n, n, 0, rows);
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		const float *got = guarded_at(&y) + t * y_stride;

		for (size_t c = 0; c < cols; c++)
			inputs[c] =
				rounded[c / MAT_INT_GROUP * n + t].scale *
				(float)rounded[c / MAT_INT_GROUP * n + t].codes[c % MAT_INT_GROUP];
		for (size_t r = 0; r < rows; r++)
			if (!same_bits(got[r], expected[t * y_stride + r]))
				fail_msg("%s: group %u keep %u bits %u, %zu x %zu: got %.9g, ref "
					 "%.9g",
					k->name, p->m.group, p->m.n_keep, p->m.bits, rows, cols,
					got[r], expected[t * y_stride + r]);
		check_row(k, p, inputs, before + t * y_stride, got);
		assert_true(is_untouched(got + rows) && is_untouched(got + rows + 1));
		check_alone_int(k, p, rounded + t, n, before + t * y_stride, got);
	}
	guarded_done(&y);
	free(rounded);
}

static void check_dot_int(const struct kernels *k, const struct problem *p, size_t n)
{
	_cleanup_(freep) float *x = random_new(n * p->m.cols);

	check_dot_int_of(k, p, x, n);
}

/* One code and one zero for all; entries are bytes. */
static void problem_make_uniform(struct problem *p, uint32_t code, float zero)
{
	const size_t n_entries = dropmat_row_entries(p->m.cols, p->m.group, p->m.n_keep);
	uint8_t *entries = p->entries;

	p->m.zero = zero;
	for (size_t i = 0; i < p->m.rows * n_entries; i++) {
		size_t row = i / n_entries, group = i % n_entries / p->m.n_keep;
		uint32_t place = entries[i] & (p->m.group - 1);
		double factor = p->m.step;

		if (p->m.scales)
			factor *= f16_to_f32(p->scales[row]);
		entries[i] = (uint8_t)(code << p->m.index_bits | place);
		p->values[row * p->m.cols + group * p->m.group + place] =
			factor * (code - (double)zero);
	}
}

/* The largest sums of four that there are, in either direction, and large terms that cancel. */
static void check_extremes(const struct kernels *k)
{
	for (uint32_t index_bits = 1; index_bits <= 4; index_bits++)
		for (uint32_t bits = 1; bits <= 8 - index_bits; bits++) {
			const uint32_t group = 1u << index_bits, top = (1u << bits) - 1;
			const struct shape shape = {group, group, bits};
			const struct {
				uint32_t code;
				float zero;
			} cases[] = {{top, 0}, {0, (float)top}, {top, (float)top},
				{0, (float)top + 0.5f}};
			struct problem p = problem_new(5, 300, shape, bits % 2);
			_cleanup_(freep) float *x = random_new(2 * (size_t)p.m.cols);

			for (size_t c = 0; c < p.m.cols; c++) {
				x[c] = 0.7f;
				x[p.m.cols + c] = -0.7f;
			}
			for (size_t i = 0; i < array_len(cases); i++) {
				problem_make_uniform(&p, cases[i].code, cases[i].zero);
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

/* Chains that are past all numbers stay there, although others would bring them back. */
static void check_overflow(const struct kernels *k)
{
	enum { COLS = 512, GROUPS = COLS / MAT_INT_GROUP };
	struct problem p = problem_new(1, COLS / 16, (struct shape){16, 2, 4}, false);
	_cleanup_(freep) float *x = random_new(COLS);
	struct act_group rounded[GROUPS] __attribute__((aligned(64)));
	float expected = 0, got = 0;
	struct kernels ref;

	problem_make_uniform(&p, 15, 0);
	for (size_t c = 0; c < COLS; c++)
		x[c] = c < COLS / 2 ? 1e36f : -1e36f;
	assert_int_equal(kernels_select(&ref, "ref", NULL), 0);
	ref.act_round(rounded, 1, x, COLS, 1, COLS);
	ref.dropmat_dot_int(&expected, 1, &p.m, rounded, 1, 1, 0, 1);
	k->dropmat_dot_int(&got, 1, &p.m, rounded, 1, 1, 0, 1);
	assert_true(isnan(expected));
	assert_true(isnan(got));
	problem_done(&p);
}

static void test_overflow(void **unused)
{
	(void)unused;
	for_each_set(check_overflow);
}

/* Bytes and words, narrow and wide codes, groups within one register, two, and none. */
static const struct shape shapes[] = {
	{1, 1, 8},
	{1, 1, 1},
	{2, 1, 4},
	{3, 2, 2},
	{4, 1, 6},
	{5, 5, 3},
	{8, 1, 5},
	{8, 3, 1},
	{8, 2, 3},
	{8, 1, 6},
	{12, 5, 4},
	{4, 2, 6},
	{8, 4, 5},
	{8, 8, 5},
	{16, 1, 4},
	{16, 2, 4},
	{16, 4, 4},
	{16, 8, 3},
	{16, 16, 4},
	{16, 2, 5},
	{16, 16, 8},
	{17, 3, 3},
	{32, 1, 1},
	{32, 5, 3},
	{32, 4, 8},
	{33, 2, 2},
	{64, 8, 2},
	{64, 7, 4},
	{100, 9, 3},
	{256, 31, 8},
};

static void check_shapes(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t), bool rounded)
{
	static const uint32_t rows[] = {0, 1, 2, 7, 8, 15, 16, 17, 41};
	static const uint32_t groups[] = {0, 1, 2, 3, 7, 70};
	static const size_t batches[] = {0, 1, 2, 3, 5, 9};

	for (size_t s = 0; s < array_len(shapes); s++) {
		for (size_t i = 0; i < array_len(rows) * array_len(groups); i++) {
			struct problem p = problem_new(rows[i / array_len(groups)],
				groups[i % array_len(groups)], shapes[s], i % 2);

			if (rounded && !dropmat_takes_rounded(&p.m)) {
				problem_done(&p);
				continue;
			}
			for (size_t b = 0; b < array_len(batches); b++)
				check(k, &p, batches[b]);
			problem_done(&p);
		}
	}
}

static void check_all_dots(const struct kernels *k)
{
	check_shapes(k, check_dot, false);
}

/* And rows of several blocks of columns. */
static void check_all_dots_int(const struct kernels *k)
{
	struct problem p = problem_new(9, 1100, (struct shape){16, 2, 4}, true);

	check_shapes(k, check_dot_int, true);
	check_dot_int(k, &p, 3);
	problem_done(&p);
}

static void test_dot_int(void **unused)
{
	(void)unused;
	for_each_set(check_all_dots_int);
}

static void test_dot(void **unused)
{
	(void)unused;
	for_each_set(check_all_dots);
}

static void test_row_values(void **unused)
{
	(void)unused;
	for (size_t s = 0; s < array_len(shapes); s++) {
		struct problem p = problem_new(3, 5, shapes[s], s % 2);
		_cleanup_(freep) float *values = numbers_new(p.m.cols, sizeof(*values));

		for (uint32_t r = 0; r < p.m.rows; r++) {
			dropmat_row_values(values, &p.m, r);
			for (uint32_t c = 0; c < p.m.cols; c++)
				assert_true(values[c] == (float)p.values[r * p.m.cols + c]);
		}
		problem_done(&p);
	}
}

/* The layout as types.h tells it: column 5 of 8 with code 9, in a byte and in a word. */
static void test_layout(void **unused)
{
	struct dropmat narrow = {.group = 8, .n_keep = 1, .index_bits = 3, .bits = 5};
	struct dropmat wide = {.group = 8, .n_keep = 1, .index_bits = 3, .bits = 6};
	/* Twice what is used, as the compiler thinks of words for bytes too. */
	uint8_t byte[4] = {0};
	uint16_t word[2] = {0};

	(void)unused;
	dropmat_entry_put(&narrow, byte, 1, 5, 9);
	dropmat_entry_put(&wide, word, 1, 5, 9);
	assert_int_equal(byte[1], 9 << 3 | 5);
	assert_int_equal(word[1], 9 << 3 | 5);
	assert_int_equal(byte[0], 0);
	assert_int_equal(word[0], 0);
	assert_int_equal(dropmat_entry_bits(3, 5), 8);
	assert_int_equal(dropmat_entry_bits(3, 6), 16);
	assert_int_equal(dropmat_index_bits(1), 0);
	assert_int_equal(dropmat_index_bits(2), 1);
	assert_int_equal(dropmat_index_bits(33), 6);
	assert_int_equal(dropmat_row_entries(64, 16, 3), 12);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dot),
		cmocka_unit_test(test_dot_int),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_overflow),
		cmocka_unit_test(test_row_values),
		cmocka_unit_test(test_layout),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

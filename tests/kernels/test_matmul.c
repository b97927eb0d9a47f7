#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

struct problem {
	uint32_t rows, cols;
	uint16_t *source; /* row-major */
	uint16_t *packed;
	struct mat_bf16 w;
};

static struct problem problem_new(uint32_t rows, uint32_t cols)
{
	struct problem p = {.rows = rows, .cols = cols};
	size_t bytes = (mat_bf16_size(rows, cols) * sizeof(*p.packed) + 64) & ~(size_t)63;

	p.source = numbers_new((size_t)rows * cols, sizeof(*p.source));
	p.packed = aligned_alloc(64, bytes);
	assert_non_null(p.packed);
	for (size_t i = 0; i < (size_t)rows * cols; i++)
		p.source[i] = bf16_from_f32(random_f32());
	mat_bf16_pack(p.packed, p.source, rows, cols);
	p.w = (struct mat_bf16){.data = p.packed, .rows = rows, .cols = cols};
	return p;
}

static void problem_done(struct problem *p)
{
	free(p->source);
	free(p->packed);
}

static void check_value(const struct kernels *k, const struct problem *p, const float *x,
	uint32_t output, float got)
{
	double sum = 0, magnitude = 0, tolerance;

	for (uint32_t c = 0; c < p->cols; c++) {
		double term = (double)bf16_to_f32(p->source[(size_t)output * p->cols + c]) * x[c];

		sum += term;
		magnitude += fabs(term);
	}
	tolerance = (p->cols + 8) * ROUNDING * magnitude;
	if (k->matmul_panel)
		tolerance += 0x1p-17 * magnitude; /* x is rounded first */
	expect_near(k->name, got, sum, tolerance, "%u x %u output %u", p->rows, p->cols, output);
}

/* One row alone, its range of outputs cut in three: the same bits as in company. */
static void check_alone(
	const struct kernels *k, const struct problem *p, const float *x, const float *together)
{
	struct guarded y = guarded_new(p->rows);
	size_t blocks = mat_bf16_blocks(p->rows), a = blocks / 4, b = blocks / 2 + 1;

	if (b > blocks)
		b = blocks;
	k->matmul(guarded_at(&y), 0, &p->w, x, 0, 1, b, blocks);
	k->matmul(guarded_at(&y), 0, &p->w, x, 0, 1, 0, a);
	for (uint32_t o = (uint32_t)a * MAT_BLOCK; o < b * MAT_BLOCK && o < p->rows; o++)
		assert_true(is_untouched(guarded_at(&y) + o));
	k->matmul(guarded_at(&y), 0, &p->w, x, 0, 1, a, b);
	guarded_check(&y);
	for (uint32_t o = 0; o < p->rows; o++)
		assert_true(same_bits(guarded_at(&y)[o], together[o]));
	guarded_done(&y);
}

/* From a panel, filled last part first, and blocks in two ranges: the bits of matmul(). */
static void check_panel(const struct kernels *k, const struct problem *p, const float *x,
	size_t x_stride, size_t n, const float *together, size_t y_stride)
{
	struct guarded y = guarded_new(n * y_stride);
	size_t blocks = mat_bf16_blocks(p->rows);
	size_t bytes = align_up(k->panel_bytes(n, p->cols), 64);
	_cleanup_(freep) uint8_t *panel = aligned_alloc(64, bytes + 64);

	assert_non_null(panel);
	memset(panel, 0xff, bytes + 64);
	for (size_t i = k->panel_parts(n); i-- > 0;)
		k->panel_fill(panel, x, x_stride, n, p->cols, i);
	for (size_t i = bytes; i < bytes + 64; i++)
		assert_int_equal(panel[i], 0xff);
	k->matmul_panel(guarded_at(&y), y_stride, &p->w, panel, n, blocks / 3, blocks);
	k->matmul_panel(guarded_at(&y), y_stride, &p->w, panel, n, 0, blocks / 3);
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		for (uint32_t o = 0; o < p->rows; o++)
			assert_true(same_bits(
				guarded_at(&y)[t * y_stride + o], together[t * y_stride + o]));
		for (size_t o = p->rows; o < y_stride; o++)
			assert_true(is_untouched(guarded_at(&y) + t * y_stride + o));
	}
	guarded_done(&y);
}

static void check_batch(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t x_stride = p->cols + 3, y_stride = p->rows + 5;
	_cleanup_(freep) float *x = random_new(n * x_stride + 1);
	struct guarded y = guarded_new(n * y_stride);
	float *results = guarded_at(&y);

	k->matmul(results, y_stride, &p->w, x + 1, x_stride, n, 0, mat_bf16_blocks(p->rows));
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		for (uint32_t o = 0; o < p->rows; o++)
			check_value(k, p, x + 1 + t * x_stride, o, results[t * y_stride + o]);
		for (size_t o = p->rows; o < y_stride; o++)
			assert_true(is_untouched(results + t * y_stride + o));
		check_alone(k, p, x + 1 + t * x_stride, results + t * y_stride);
	}
	if (k->matmul_panel)
		check_panel(k, p, x + 1, x_stride, n, results, y_stride);
	guarded_done(&y);
}

static void check_shapes(const struct kernels *k)
{
	static const uint32_t rows[] = {0, 1, 15, 16, 17, 32, 33, 64, 83};
	static const uint32_t cols[] = {0, 1, 2, 15, 16, 17, 33, 64, 129};
	static const size_t batches[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17};

	for (size_t i = 0; i < array_len(rows); i++) {
		for (size_t j = 0; j < array_len(cols); j++) {
			struct problem p = problem_new(rows[i], cols[j]);

			for (size_t b = 0; b < array_len(batches); b++)
				check_batch(k, &p, batches[b]);
			problem_done(&p);
		}
	}
}

static void test_shapes(void **unused)
{
	(void)unused;
	for_each_set(check_shapes);
}

/* Sizes at which the inputs or the rows are cut in several parts. */
static void check_large(const struct kernels *k)
{
	struct problem wide = problem_new(18, 33001), deep = problem_new(35, 5003);

	check_batch(k, &wide, 1);
	check_batch(k, &wide, 3);
	check_batch(k, &deep, 100);
	check_batch(k, &deep, 129);
	check_batch(k, &deep, 17);
	problem_done(&wide);
	problem_done(&deep);
}

static void test_large(void **unused)
{
	(void)unused;
	for_each_set(check_large);
}

static void check_mat_row(const struct kernels *k)
{
	static const uint32_t cols[] = {1, 2, 3, 16, 17, 129};

	for (size_t i = 0; i < array_len(cols); i++) {
		struct problem p = problem_new(35, cols[i]);

		for (uint32_t r = 0; r < p.rows; r++) {
			struct guarded row = guarded_new(p.cols);

			k->mat_row(guarded_at(&row), &p.w, r);
			guarded_check(&row);
			for (uint32_t c = 0; c < p.cols; c++)
				assert_true(same_bits(guarded_at(&row)[c],
					bf16_to_f32(p.source[(size_t)r * p.cols + c])));
			guarded_done(&row);
		}
		problem_done(&p);
	}
}

static void test_mat_row(void **unused)
{
	(void)unused;
	for_each_set(check_mat_row);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_mat_row),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

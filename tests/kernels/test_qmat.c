#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

struct problem {
	uint32_t rows, cols, bits;
	size_t n_groups;
	double *values; /* exact, row-major */
	uint8_t *codes;
	uint16_t *scales;
	uint8_t *zeros;
	struct qmat m;
};

static struct problem problem_new(uint32_t rows, uint32_t cols, uint32_t bits)
{
	struct problem p = {
		.rows = rows, .cols = cols, .bits = bits, .n_groups = qmat_groups(cols)};
	size_t n_scales = qmat_n_scales(rows, cols),
	       row_bytes = p.n_groups * qmat_group_bytes(bits);
	_cleanup_(freep) uint8_t *row = numbers_new(cols, 1);

	p.values = numbers_new((size_t)rows * cols, sizeof(*p.values));
	p.codes = numbers_new(qmat_codes_bytes(rows, cols, bits), 1);
	p.scales = numbers_new(n_scales, sizeof(*p.scales));
	p.zeros = numbers_new(n_scales, 1);
	for (size_t i = 0; i < n_scales; i++) {
		/* Any sign and size, subnormal halves too. */
		p.scales[i] = f16_from_f32(random_f32() * (i % 7 ? 0.1f : 1e-6f));
		p.zeros[i] = (uint8_t)(random_u32() % (1u << bits));
	}
	for (uint32_t r = 0; r < rows; r++) {
		for (uint32_t c = 0; c < cols; c++) {
			size_t g = r * p.n_groups + c / QMAT_GROUP;

			row[c] = (uint8_t)(random_u32() % (1u << bits));
			p.values[(size_t)r * cols + c] =
				(double)f16_to_f32(p.scales[g]) * (row[c] - p.zeros[g]);
		}
		qmat_row_pack(p.codes + r * row_bytes, row, p.zeros + r * p.n_groups, cols, bits);
	}
	p.m = (struct qmat){.codes = p.codes,
		.scales = p.scales,
		.zeros = p.zeros,
		.rows = rows,
		.cols = cols,
		.bits = bits,
		.scale_row = (uint32_t)p.n_groups,
		.scale_group = 1,
		.step = 1};
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

static void check_dot(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t x_stride = p->cols + 1, z_stride = p->rows + 2;
	_cleanup_(freep) float *x = random_new(n ? n * x_stride : 0);
	struct guarded z = guarded_new(n * z_stride);

	k->qmat_dot(guarded_at(&z), z_stride, &p->m, x + 1, x_stride, n, 0, p->rows);
	guarded_check(&z);
	for (size_t t = 0; t < n; t++) {
		const float *row = x + 1 + t * x_stride, *got = guarded_at(&z) + t * z_stride;

		for (size_t r = 0; r < p->rows; r++) {
			double sum = 0, magnitude = 0;

			for (size_t c = 0; c < p->cols; c++) {
				sum += p->values[r * p->cols + c] * row[c];
				magnitude += fabs(p->values[r * p->cols + c] * row[c]);
			}
			expect_near(k->name, got[r], sum, (p->cols + 8) * ROUNDING * magnitude,
				"%u bits %u x %u", p->bits, p->rows, p->cols);
		}
		assert_true(is_untouched(got + p->rows) && is_untouched(got + p->rows + 1));
		check_dot_alone(k, p, row, got);
	}
	guarded_done(&z);
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

static void check_all(const struct kernels *k,
	void (*check)(const struct kernels *, const struct problem *, size_t))
{
	static const uint32_t widths[] = {1, 2, 3, 4, 5, 6, 7, 8}, rows[] = {0, 1, 2, 3, 17};
	static const uint32_t cols[] = {0, 1, 15, 16, 17, 127, 128, 129, 256, 401};
	static const size_t batches[] = {0, 1, 2, 3, 4, 5, 8, 17};

	for (size_t w = 0; w < array_len(widths); w++) {
		for (size_t i = 0; i < array_len(rows); i++) {
			for (size_t j = 0; j < array_len(cols); j++) {
				struct problem p = problem_new(rows[i], cols[j], widths[w]);

				for (size_t b = 0; b < array_len(batches); b++)
					check(k, &p, batches[b]);
				problem_done(&p);
			}
		}
	}
}

static void check_all_dots(const struct kernels *k)
{
	struct problem large = problem_new(300, 3001, 3);

	check_all(k, check_dot);
	check_dot(k, &large, 3);
	problem_done(&large);
}

static void test_dot(void **unused)
{
	(void)unused;
	for_each_set(check_all_dots);
}

static void check_all_accumulates(const struct kernels *k)
{
	struct problem large = problem_new(300, 3001, 2);

	check_all(k, check_accumulate);
	check_accumulate(k, &large, 3);
	problem_done(&large);
}

static void test_accumulate(void **unused)
{
	(void)unused;
	for_each_set(check_all_accumulates);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dot),
		cmocka_unit_test(test_accumulate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

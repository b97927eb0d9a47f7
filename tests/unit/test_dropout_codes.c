/*
 * DeltaDQ on matrices: dropout's mean and variance, its quantiser, the paper's separate parts, and
 * the choice of groups; against sums in double that are computed here.
 */
#include "compress/dropout_plan.h"
#include "kernels/convert.h"
#include "tests/compute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* A fixed generator of its own: sums of uniform numbers are normal enough. */
static double normal(uint64_t *state)
{
	double sum = 0;

	for (int i = 0; i < 12; i++) {
		*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		sum += (double)(*state >> 33) / (double)(UINT64_C(1) << 31);
	}
	return sum - 6;
}

struct matrix {
	struct dropout_target target;
	float *delta;
	double *moments, *product;
};

/* Inputs whose neighbours have something in common, so that groups matter. */
static struct matrix matrix_new(uint32_t rows, uint32_t cols)
{
	struct matrix m = {
		.delta = calloc((size_t)rows * cols, sizeof(float)),
		.moments = calloc((size_t)cols * cols, sizeof(double)),
		.product = calloc((size_t)rows * cols, sizeof(double)),
	};
	uint64_t state = rows * 1000 + cols;

	for (size_t i = 0; i < (size_t)rows * cols; i++)
		m.delta[i] = (float)(normal(&state) * 0.01 + 0.002);
	for (int t = 0; t < 300; t++) {
		double x[512], last = 0;

		for (uint32_t c = 0; c < cols; c++)
			x[c] = last = 0.7 * last + normal(&state) + (c % 7 == 0);
		for (size_t i = 0; i < cols; i++)
			for (size_t j = 0; j < cols; j++)
				m.moments[i * cols + j] += x[i] * x[j] / 300;
	}
	for (size_t r = 0; r < rows; r++)
		for (size_t i = 0; i < cols; i++)
			for (size_t j = 0; j < cols; j++)
				m.product[r * cols + i] +=
					(double)m.delta[r * cols + j] * m.moments[j * cols + i];
	m.target = (struct dropout_target){compute_pool, rows, cols, m.delta, m.moments};
	return m;
}

static void matrix_done(struct matrix *m)
{
	free(m->delta);
	free(m->moments);
	free(m->product);
}

static double quadratic(const double *h, const double *e, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			sum += e[i] * h[i * n + j] * e[j];
	return sum;
}

/* group / n_keep times what survives. */
static void drop(const float *row, uint32_t cols, uint64_t seed, uint32_t group, uint32_t n_keep,
	double *ret)
{
	uint16_t columns[512];

	for (uint32_t c = 0; c < cols; c++)
		ret[c] = 0;
	for (uint32_t g = 0; g < cols / group; g++) {
		dropout_draw(seed, 0, g, group, n_keep, columns);
		for (uint32_t i = 0; i < n_keep; i++)
			ret[g * group + columns[i]] =
				(double)row[g * group + columns[i]] * group / n_keep;
	}
}

/* Over 1000 seeds every number, and the output, stays what it is within 4 standard errors. */
static void test_mean(void **state)
{
	enum { SEEDS = 1000, COLS = 96 };
	_cleanup_(matrix_done) struct matrix m = matrix_new(1, COLS);
	static const uint32_t shapes[][2] = {{8, 1}, {32, 4}, {96, 12}};

	(void)state;
	for (size_t s = 0; s < array_len(shapes); s++) {
		double sums[COLS] = {0}, output = 0, output_square = 0, whole = 0;
		double alpha = (double)shapes[s][0] / shapes[s][1];

		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			double kept[COLS], y = 0;

			drop(m.delta, COLS, seed, shapes[s][0], shapes[s][1], kept);
			for (size_t c = 0; c < COLS; c++) {
				sums[c] += kept[c] / SEEDS;
				y += kept[c];
			}
			output += y / SEEDS;
			output_square += y * y / SEEDS;
		}
		for (size_t c = 0; c < COLS; c++) {
			double value = (double)m.delta[c];

			whole += value;
			assert_true(fabs(sums[c] - value) <=
				    4 * fabs(value) * sqrt((alpha - 1) / SEEDS));
		}
		assert_true(fabs(output - whole) <=
			    4 * sqrt((output_square - output * output) / SEEDS));
	}
}

/* The closed form of the error against the mean over drawn masks. */
static void test_variance(void **state)
{
	enum { SEEDS = 6000, COLS = 48 };
	_cleanup_(matrix_done) struct matrix m = matrix_new(1, COLS);
	static const uint32_t shapes[][2] = {{4, 1}, {8, 1}, {8, 3}, {48, 6}, {16, 8}};
	double forms[array_len(shapes)];

	(void)state;
	for (size_t c = 0; c < COLS; c++)
		m.delta[c] += 0.02f;
	for (size_t s = 0; s < array_len(shapes); s++) {
		double mean = 0, square = 0, blocks, diagonal = 0, form;

		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			double error[COLS], e;

			drop(m.delta, COLS, seed, shapes[s][0], shapes[s][1], error);
			for (size_t c = 0; c < COLS; c++)
				error[c] -= (double)m.delta[c];
			e = quadratic(m.moments, error, COLS);
			mean += e / SEEDS;
			square += e * e / SEEDS;
		}
		for (size_t c = 0; c < COLS; c++)
			diagonal +=
				(double)m.delta[c] * (double)m.delta[c] * m.moments[c * COLS + c];
		assert_int_equal(dropout_blocks(&m.target, shapes[s][0], &blocks), 0);
		form = dropout_variance(diagonal, blocks, shapes[s][0], shapes[s][1]);
		assert_true(fabs(form - mean) < 4 * sqrt((square - mean * mean) / SEEDS));
		forms[s] = form;
	}
	/* Neighbours have much in common, so that here a small group is clearly better than the
	 * row: a form that ignored groups would not see it. */
	assert_true(forms[1] < 0.9 * forms[3]);
}

/* dropout_left() against drawn masks: the mean squared error of the output with all of H, and, the
 * coherent part, the error of the mean output, which no other mask takes back. */
static void test_left_of_masks(void **state)
{
	enum { SEEDS = 6000, COLS = 48, GROUP = 8 };
	_cleanup_(matrix_done) struct matrix m = matrix_new(1, COLS);
	double mean[COLS] = {0}, energy = 0, blocks, diagonal = 0, full, bias, last = 2;
	struct dropout_outlook o;

	(void)state;
	for (uint64_t seed = 0; seed < SEEDS; seed++) {
		double kept[COLS];

		drop(m.delta, COLS, seed, GROUP, 1, kept);
		energy += quadratic(m.moments, kept, COLS) / SEEDS;
		for (size_t c = 0; c < COLS; c++)
			mean[c] += kept[c] / SEEDS;
	}
	for (size_t c = 0; c < COLS; c++)
		diagonal += (double)m.delta[c] * (double)m.delta[c] * m.moments[c * COLS + c];
	assert_int_equal(dropout_blocks(&m.target, GROUP, &blocks), 0);
	assert_int_equal(dropout_blocks(&m.target, COLS, &full), 0);
	o = dropout_outlook_of(
		&(struct dropout_row){full, diagonal, blocks, diagonal, diagonal}, GROUP, 1);
	for (double coherence = 0; coherence <= 64; coherence = 4 * coherence + 1) {
		double best = dropout_factor(&o, coherence), around[3];

		for (int i = 0; i < 3; i++) {
			double factor = best * (0.8 + 0.2 * i), error[COLS], cross = 0;

			for (size_t c = 0; c < COLS; c++) {
				error[c] = factor * mean[c] - (double)m.delta[c];
				cross += mean[c] * m.product[c];
			}
			bias = quadratic(m.moments, error, COLS);
			around[i] = full - 2 * factor * cross + factor * factor * energy +
				    coherence * bias;
			assert_true(fabs(dropout_left(&o, factor, coherence) - around[i]) <
				    0.05 * around[i]);
		}
		assert_true(around[1] < around[0] && around[1] < around[2]);
		/* The more it counts, the less is missing. */
		assert_true(best < 1 && 1 - best < last);
		last = 1 - best;
	}
}

static struct dropout_codes fit(const struct matrix *m, struct dropout_shape shape,
	const struct dropout_how *how, double *ret_left)
{
	struct dropout_codes d = {.shape = shape, .seed = 77};

	assert_int_equal(dropout_codes_fit(&m->target, m->product, how, &d, ret_left), 0);
	return d;
}

static double left_in_double(const struct matrix *m, const struct dropout_codes *d)
{
	uint32_t cols = m->target.cols;
	double sum = 0;

	for (uint32_t row = 0; row < m->target.rows; row++) {
		float values[512];
		double error[512];

		dropout_codes_values(d, row, values);
		for (uint32_t c = 0; c < cols; c++)
			error[c] = (double)values[c] - (double)m->delta[(size_t)row * cols + c];
		sum += quadratic(m->moments, error, cols);
	}
	return sum;
}

/* What of the output is missing, squared, in rows [first, end) taken together. */
static double missing_in_double(
	const struct matrix *m, const struct dropout_codes *d, uint32_t first, uint32_t end)
{
	uint32_t cols = m->target.cols;
	double made = 0, full = 0;

	for (uint32_t row = first; row < end; row++) {
		float values[512];

		dropout_codes_values(d, row, values);
		for (uint32_t c = 0; c < cols; c++) {
			double product = m->product[(size_t)row * cols + c];

			made += (double)values[c] * product;
			full += (double)m->delta[(size_t)row * cols + c] * product;
		}
	}
	return (full - made) * (full - made) / full;
}

static const struct dropout_how hows[] = {
	{.row_steps = false},
	{.row_steps = true},
	{.min_max = true},
	{.unbiased = true},
	{.min_max = true, .unbiased = true},
	{.row_steps = true, .unbiased = true},
	{.coherence = 8},
	{.row_steps = true, .coherence = 8},
};

/* What is reported to be left is what a reader's numbers leave. */
static void test_left(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(40, 96);

	(void)state;
	for (size_t i = 0; i < array_len(hows); i++) {
		double left, expected;
		_cleanup_(dropout_codes_done) struct dropout_codes d =
			fit(&m, (struct dropout_shape){40, 96, 8, 2, 3}, &hows[i], &left);

		expected = left_in_double(&m, &d);
		if (!hows[i].row_steps)
			expected += hows[i].coherence * missing_in_double(&m, &d, 0, 40);
		for (uint32_t row = 0; hows[i].row_steps && row < 40; row++)
			expected += hows[i].coherence * missing_in_double(&m, &d, row, row + 1);
		assert_true(fabs(left - expected) < 1e-4 * expected);
	}
}

/* The codes through packing, seed and entries are the same numbers, bit for bit, as quantising and
 * dropping where the numbers stand. */
static void test_same_as_fake_quantisation(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(20, 96);
	double left;

	(void)state;
	for (size_t i = 0; i < array_len(hows); i++) {
		_cleanup_(dropout_codes_done) struct dropout_codes d =
			fit(&m, (struct dropout_shape){20, 96, 24, 3, 4}, &hows[i], &left);
		struct dropout_layout l;
		uint8_t packed[20 * 12 / 2], entries[2 * 20 * 12];

		assert_int_equal(dropout_layout(&d.shape, &l, NULL), 0);
		assert_true(l.code_bytes == sizeof(packed) && l.expanded_bytes == sizeof(entries));
		dropout_pack(d.codes, l.n_codes, 4, packed);
		dropout_expand_rows(&d.shape, d.seed, packed, 0, 20, entries);
		for (uint32_t row = 0; row < 20; row++) {
			float fake[96] = {0}, values[96], decoded[96] = {0};
			float scale = d.scales ? d.step * f16_to_f32(d.scales[row]) : d.step;

			for (uint32_t k = 0; k < 12; k++) {
				uint16_t columns[3], entry;
				uint32_t at, code = d.codes[row * 12 + k];

				dropout_draw(77, row, k / 3, 24, 3, columns);
				at = k / 3 * 24 + columns[k % 3];
				/* Nearest level of the grid. */
				fake[at] = scale * ((float)code - d.zero);
				memcpy(&entry, entries + 2 * (row * 12 + k), 2);
				decoded[k / 3 * 24 + entry % 32] =
					scale * ((float)(entry >> 5) - d.zero);
			}
			dropout_codes_values(&d, row, values);
			assert_memory_equal(values, fake, sizeof(fake));
			assert_memory_equal(decoded, fake, sizeof(fake));
		}
	}
}

/* Every survivor has the code of the nearest level: its error is at most half a step. Min-max grids
 * hold all survivors. */
static void test_nearest_levels(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(30, 64);
	const struct dropout_how how = {.min_max = true, .unbiased = true};
	double left, n_near = 0, n = 0;
	_cleanup_(dropout_codes_done) struct dropout_codes d =
		fit(&m, (struct dropout_shape){30, 64, 8, 2, 4}, &how, &left);

	(void)state;
	for (uint32_t row = 0; row < 30; row++) {
		float values[64];

		dropout_codes_values(&d, row, values);
		for (uint32_t c = 0; c < 64; c++) {
			float error = fabsf(values[c] - 4 * m.delta[row * 64 + c]);

			if (values[c] == 0)
				continue;
			/* The zero point is rounded: one end may be cut by half a step more. */
			assert_true(error <= d.step * 1.0001f);
			n_near += error <= d.step * 0.5001f;
			n++;
		}
	}
	assert_true(n_near > 0.95 * n);
	assert_true(d.zero == rintf(d.zero));
}

/* The best factor, known after the draw, lowers the error, and is near the u* = Y / (Y + V) that is
 * expected before it. */
static void test_best_factor(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(200, 96);
	struct dropout_how how = {.unbiased = true};
	const struct dropout_shape shape = {200, 96, 8, 1, 8};
	double paper_left, best_left, y = 0, v = 0, blocks[200];
	struct dropout_energies e;
	_cleanup_(dropout_codes_done) struct dropout_codes paper =
		fit(&m, shape, &how, &paper_left);
	_cleanup_(dropout_codes_done) struct dropout_codes best = {0};

	(void)state;
	how.unbiased = false;
	best = fit(&m, shape, &how, &best_left);
	assert_true(best_left < 0.7 * paper_left);
	assert_int_equal(dropout_energies_of(&m.target, &e), 0);
	assert_int_equal(dropout_blocks(&m.target, 8, blocks), 0);
	for (size_t row = 0; row < 200; row++) {
		y += e.full[row];
		v += dropout_variance(e.diagonal[row], blocks[row], 8, 1);
	}
	dropout_energies_done(&e);
	assert_true(fabs((double)(best.step / paper.step) - y / (y + v)) < 0.05);
	assert_true(fabs(best_left - y * v / (y + v)) < 0.05 * y);
}

/* The paper's "separate quantisation": part j holds the survivors with codes in [j w, (j + 1) w),
 * w = 2^k / m, less j w, as compressed sparse rows. */
struct csr_part {
	uint32_t row_starts[41];
	uint16_t columns[4000];
	uint8_t codes[4000];
	uint32_t n;
};

static void split(const struct dropout_codes *d, uint32_t m, struct csr_part *parts)
{
	uint32_t width = (1u << d->shape.bits) / m, groups = d->shape.cols / d->shape.group;

	for (uint32_t j = 0; j < m; j++)
		parts[j].n = 0;
	for (uint32_t row = 0, at = 0; row < d->shape.rows; row++) {
		for (uint32_t j = 0; j < m; j++)
			parts[j].row_starts[row] = parts[j].n;
		for (uint32_t g = 0; g < groups; g++) {
			uint16_t columns[64];

			dropout_draw(d->seed, row, g, d->shape.group, d->shape.n_keep, columns);
			for (uint32_t i = 0; i < d->shape.n_keep; i++, at++) {
				struct csr_part *p = &parts[d->codes[at] / width];

				p->columns[p->n] = (uint16_t)(g * d->shape.group + columns[i]);
				p->codes[p->n++] = (uint8_t)(d->codes[at] % width);
			}
		}
	}
	for (uint32_t j = 0; j < m; j++)
		parts[j].row_starts[d->shape.rows] = parts[j].n;
}

static void test_separate_parts(void **state)
{
	static struct csr_part parts[16];
	_cleanup_(matrix_done) struct matrix matrix = matrix_new(40, 256);
	const struct dropout_how how = {.min_max = true, .unbiased = true};
	double left;
	_cleanup_(dropout_codes_done) struct dropout_codes d =
		fit(&matrix, (struct dropout_shape){40, 256, 16, 2, 4}, &how, &left);

	(void)state;
	for (uint32_t m = 1; m <= 16; m *= 2) {
		uint32_t width = 16 / m, n = 0;
		double bytes = 0;

		split(&d, m, parts);
		for (uint32_t j = 0; j < m; j++) {
			n += parts[j].n;
			bytes += parts[j].n * (2 + log2(width) / 8) + 41 * 4;
		}
		assert_int_equal(n, 40 * 32);
		printf("%u parts of %u-bit codes: claimed %gx, as sparse rows %.0f bytes, %.1fx\n",
			m, (uint32_t)log2(width), 8 * 16 / log2(width), bytes,
			40 * 256 * 2 / bytes);
		for (uint32_t row = 0; row < 40; row++) {
			float sum[256] = {0}, values[256];

			for (uint32_t j = 0; j < m; j++)
				for (uint32_t i = parts[j].row_starts[row];
					i < parts[j].row_starts[row + 1]; i++) {
					float code = (float)(parts[j].codes[i] + j * width);

					assert_true(parts[j].codes[i] < width);
					sum[parts[j].columns[i]] += d.step * (code - d.zero);
				}
			dropout_codes_values(&d, row, values);
			assert_memory_equal(sum, values, sizeof(sum));
		}
	}
}

static void test_groups(void **state)
{
	uint32_t groups[64];
	struct dropout_request q = {.alpha = 8, .bits = 4};
	struct reason reason;

	(void)state;
	assert_int_equal(dropout_plan_groups(384, 8, 4, groups, 64), 6);
	assert_memory_equal(groups, ((uint32_t[]){8, 16, 32, 64, 128, 384}), 6 * 4);
	/* 12 bits are left for the places: a row of 11008 columns is no group. */
	assert_int_equal(dropout_plan_groups(11008, 64, 4, groups, 64), 3);
	assert_memory_equal(groups, ((uint32_t[]){64, 128, 256}), 3 * 4);
	assert_int_equal(dropout_plan_groups(12, 0, 1, groups, 64), 5);
	assert_memory_equal(groups, ((uint32_t[]){2, 3, 4, 6, 12}), 5 * 4);
	assert_int_equal(dropout_plan_group(384, &q, 100, &groups[0], &reason), 0);
	assert_int_equal(groups[0], 96);
	assert_int_equal(dropout_plan_group(100, &q, 100, &groups[0], &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "alpha 8 does not divide rows of 100"));
	assert_int_equal(dropout_plan_group(384, &q, 7, &groups[0], &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "at most 7 columns"));
}

static uint64_t bytes_of(const struct dropout_codes *d)
{
	struct dropout_layout l;

	assert_int_equal(dropout_layout(&d->shape, &l, NULL), 0);
	return l.code_bytes + (d->scales ? 2 * d->shape.rows : 0);
}

/* Plans keep to their bytes and foretell what is left. */
static void test_plan_by_bytes(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(256, 192);
	double whole = 0;

	(void)state;
	for (size_t i = 0; i < (size_t)256 * 192; i++)
		whole += (double)m.delta[i] * m.product[i];
	for (uint64_t ratio = 8; ratio <= 128; ratio *= 2) {
		struct dropout_request q = {.bytes = 256 * 192 * 2 / ratio};
		struct dropout_plan plan;
		double left;
		_cleanup_(dropout_codes_done) struct dropout_codes d = {0};

		assert_int_equal(dropout_plan_make(&m.target, &q, &plan, NULL), 0);
		assert_true(plan.shape.n_keep > 0);
		assert_true(2 * plan.shape.n_keep <= plan.shape.group);
		d = fit(&m, plan.shape, &plan.how, &left);
		assert_true(bytes_of(&d) <= q.bytes);
		assert_true(fabs(left / whole - plan.left) < 0.05);
		printf("%llux: %u of %u columns, %u bits, %s: %.3f left, %.3f expected\n",
			(unsigned long long)ratio, plan.shape.n_keep, plan.shape.group,
			plan.shape.bits, plan.how.row_steps ? "a step a row" : "one step",
			left / whole, plan.left);
	}
}

static void test_plan_as_asked(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(16, 96);
	struct dropout_request q = {.alpha = 8, .bits = 4};
	struct dropout_plan plan;
	struct reason reason;

	(void)state;
	assert_int_equal(dropout_plan_make(&m.target, &q, &plan, &reason), 0);
	assert_int_equal(plan.shape.group, 8 * plan.shape.n_keep);
	assert_int_equal(plan.shape.bits, 4);
	q.group = 50;
	assert_int_equal(dropout_plan_make(&m.target, &q, &plan, &reason), 0);
	assert_int_equal(plan.shape.group, 48);
	q.alpha = 7;
	assert_int_equal(dropout_plan_make(&m.target, &q, &plan, &reason), -EINVAL);
	assert_non_null(strstr(reason.text, "alpha 7 does not divide"));
}

/* All zero, or a single number in a row: nothing to divide by. */
static void test_degenerate(void **state)
{
	_cleanup_(matrix_done) struct matrix m = matrix_new(4, 16);

	(void)state;
	memset(m.delta, 0, 4 * 16 * sizeof(*m.delta));
	memset(m.product, 0, 4 * 16 * sizeof(*m.product));
	for (size_t i = 0; i < array_len(hows); i++) {
		double left;
		float values[16];
		_cleanup_(dropout_codes_done) struct dropout_codes d =
			fit(&m, (struct dropout_shape){4, 16, 4, 1, 2}, &hows[i], &left);

		assert_true(left == 0);
		dropout_codes_values(&d, 3, values);
		for (size_t c = 0; c < 16; c++)
			assert_true(values[c] == 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mean),
		cmocka_unit_test(test_variance),
		cmocka_unit_test(test_left_of_masks),
		cmocka_unit_test(test_left),
		cmocka_unit_test(test_same_as_fake_quantisation),
		cmocka_unit_test(test_nearest_levels),
		cmocka_unit_test(test_best_factor),
		cmocka_unit_test(test_separate_parts),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_plan_by_bytes),
		cmocka_unit_test(test_plan_as_asked),
		cmocka_unit_test(test_degenerate),
	};

	return cmocka_run_group_tests(tests, compute_start, compute_stop);
}

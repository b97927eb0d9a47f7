/*
 * Products with matrices of integers, and the rounding of their inputs. The contract fixes every
 * bit, so what is expected is computed here from the codes as they were before packing: sums in 64
 * bits, then the chain of the contract, which in turn is held against a sum in double.
 */
#include "tests/kernels/sets.h"

#include "kernels/convert.h"
#include "kernels/pack.h"

enum kind {
	KIND_RANDOM,
	KIND_LOW,  /* all codes 0 and all inputs 127, on the grids where sums are largest */
	KIND_HIGH, /* all codes the largest and all inputs -127, likewise */
	N_KINDS,
};

struct problem {
	uint32_t rows, cols, bits;
	enum kind kind;
	size_t n_groups;
	uint8_t *codes;   /* rows x groups x 128 */
	int (*grids)[2];  /* rows x groups x 8: step and offset */
	uint16_t *scales; /* as they are packed for 8 bits */
	uint8_t *packed, *packed_grids;
	struct mat_int w;
};

static uint8_t code_of(const struct problem *p, uint32_t col)
{
	uint8_t largest = (uint8_t)((1u << p->bits) - 1);

	if (col >= p->cols)
		return (uint8_t)(1u << (p->bits - 1));
	if (p->kind == KIND_RANDOM)
		return (uint8_t)(random_u32() & largest);
	return p->kind == KIND_LOW ? 0 : largest;
}

/* Which step, and which zero, as types.h has them. The steps and the zeros of sub-groups that
 * follow one another are all that there are. */
static void grid_of(const struct problem *p, size_t number, int *step, int *zero)
{
	*step = *zero = 0;
	if (p->bits == 8)
		return;
	*step = p->kind == KIND_RANDOM ? (int)(number % 8) : 7;
	*zero = p->kind == KIND_RANDOM ? (int)(number / 8 % 8) : p->kind == KIND_LOW ? 7 : 0;
}

static void grids_fill(struct problem *p, uint32_t row, size_t group)
{
	static const int steps[] = {5, 6, 7, 8, 9, 10, 11, 13};
	size_t lane = (row / 16 * p->n_groups + group) * 16 + row % 16;

	for (size_t s = 0; s < 8; s++) {
		size_t number = (row * p->n_groups + group) * 8 + s;
		size_t place = lane / 16 * 128 + s / 4 * 64 + lane % 16 * 4 + s % 4;
		int step, zero;

		grid_of(p, number + number / 64, &step, &zero);
		p->grids[number][0] = p->bits == 8 ? 1 : steps[step];
		p->grids[number][1] =
			p->bits == 8 ? 128 : (int)floor(steps[step] * (5.75 + zero * 0.5) + 0.5);
		if (p->bits == 4)
			p->packed_grids[place] =
				(uint8_t)(step | zero << 3 | (p->scales[lane] >> 2 * s & 3) << 6);
	}
}

static void group_fill(struct problem *p, uint32_t row, size_t group)
{
	uint8_t *codes = p->codes + (row * p->n_groups + group) * MAT_INT_GROUP;
	size_t lane = (row / 16 * p->n_groups + group) * 16 + row % 16;

	for (uint32_t i = 0; i < MAT_INT_GROUP; i++)
		codes[i] = code_of(p, (uint32_t)group * MAT_INT_GROUP + i);
	p->scales[lane] = bf16_from_f32(p->kind == KIND_RANDOM ? random_f32() : 0.01f);
	grids_fill(p, row, group);
	mat_int_group_pack(p->packed, &p->w, row, group, codes);
}

static void *lines_new(size_t bytes)
{
	void *lines = aligned_alloc(64, (bytes + 64) & ~(size_t)63);

	assert_non_null(lines);
	memset(lines, 0, (bytes + 64) & ~(size_t)63);
	return lines;
}

static struct problem problem_new(uint32_t rows, uint32_t cols, uint32_t bits, enum kind kind)
{
	struct problem p = {.rows = rows, .cols = cols, .bits = bits, .kind = kind};
	size_t n_scales = mat_int_n_scales(rows, cols), n;

	p.n_groups = (cols + 127) / 128;
	n = rows * p.n_groups;
	assert_int_equal(n_scales, (rows + 15) / 16 * 16 * p.n_groups);
	assert_int_equal(mat_int_codes_bytes(rows, cols, bits), n_scales * bits * 16);
	assert_int_equal(mat_int_grids_bytes(rows, cols), n_scales * 8);
	p.codes = numbers_new(n * MAT_INT_GROUP, 1);
	p.grids = numbers_new(n * 8, sizeof(*p.grids));
	p.packed = lines_new(n_scales * bits * 16);
	p.scales = lines_new(n_scales * sizeof(*p.scales));
	p.packed_grids = lines_new(n_scales * 8);
	p.w = (struct mat_int){p.packed, bits == 8 ? p.scales : NULL,
		bits == 4 ? p.packed_grids : NULL, rows, cols, bits};
	for (uint32_t r = 0; r < rows; r++)
		for (size_t g = 0; g < p.n_groups; g++)
			group_fill(&p, r, g);
	return p;
}

static void problem_done(struct problem *p)
{
	free(p->codes);
	free(p->grids);
	free(p->packed);
	free(p->scales);
	free(p->packed_grids);
}

static int number_at(const struct problem *p, uint32_t row, uint32_t col)
{
	size_t group = row * p->n_groups + col / 128;
	const int *grid = p->grids[group * 8 + col % 128 / 16];

	return grid[0] * p->codes[group * MAT_INT_GROUP + col % 128] - grid[1];
}

static float scale_at(const struct problem *p, uint32_t row, size_t group)
{
	return bf16_to_f32(p->scales[(row / 16 * p->n_groups + group) * 16 + row % 16]);
}

/* Where types.h says that a code stands. */
static void check_places(const struct problem *p)
{
	for (uint32_t r = 0; r < p->rows; r++)
		for (uint32_t c = 0; c < p->cols; c++) {
			size_t group = r / 16 * p->n_groups + c / 128, quad = c % 128 / 4;
			size_t line = p->bits == 8 ? group * 32 + quad : group * 16 + quad % 16;
			uint8_t byte = p->packed[line * 64 + r % 16 * 4 + c % 4];

			if (p->bits == 4)
				byte = quad < 16 ? byte & 15 : byte >> 4;
			else
				byte = (uint8_t)(byte + 128);
			assert_int_equal(
				byte, p->codes[(r * p->n_groups + c / 128) * 128 + c % 128]);
		}
}

static void check_values(const struct problem *p)
{
	_cleanup_(freep) float *row = numbers_new(p->cols, sizeof(*row));

	for (uint32_t r = 0; r < p->rows; r++) {
		mat_int_row_values(row, &p->w, r);
		for (uint32_t c = 0; c < p->cols; c++)
			assert_true((double)row[c] ==
				    (double)scale_at(p, r, c / 128) * number_at(p, r, c));
	}
}

/* As the functions that write and read them have it. */
static void check_grids(const struct problem *p)
{
	uint8_t *packed = lines_new(mat_int_grids_bytes(p->rows, p->cols)), grids[8];

	for (uint32_t r = 0; p->bits == 4 && r < p->rows; r++)
		for (size_t g = 0; g < p->n_groups; g++) {
			for (size_t s = 0; s < 8; s++) {
				const int *grid = p->grids[(r * p->n_groups + g) * 8 + s];

				grids[s] = mat_int_grid(&p->w, r, g, s);
				assert_int_equal(mat_int_step(grids[s]), grid[0]);
				assert_int_equal(mat_int_offset(grids[s]), grid[1]);
				assert_in_range(15 * grid[0] - grid[1], 0, 127);
				assert_in_range(grid[1], 0, 127);
			}
			mat_int_grids_pack(packed, &p->w, r, g, grids,
				bf16_from_f32(mat_int_scale(&p->w, r, g)));
		}
	if (p->bits == 4)
		assert_memory_equal(packed, p->packed_grids, mat_int_grids_bytes(p->rows, p->cols));
	free(packed);
}

/* Some scales that are not numbers, next to some that are the largest. */
static void check_finite(struct problem *p)
{
	static const uint16_t scales[] = {0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc1, 0xffff};
	uint8_t grids[8] = {63, 63, 63, 63, 63, 63, 63, 63};
	uint32_t row = p->rows - 1;
	size_t group = p->n_groups - 1, lane = mat_int_lane(&p->w, row, group);

	assert_int_equal(mat_int_finite_scales(&p->w), mat_int_n_scales(p->rows, p->cols));
	for (size_t i = 0; i < array_len(scales); i++) {
		p->scales[lane] = scales[i];
		mat_int_grids_pack(p->packed_grids, &p->w, row, group, grids, scales[i]);
		assert_int_equal(mat_int_finite_scales(&p->w),
			i < 2 ? mat_int_n_scales(p->rows, p->cols) : lane);
	}
}

static void test_layout(void **unused)
{
	static const uint32_t sizes[] = {1, 15, 16, 17, 127, 128, 129, 300};

	(void)unused;
	for (size_t i = 0; i < array_len(sizes); i++)
		for (size_t j = 0; j < array_len(sizes); j++)
			for (uint32_t bits = 4; bits <= 8; bits += 4) {
				struct problem p =
					problem_new(sizes[i], sizes[j], bits, KIND_RANDOM);

				check_places(&p);
				check_values(&p);
				check_grids(&p);
				check_finite(&p);
				problem_done(&p);
			}
}

static void check_rounded(
	const struct kernels *k, const float *x, uint32_t n_x, const struct act_group *got)
{
	float largest = 0;
	int16_t sums[8] = {0};

	for (uint32_t i = 0; i < n_x; i++)
		largest = fmaxf(largest, fabsf(x[i]));
	if (largest < 0x1p-100f)
		largest = 0;
	assert_true(same_bits(got->scale, largest / 127));
	for (uint32_t i = 0; i < 128; i++) {
		float exact = i < n_x && largest > 0 ? x[i] * (127 / largest) : 0;

		if (got->codes[i] != (int)nearbyintf(exact))
			fail_msg("%s: input %u is %.9g of %.9g, its code %d", k->name, i,
				(double)(i < n_x ? x[i] : 0), (double)largest, got->codes[i]);
		sums[i / 16] = (int16_t)(sums[i / 16] + got->codes[i]);
	}
	assert_memory_equal(sums, got->sums, sizeof(sums));
}

/* The inputs of row t, whose sizes differ from group to group. */
static void row_fill(float *x, uint32_t cols, size_t t, enum kind kind)
{
	for (uint32_t c = 0; c < cols; c++)
		if (kind == KIND_RANDOM)
			x[c] = random_f32() * ldexpf(1, (int)((c / 128 * 7 + t * 3) % 40) - 20);
		else
			x[c] = kind == KIND_LOW ? 1 : -1;
}

/* Rows of a larger batch, of which a product is given n from row FIRST on. */
#define FIRST 1
#define MORE 3

/* What a product must not take: it would be seen in its outputs. */
static void poison(struct act_group *ret, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		memset(ret[i].codes, 127, sizeof(ret[i].codes));
		ret[i].scale = NAN;
	}
}

static struct act_group *rounded_new(
	const struct kernels *k, const float *x, size_t x_stride, size_t n, uint32_t cols)
{
	size_t n_groups = (cols + 127) / 128, stride = n + MORE;
	struct act_group *ret = lines_new(stride * n_groups * sizeof(*ret));

	poison(ret, stride * n_groups);
	k->act_round(ret + FIRST, stride, x, x_stride, n, cols);
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < n_groups; g++) {
			uint32_t left = cols - (uint32_t)g * 128;

			check_rounded(k, x + t * x_stride + g * 128, left < 128 ? left : 128,
				&ret[g * stride + FIRST + t]);
		}
	return ret;
}

static void check_output(const struct kernels *k, const struct problem *p, uint32_t row,
	const struct act_group *x, size_t x_stride, float got)
{
	double sum = 0, size = 0;
	float chain = 0;

	for (size_t g = 0; g < p->n_groups; g++, x += x_stride) {
		double scale = (double)x->scale * (double)scale_at(p, row, g);
		int64_t exact = 0;

		for (uint32_t i = 0; i < 128; i++)
			exact += number_at(p, row, (uint32_t)g * 128 + i) * x->codes[i];
		chain = fmaf((float)exact, x->scale * scale_at(p, row, g), chain);
		sum += (double)exact * scale;
		size += fabs((double)exact * scale);
	}
	if (!same_bits(got, chain))
		fail_msg("%s: %u x %u of %u bits, output %u is %a, expected %a", k->name, p->rows,
			p->cols, p->bits, row, (double)got, (double)chain);
	expect_near(
		k->name, got, sum, (double)(p->n_groups + 8) * ROUNDING * size, "output %u", row);
}

static void check_batch(const struct kernels *k, const struct problem *p, size_t n)
{
	const size_t x_stride = p->cols + 3, y_stride = p->rows + 5, blocks = (p->rows + 15) / 16;
	const size_t stride = n + MORE;
	_cleanup_(freep) float *x = numbers_new(n * x_stride + 1, sizeof(*x));
	_cleanup_(freep) struct act_group *rounded = NULL;
	struct guarded y = guarded_new(n * y_stride);

	for (size_t t = 0; t < n; t++)
		row_fill(x + 1 + t * x_stride, p->cols, t, p->kind);
	rounded = rounded_new(k, x + 1, x_stride, n, p->cols);
	/* In two calls, the end first. */
	k->matmul_int(
		guarded_at(&y), y_stride, &p->w, rounded + FIRST, stride, n, blocks / 3, blocks);
	for (size_t t = 0; t < n; t++)
		for (uint32_t o = 0; o < blocks / 3 * 16; o++)
			assert_true(is_untouched(guarded_at(&y) + t * y_stride + o));
	k->matmul_int(guarded_at(&y), y_stride, &p->w, rounded + FIRST, stride, n, 0, blocks / 3);
	guarded_check(&y);
	for (size_t t = 0; t < n; t++) {
		for (uint32_t o = 0; o < p->rows; o++)
			check_output(k, p, o, rounded + FIRST + t, stride,
				guarded_at(&y)[t * y_stride + o]);
		for (size_t o = p->rows; o < y_stride; o++)
			assert_true(is_untouched(guarded_at(&y) + t * y_stride + o));
	}
	guarded_done(&y);
}

static void check_products(const struct kernels *k)
{
	static const uint32_t rows[] = {1, 16, 17, 48, 63, 83}, cols[] = {1, 31, 128, 129, 400};
	static const size_t batches[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 33};

	for (size_t i = 0; i < array_len(rows); i++)
		for (size_t j = 0; j < array_len(cols); j++)
			for (uint32_t bits = 4; bits <= 8; bits += 4) {
				struct problem p = problem_new(rows[i], cols[j], bits, KIND_RANDOM);

				for (size_t b = 0; b < array_len(batches); b++)
					check_batch(k, &p, batches[b]);
				problem_done(&p);
			}
}

static void test_products(void **unused)
{
	(void)unused;
	for_each_set(check_products);
}

/* More rows and inputs than a kernel takes at once. */
static void check_large(const struct kernels *k)
{
	static const size_t batches[] = {31, 48, 127, 128, 129, 300};

	for (uint32_t bits = 4; bits <= 8; bits += 4) {
		struct problem p = problem_new(99, 4300, bits, KIND_RANDOM);

		for (size_t b = 0; b < array_len(batches); b++)
			check_batch(k, &p, batches[b]);
		problem_done(&p);
	}
}

static void test_large(void **unused)
{
	(void)unused;
	for_each_set(check_large);
}

static void check_extremes(const struct kernels *k)
{
	static const size_t batches[] = {1, 2, 8, 17};

	for (enum kind kind = KIND_LOW; kind < N_KINDS; kind++)
		for (uint32_t bits = 4; bits <= 8; bits += 4) {
			struct problem p = problem_new(35, 1100, bits, kind);

			for (size_t b = 0; b < array_len(batches); b++)
				check_batch(k, &p, batches[b]);
			problem_done(&p);
		}
}

static void test_extremes(void **unused)
{
	(void)unused;
	for_each_set(check_extremes);
}

/* Ties to even, nothing, next to nothing, and numbers that are none. */
static void check_odd_inputs(const struct kernels *k)
{
	struct act_group *got = lines_new(sizeof(*got));
	float x[128] = {127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -126.5f};

	k->act_round(got, 1, x, 128, 1, 128);
	check_rounded(k, x, 128, got);
	assert_int_equal(got->codes[1], 0);
	assert_int_equal(got->codes[2], 2);
	assert_int_equal(got->codes[7], -126);
	memset(x, 0, sizeof(x));
	for (int i = 0; i < 2; i++, x[3] = 0x1p-101f) {
		k->act_round(got, 1, x, 128, 1, 128);
		check_rounded(k, x, 128, got);
	}
	x[3] = 0x1p-100f;
	k->act_round(got, 1, x, 128, 1, 128);
	assert_int_equal(got->codes[3], 127);
	x[5] = INFINITY;
	k->act_round(got, 1, x, 128, 1, 128);
	assert_true(isinf(got->scale));
	x[90] = -NAN;
	k->act_round(got, 1, x, 128, 1, 128);
	assert_true(isnan(got->scale));
	free(got);
}

static void test_odd_inputs(void **unused)
{
	(void)unused;
	for_each_set(check_odd_inputs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_products),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_odd_inputs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

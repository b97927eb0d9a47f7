/*
 * Rounded inputs by matrices of integers. vpmaddubsw multiplies unsigned numbers by signed ones,
 * adds two products in 16 bits and saturates:
 *
 *   8 bits   |code| is at most 128 and goes with the input that has its sign, so that two
 *            products are at most 2 * 128 * 127
 *   4 bits   the codes are taken as they are, at most 15, and the products of a sub-group are added
 *            up in 16 bits, where 8 of them are at most 8 * 15 * 127; vpmaddwd multiplies that by
 *            the step. What the offsets take away it makes of the sums of the inputs.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/convert.h"
#include "kernels/matmul_int.h"

#include <string.h>

#define MAX_ROWS_8 4         /* what the registers hold sums of */
#define PASS_ROWS 24         /* whose inputs stay in a second cache of 512 KiB */
#define MAX_ROWS_4 PASS_ROWS /* whose sums are in memory */
#define LINES_8 32           /* of a group */
#define LINES_4 16
#define SUBGROUP_LINES 4 /* of 4 bits, in one half of each byte */
#define SIDES 2          /* a line is 8 outputs and 8 more */
#define SIDE_BYTES (MAT_INT_LINE / SIDES)

static always_inline_ __m256i quad(const struct act_group *x, int line)
{
	int32_t codes;

	memcpy(&codes, x->codes + 4 * line, sizeof(codes));
	return _mm256_set1_epi32(codes);
}

/* 8 numbers of bf16. */
static always_inline_ __m256 lanes_bf16(const uint16_t *at)
{
	__m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));

	return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

static always_inline_ __m256i side_of(const uint8_t *codes, int line)
{
	return _mm256_load_si256((const __m256i *)(const void *)(codes + line * MAT_INT_LINE));
}

/* Two sums of two 16-bit numbers each are added to a lane. */
static always_inline_ __m256i pairs_add(__m256i sum, __m256i pairs)
{
	return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* The sums of a group of 8 bits for one side of its lines; the first asks for the lines
 * that lie ahead. */
static always_inline_ void side_sums_8(const uint8_t *codes, const uint8_t *ahead, int side,
	const struct act_group *x, __m256i sums[MAX_ROWS_8], int rows)
{
#pragma GCC unroll 4
	for (int r = 0; r < rows; r++)
		sums[r] = _mm256_setzero_si256();
#pragma GCC unroll 4
	for (int line = 0; line < LINES_8; line++) {
		__m256i w = side_of(codes, line);
		__m256i size = _mm256_abs_epi8(w);

		if (side == 0)
			_mm_prefetch((const char *)ahead + line * MAT_INT_LINE, _MM_HINT_T0);
#pragma GCC unroll 4
		for (int r = 0; r < rows; r++)
			sums[r] = pairs_add(sums[r],
				_mm256_maddubs_epi16(size, _mm256_sign_epi8(quad(&x[r], line), w)));
	}
}

/* What the grids of one side of a group's lines say. */
struct grids {
	__m256i steps[2];     /* those of four sub-groups in the bytes of a lane */
	__m256i negatives[4]; /* of two, what is as much below zero as their offsets are above, in
				 its words */
};

/* From the bytes of each lane to its words: which byte goes to the lower, and to the upper one. */
static always_inline_ __m256i lanes_spread(__m256i bytes, int lower, int upper)
{
	const int words = lower | 0x80 << 8 | upper << 16;
	const __m256i from =
		_mm256_or_si256(_mm256_set1_epi32((int)(0x80000000 | (unsigned int)words)),
			_mm256_setr_epi32(
				0, 0x040004, 0x080008, 0x0c000c, 0, 0x040004, 0x080008, 0x0c000c));

	return _mm256_shuffle_epi8(bytes, from);
}

/* offset = (step * quarters + 2) / 4, and that of a negative number rounds upwards. */
static always_inline_ struct grids grids_of(const uint8_t *lines)
{
	const __m256i table =
		_mm256_setr_epi8(MAT_INT_STEPS, MAT_INT_STEPS, MAT_INT_STEPS, MAT_INT_STEPS);
	struct grids ret;

#pragma GCC unroll 2
	for (int i = 0; i < 2; i++) {
		__m256i line = side_of(lines, i), quarters;

		ret.steps[i] =
			_mm256_shuffle_epi8(table, _mm256_and_si256(line, _mm256_set1_epi8(7)));
		quarters = _mm256_add_epi8(_mm256_set1_epi8(MAT_INT_LEAST_ZERO),
			_mm256_and_si256(_mm256_srli_epi16(line, 2), _mm256_set1_epi8(14)));
#pragma GCC unroll 2
		for (int pair = 0; pair < 2; pair++) {
			int lower = 2 * pair, upper = lower + 1;
			__m256i fours = _mm256_mullo_epi16(lanes_spread(ret.steps[i], lower, upper),
				lanes_spread(quarters, lower, upper));

			ret.negatives[2 * i + pair] =
				_mm256_srai_epi16(_mm256_sub_epi16(_mm256_set1_epi16(1), fours), 2);
		}
	}
	return ret;
}

/* The scales: two bits at the top of each byte, which come together 64 times as large. */
static always_inline_ __m256 grids_scale(const uint8_t *lines)
{
	const __m256i top = _mm256_set1_epi8((char)0xc0), places = _mm256_set1_epi32(0x40100401);
	__m256i low = _mm256_maddubs_epi16(_mm256_and_si256(side_of(lines, 0), top), places);
	__m256i high = _mm256_maddubs_epi16(_mm256_and_si256(side_of(lines, 1), top), places);
	__m256i sum = _mm256_add_epi32(_mm256_madd_epi16(low, _mm256_set1_epi16(1)),
		_mm256_madd_epi16(high, _mm256_set1_epi16(256)));

	return _mm256_castsi256_ps(_mm256_slli_epi32(sum, 16 - 6));
}

/* What the offsets take away for a row. */
static always_inline_ __m256i negatives_sum(const struct grids *g, const struct act_group *x)
{
	__m256i sum = _mm256_setzero_si256();

#pragma GCC unroll 4
	for (int i = 0; i < MAT_INT_SUBGROUPS / 2; i++) {
		int32_t two;

		memcpy(&two, x->sums + 2 * i, sizeof(two));
		sum = _mm256_add_epi32(
			sum, _mm256_madd_epi16(g->negatives[i], _mm256_set1_epi32(two)));
	}
	return sum;
}

/* The codes of one side of a line that belong to a sub-group. */
static always_inline_ __m256i half_codes(const uint8_t *codes, int line, int upper)
{
	__m256i w = side_of(codes, line);

	return _mm256_and_si256(upper ? _mm256_srli_epi16(w, 4) : w, _mm256_set1_epi8(0x0f));
}

/* A sub-group of a block. */
struct subgroup {
	__m256i codes[SIDES][SUBGROUP_LINES];
	__m256i steps[SIDES]; /* in both words of a lane */
};

/* Sub-groups 0 to 3 are the lower halves of the lines, 4 to 7 the upper ones. */
static always_inline_ struct subgroup subgroup_of(
	const uint8_t *codes, const struct grids g[SIDES], int number)
{
	struct subgroup ret;

#pragma GCC unroll 2
	for (int side = 0; side < SIDES; side++) {
		ret.steps[side] = lanes_spread(g[side].steps[number / 4], number % 4, number % 4);
#pragma GCC unroll 4
		for (int i = 0; i < SUBGROUP_LINES; i++)
			ret.codes[side][i] = half_codes(codes + side * SIDE_BYTES,
				number % 4 * SUBGROUP_LINES + i, number / 4);
	}
	return ret;
}

/* What a sub-group adds for a row. */
static always_inline_ void subgroup_add(
	__m256i sums[SIDES], const struct subgroup *w, const struct act_group *x, int number)
{
	__m256i pairs[SIDES];

#pragma GCC unroll 4
	for (int i = 0; i < SUBGROUP_LINES; i++) {
		__m256i four = quad(x, number * SUBGROUP_LINES + i);

#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++) {
			__m256i products = _mm256_maddubs_epi16(w->codes[side][i], four);

			pairs[side] = i == 0 ? products : _mm256_add_epi16(pairs[side], products);
		}
	}
#pragma GCC unroll 2
	for (int side = 0; side < SIDES; side++)
		sums[side] = _mm256_add_epi32(
			sums[side], _mm256_madd_epi16(pairs[side], w->steps[side]));
}

/* The sums of a group of 4 bits. They stay in memory, since registers are full of codes. */
static always_inline_ void group_sums_4(const uint8_t *codes, const uint8_t *ahead,
	const struct grids g[SIDES], const struct act_group *x, __m256i (*sums)[SIDES], size_t rows)
{
	for (size_t r = 0; r < rows; r++)
		for (int side = 0; side < SIDES; side++)
			sums[r][side] = negatives_sum(&g[side], &x[r]);
#pragma GCC unroll 8
	for (int number = 0; number < MAT_INT_SUBGROUPS; number++) {
		struct subgroup w;

		/* Or lines that were read are kept in memory for their upper halves. */
		if (rows > 1)
			__asm__ volatile("" : "+r"(codes)::"memory");
		w = subgroup_of(codes, g, number);
		for (int i = 0; i < LINES_4 / MAT_INT_SUBGROUPS; i++)
			_mm_prefetch(
				(const char *)ahead + (2 * number + i) * MAT_INT_LINE, _MM_HINT_T0);
		for (size_t r = 0; r < rows; r++)
			subgroup_add(sums[r], &w, &x[r], number);
	}
}

static always_inline_ void y_store(const struct int_tile *t, const __m256 (*y)[SIDES], size_t rows)
{
#pragma GCC unroll 4
	for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++)
			_mm256_maskstore_ps(t->y + r * t->y_stride + side * 8,
				lanes_of_vector((size_t)side, t->n_last), y[r][side]);
}

/* y = fma(sum, x scale * W scale, y), of one side. */
static always_inline_ void y_add(__m256 *y, __m256i sum, __m256 scale, const struct act_group *x)
{
	*y = _mm256_fmadd_ps(
		_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scale, _mm256_set1_ps(x->scale)), *y);
}

/* `rows` is a constant in each instance below. */
static always_inline_ void tile_compute_8(const struct int_tile *shared, int rows)
{
	const struct int_tile t = *shared;
	__m256 y[MAX_ROWS_8][SIDES];

#pragma GCC unroll 4
	for (int r = 0; r < rows; r++)
		y[r][0] = y[r][1] = _mm256_setzero_ps();
	for (size_t g = 0; g < t.n_groups; g++) {
		const struct act_group *x = t.x + g * t.x_stride;
		const uint8_t *ahead = int_codes_ahead(&t, g, 0, 8);
		size_t index = t.block * t.n_groups + g;
		const uint8_t *codes = t.w->codes + index * mat_int_group_bytes(8);

#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++) {
			__m256 scale = lanes_bf16(t.w->scales + index * MAT_BLOCK + side * 8);
			__m256i sums[MAX_ROWS_8];

			side_sums_8(codes + side * SIDE_BYTES, ahead, side, x, sums, rows);
#pragma GCC unroll 4
			for (int r = 0; r < rows; r++)
				y_add(&y[r][side], sums[r], scale, &x[r]);
		}
	}
	y_store(&t, y, (size_t)rows);
}

/* Codes of a sub-group stay in registers while all rows of a pass meet them. */
static always_inline_ void tile_compute_4(const struct int_tile *shared, size_t rows)
{
	const struct int_tile t = *shared;
	__m256 y[MAX_ROWS_4][SIDES];

	for (size_t r = 0; r < rows; r++)
		y[r][0] = y[r][1] = _mm256_setzero_ps();
	for (size_t group = 0; group < t.n_groups; group++) {
		const struct act_group *x = t.x + group * t.x_stride;
		size_t index = t.block * t.n_groups + group;
		const uint8_t *grids = t.w->grids + index * MAT_INT_GRIDS;
		const struct grids g[SIDES] = {grids_of(grids), grids_of(grids + SIDE_BYTES)};
		__m256 scales[SIDES];
		__m256i sums[MAX_ROWS_4][SIDES];

		group_sums_4(t.w->codes + index * mat_int_group_bytes(4),
			int_codes_ahead(&t, group, 0, 4), g, x, sums, rows);
		scales[0] = grids_scale(grids);
		scales[1] = grids_scale(grids + SIDE_BYTES);
		for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
			for (int side = 0; side < SIDES; side++)
				y_add(&y[r][side], sums[r][side], scales[side], &x[r]);
	}
	y_store(&t, y, rows);
}

#define TILE(rows)                                                                                 \
	static void tile_##rows##_of_8(const struct int_tile *t)                                   \
	{                                                                                          \
		tile_compute_8(t, rows);                                                           \
	}
TILE(1)
TILE(2)
TILE(3)
TILE(4)

static void tile_1_of_4(const struct int_tile *t)
{
	tile_compute_4(t, 1);
}

/* Two rows or more. */
static void tile_of_4(const struct int_tile *t)
{
	if (t->rows < 2)
		__builtin_unreachable();
	tile_compute_4(t, t->rows);
}

/* By rows - 1; one block is all that the registers hold. */
static const struct int_shape shapes_8[MAX_ROWS_8] = {
	{1, NULL, tile_1_of_8},
	{1, NULL, tile_2_of_8},
	{1, NULL, tile_3_of_8},
	{1, NULL, tile_4_of_8},
};

static const struct int_shape shapes_4[MAX_ROWS_4] = {
	{1, NULL, tile_1_of_4},
	[1 ... MAX_ROWS_4 - 1] = {1, NULL, tile_of_4},
};

void avx2_matmul_int(float *y, size_t y_stride, const struct mat_int *w, const struct act_group *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	const struct int_set set_8 = {MAX_ROWS_8, PASS_ROWS, shapes_8};
	const struct int_set set_4 = {MAX_ROWS_4, PASS_ROWS, shapes_4};
	const struct int_product p = {
		.w = w,
		.x = x,
		.x_stride = x_stride,
		.y = y,
		.y_stride = y_stride,
		.n = n,
	};

	int_product_by_tiles(&p, w->bits == 4 ? &set_4 : &set_8, block0, block1);
}

#define VECTORS (MAT_INT_GROUP / 8)

/* By their bits, so that a NaN is larger than any number. */
static always_inline_ float largest_of(const __m256 x[static VECTORS])
{
	const __m256i size = _mm256_set1_epi32(0x7fffffff);
	__m256i largest = _mm256_setzero_si256();
	uint32_t lanes[8], most = 0;

	for (int i = 0; i < VECTORS; i++)
		largest = _mm256_max_epu32(
			largest, _mm256_and_si256(_mm256_castps_si256(x[i]), size));
	_mm256_storeu_si256((__m256i *)(void *)lanes, largest);
	for (int i = 0; i < 8; i++)
		most = lanes[i] > most ? lanes[i] : most;
	return f32_from_bits(most);
}

/* 32 codes; the sums of two sub-groups, each in parts that stand in four lanes of a half. */
static always_inline_ __m256i round_32(int8_t ret[32], const __m256 x[static 4], __m256 inverse)
{
	__m256i codes[4], words[2], bytes;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
	words[0] = _mm256_packs_epi32(codes[0], codes[1]);
	words[1] = _mm256_packs_epi32(codes[2], codes[3]);
	bytes = _mm256_packs_epi16(words[0], words[1]);
	bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
	_mm256_storeu_si256((__m256i *)(void *)ret, bytes);
	return _mm256_hadd_epi16(words[0], words[1]);
}

static void round_group(struct act_group *ret, const __m256 x[static VECTORS])
{
	float largest = largest_of(x);
	__m256i sums[4], all;

	if (largest < 0x1p-100f) {
		*ret = (struct act_group){.scale = 0};
		return;
	}
	ret->scale = largest / 127;
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		sums[i] = round_32(ret->codes + 32 * i, x + 4 * i, _mm256_set1_ps(127 / largest));
	all = _mm256_hadd_epi16(
		_mm256_hadd_epi16(sums[0], sums[1]), _mm256_hadd_epi16(sums[2], sums[3]));
	_mm_storeu_si128((__m128i *)(void *)ret->sums,
		_mm_add_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}

void avx2_act_round(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
	size_t n, uint32_t cols)
{
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < mat_int_groups(cols); g++) {
			const float *from = x + t * x_stride + g * MAT_INT_GROUP;
			__m256 vectors[VECTORS];

			for (size_t i = 0; i < VECTORS; i++)
				vectors[i] = _mm256_maskload_ps(
					from + 8 * i, lanes_of_vector(i, cols - g * MAT_INT_GROUP));
			round_group(&ret[g * ret_stride + t], vectors);
		}
}

/*
 * Rounded inputs by matrices of integers. vpmaddubsw multiplies unsigned numbers by signed ones,
 * adds two products in 16 bits and saturates:
 *
 *   8 bits   |code - 128| is at most 128 and goes with the input that has its sign, so that two
 *            products are at most 2 * 128 * 127
 *   4 bits   the codes are taken without their zero, at most 15, and the products of a
 *            sub-group are added up in 16 bits, where 16 of them are at most 16 * 15 * 127;
 *            vpmaddwd multiplies that by the multiplier
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/convert.h"
#include "kernels/matmul_int.h"

#include <string.h>

/* What the registers hold sums of. */
#define MAX_ROWS_8 4
#define MAX_ROWS_4 6
#define MAX_ROWS MAX_ROWS_4
#define PASS_ROWS 24     /* whose inputs stay in a second cache of 512 KiB */
#define LINES_8 32       /* of a group */
#define SUBGROUP_LINES 8 /* of 4 bits, in one half of each byte */
#define SIDES 2          /* a line is 8 outputs and 8 more */
#define SIDE_BYTES (MAT_INT_LINE / SIDES)

static always_inline_ __m256i quad(const struct act_group *x, int line)
{
	int32_t codes;

	memcpy(&codes, x->codes + 4 * line, sizeof(codes));
	return _mm256_set1_epi32(codes);
}

/* 8 halves in the lower parts of lanes. */
static always_inline_ __m256i lane_words(const uint16_t *at)
{
	return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
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
	const struct act_group *x, __m256i sums[MAX_ROWS], int rows)
{
#pragma GCC unroll 4
	for (int r = 0; r < rows; r++)
		sums[r] = _mm256_setzero_si256();
#pragma GCC unroll 4
	for (int line = 0; line < LINES_8; line++) {
		__m256i w = _mm256_xor_si256(side_of(codes, line), _mm256_set1_epi8((char)0x80));
		__m256i size = _mm256_abs_epi8(w);

		if (side == 0)
			_mm_prefetch((const char *)ahead + line * MAT_INT_LINE, _MM_HINT_T0);
#pragma GCC unroll 4
		for (int r = 0; r < rows; r++)
			sums[r] = pairs_add(sums[r],
				_mm256_maddubs_epi16(size, _mm256_sign_epi8(quad(&x[r], line), w)));
	}
}

/* From the words of a group to the multipliers of one sub-group, in both halves of each lane. */
static always_inline_ __m256i multiplier_pairs(__m256i words, int subgroup)
{
	__m256i bits = _mm256_srli_epi32(words, 4 * subgroup);
	__m256i size = _mm256_add_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(7)),
		_mm256_set1_epi32(MAT_INT_MULTIPLIER));
	/* All ones where the sign is set. */
	__m256i sign = _mm256_srai_epi32(_mm256_slli_epi32(bits, 28), 31);
	__m256i value = _mm256_sub_epi32(_mm256_xor_si256(size, sign), sign);

	return _mm256_or_si256(
		_mm256_slli_epi32(value, 16), _mm256_and_si256(value, _mm256_set1_epi32(0xffff)));
}

/* Pairs of sums of 16 bits to begin with: the zero of the codes is 8, and -8 times the sum of the
 * inputs is at most 8 * 32 * 127. A sum may leave its 16 bits on the way, but has not in the end.
 */
static always_inline_ __m256i pairs_before(const struct act_group *x, int subgroup)
{
	return _mm256_mullo_epi16(
		_mm256_set1_epi32(x->sums[subgroup]), _mm256_set1_epi32(-8 & 0xffff));
}

/* The codes of one side of a line that belong to a sub-group. */
static always_inline_ __m256i half_codes(const uint8_t *codes, int line, int upper)
{
	__m256i w = side_of(codes, line);

	return _mm256_and_si256(upper ? _mm256_srli_epi16(w, 4) : w, _mm256_set1_epi8(0x0f));
}

/* What a sub-group adds up to before its multiplier; sub-groups 0 and 1 are the lower halves of the
 * lines, 2 and 3 the upper ones, and the first two ask for the lines that lie ahead. */
static always_inline_ void subgroup_pairs(const uint8_t *codes, const uint8_t *ahead, int subgroup,
	const struct act_group *x, __m256i ret[SIDES][MAX_ROWS], int rows)
{
	const int first_line = subgroup % 2 * SUBGROUP_LINES;

#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
		ret[0][r] = ret[1][r] = pairs_before(&x[r], subgroup);
	for (int i = 0; i < SUBGROUP_LINES; i++) {
		int line = first_line + i;
		__m256i first = half_codes(codes, line, subgroup / 2);
		__m256i second = half_codes(codes + SIDE_BYTES, line, subgroup / 2);

		if (subgroup < 2)
			_mm_prefetch((const char *)ahead + line * MAT_INT_LINE, _MM_HINT_T0);
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) {
			__m256i four = quad(&x[r], subgroup * SUBGROUP_LINES + i);

			lanes_add_words(&ret[0][r], _mm256_maddubs_epi16(first, four));
			lanes_add_words(&ret[1][r], _mm256_maddubs_epi16(second, four));
		}
	}
}

/* The sums of a group of 4 bits. */
static always_inline_ void group_sums_4(const uint8_t *codes, const uint8_t *ahead,
	const uint16_t *multipliers, const struct act_group *x, __m256i sums[SIDES][MAX_ROWS],
	int rows)
{
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
		sums[0][r] = sums[1][r] = _mm256_setzero_si256();
#pragma GCC unroll 4
	for (int subgroup = 0; subgroup < MAT_INT_SUBGROUPS; subgroup++) {
		__m256i pairs[SIDES][MAX_ROWS];

		subgroup_pairs(codes, ahead, subgroup, x, pairs, rows);
#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++) {
			__m256i m = multiplier_pairs(lane_words(multipliers + side * 8), subgroup);

#pragma GCC unroll 8
			for (int r = 0; r < rows; r++)
				sums[side][r] = _mm256_add_epi32(
					sums[side][r], _mm256_madd_epi16(pairs[side][r], m));
		}
	}
}

static always_inline_ void y_store(const struct int_tile *t, __m256 y[MAX_ROWS][SIDES], int rows)
{
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++)
			_mm256_maskstore_ps(t->y + (size_t)r * t->y_stride + side * 8,
				lanes_of_vector((size_t)side, t->n_last), y[r][side]);
}

/* `rows` and `bits` are constants in each instance below. */
static always_inline_ void tile_compute(const struct int_tile *shared, int rows, int bits)
{
	const struct int_tile t = *shared;
	__m256 y[MAX_ROWS][SIDES];

#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
		y[r][0] = y[r][1] = _mm256_setzero_ps();
	for (size_t g = 0; g < t.n_groups; g++) {
		const struct act_group *x = t.x + g * t.x_stride;
		const uint8_t *ahead = int_codes_ahead(&t, g, 0, (uint32_t)bits);
		size_t index = t.block * t.n_groups + g, lane = index * MAT_BLOCK;
		const uint8_t *codes = t.w->codes + index * mat_int_group_bytes((uint32_t)bits);
		__m256i sums[SIDES][MAX_ROWS];

		if (bits == 4)
			group_sums_4(codes, ahead, t.w->multipliers + lane, x, sums, rows);
#pragma GCC unroll 2
		for (int side = 0; side < SIDES; side++) {
			__m256 scale = _mm256_castsi256_ps(
				_mm256_slli_epi32(lane_words(t.w->scales + lane + side * 8), 16));

			if (bits == 8)
				side_sums_8(codes + side * SIDE_BYTES, ahead, side, x, sums[side],
					rows);
#pragma GCC unroll 8
			for (int r = 0; r < rows; r++)
				y[r][side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[side][r]),
					_mm256_mul_ps(scale, _mm256_set1_ps(x[r].scale)),
					y[r][side]);
		}
	}
	y_store(&t, y, rows);
}

#define TILE(rows, bits)                                                                           \
	static void tile_##rows##_of_##bits(const struct int_tile *t)                              \
	{                                                                                          \
		tile_compute(t, rows, bits);                                                       \
	}
TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 8)
TILE(1, 4)
TILE(2, 4)
TILE(3, 4)
TILE(4, 4)
TILE(5, 4)
TILE(6, 4)

/* By rows - 1; one block is all that the registers hold. */
static const struct int_shape shapes_8[MAX_ROWS_8] = {
	{1, NULL, tile_1_of_8},
	{1, NULL, tile_2_of_8},
	{1, NULL, tile_3_of_8},
	{1, NULL, tile_4_of_8},
};

static const struct int_shape shapes_4[MAX_ROWS_4] = {
	{1, NULL, tile_1_of_4},
	{1, NULL, tile_2_of_4},
	{1, NULL, tile_3_of_4},
	{1, NULL, tile_4_of_4},
	{1, NULL, tile_5_of_4},
	{1, NULL, tile_6_of_4},
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

/* 32 codes; returns their sum. */
static always_inline_ int32_t round_subgroup(
	int8_t ret[MAT_INT_SUBGROUP], const __m256 x[static 4], __m256 inverse)
{
	__m256i codes[4], sum = _mm256_setzero_si256(), bytes;
	int32_t lanes[8], total = 0;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
		sum = _mm256_add_epi32(sum, codes[i]);
	}
	bytes = _mm256_packs_epi16(
		_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
	bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
	_mm256_storeu_si256((__m256i *)(void *)ret, bytes);
	_mm256_storeu_si256((__m256i *)(void *)lanes, sum);
	for (int i = 0; i < 8; i++)
		total = (int32_t)((uint32_t)total + (uint32_t)lanes[i]);
	return total;
}

static void round_group(struct act_group *ret, const __m256 x[static VECTORS])
{
	float largest = largest_of(x);

	if (largest < 0x1p-100f) {
		*ret = (struct act_group){.scale = 0};
		return;
	}
	ret->scale = largest / 127;
	for (size_t s = 0; s < MAT_INT_SUBGROUPS; s++)
		ret->sums[s] = round_subgroup(ret->codes + s * MAT_INT_SUBGROUP, x + 4 * s,
			_mm256_set1_ps(127 / largest));
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

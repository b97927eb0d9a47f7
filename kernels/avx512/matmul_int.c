/*
 * Rounded inputs by matrices of integers. vpdpbusd wants one side without sign: codes of 8 bits
 * plus 128, and those of 4 bits multiplied by their steps, which makes at most 195 of them, but
 * without their offsets. The sums of the inputs then account for what is to be taken away.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/expand.h"
#include "kernels/avx512/int_grids.h"
#include "kernels/avx512/lanes.h"
#include "kernels/convert.h"
#include "kernels/matmul_int.h"

#include <string.h>

#define MAX_ROWS 12 /* of 8 bits */
#define MAX_ROWS_4 8
#define PASS_ROWS 128 /* whose inputs stay in a second cache of 1 or 2 MiB */
#define MAX_BLOCKS 4
#define LINES_8 32 /* of a group */
#define LINES_4 16
#define SUBGROUP_LINES 4 /* of 4 bits, in one half of each byte */
/* So many rows are worth the expansion of 4 bits to 8, which goes by so many blocks, of matrices
 * that have no more groups. */
#define EXPAND_ROWS 17
#define EXPAND_BLOCKS 2
#define EXPAND_GROUPS 128

static always_inline_ __m512i quad(const struct act_group *x, int line)
{
	int32_t codes;

	memcpy(&codes, x->codes + 4 * line, sizeof(codes));
	return _mm512_set1_epi32(codes);
}

/* The sums of two neighbouring sub-groups, one in each word. */
static always_inline_ __m512i sums_pair(const struct act_group *x, int pair)
{
	int32_t two;

	memcpy(&two, x->sums + 2 * pair, sizeof(two));
	return _mm512_set1_epi32(two);
}

/* sums[t][b] = the sums of a group of 8 bits. */
static always_inline_ void group_sums_8(const struct int_tile *t, const struct act_group *x,
	size_t group, __m512i sums[MAX_ROWS][MAX_BLOCKS], int rows, int blocks)
{
	const uint8_t *codes[MAX_BLOCKS], *ahead[MAX_BLOCKS];

#pragma GCC unroll 4
	for (int b = 0; b < blocks; b++) {
		codes[b] = t->w->codes +
			   ((t->block + (size_t)b) * t->n_groups + group) * mat_int_group_bytes(8);
		ahead[b] = int_codes_ahead(t, group, (size_t)b, 8);
	}
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++) {
		__m512i zero = _mm512_setzero_si512();

#pragma GCC unroll 4
		for (int i = 0; i < MAT_INT_SUBGROUPS / 2; i++)
			zero = _mm512_dpwssd_epi32(
				zero, _mm512_set1_epi16(-128), sums_pair(&x[r], i));
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] = zero;
	}
#pragma GCC unroll 12
	for (int line = 0; line < LINES_8; line++) {
		__m512i w[MAX_BLOCKS];

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			w[b] = _mm512_xor_si512(_mm512_load_si512(codes[b] + line * MAT_INT_LINE),
				_mm512_set1_epi8((char)0x80));
			_mm_prefetch((const char *)ahead[b] + line * MAT_INT_LINE, _MM_HINT_T0);
		}
#pragma GCC unroll 12
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
			for (int b = 0; b < blocks; b++)
				sums[r][b] =
					_mm512_dpbusd_epi32(sums[r][b], w[b], quad(&x[r], line));
	}
}

/* The blocks of a tile in one group of 4 bits. */
struct blocks_4 {
	const uint8_t *codes[MAX_BLOCKS], *ahead[MAX_BLOCKS];
	struct int_grids grids[MAX_BLOCKS];
};

/* Lines of sub-group `low`, in their lower halves, and of `low` + 4. */
static always_inline_ void subgroups_add(const struct blocks_4 *c, const struct act_group *x,
	int low, __m512i sums[MAX_ROWS][MAX_BLOCKS], int rows, int blocks)
{
	const __m512i mask = _mm512_set1_epi8(0x0f);

#pragma GCC unroll 4
	for (int line = low * SUBGROUP_LINES; line < (low + 1) * SUBGROUP_LINES; line++) {
		__m512i w_low[MAX_BLOCKS], w_high[MAX_BLOCKS];

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			__m512i w = _mm512_load_si512(c->codes[b] + line * MAT_INT_LINE);

			_mm_prefetch((const char *)c->ahead[b] + line * MAT_INT_LINE, _MM_HINT_T0);
			w_low[b] = _mm512_mullo_epi16(_mm512_and_si512(w, mask),
				lanes_spread(c->grids[b].steps[0], low, low));
			w_high[b] =
				_mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(w, 4), mask),
					lanes_spread(c->grids[b].steps[1], low, low));
		}
#pragma GCC unroll 12
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
			for (int b = 0; b < blocks; b++) {
				sums[r][b] = _mm512_dpbusd_epi32(
					sums[r][b], w_low[b], quad(&x[r], line));
				sums[r][b] = _mm512_dpbusd_epi32(
					sums[r][b], w_high[b], quad(&x[r], line + LINES_4));
			}
	}
}

static always_inline_ void group_sums_4(const struct int_tile *t, const struct act_group *x,
	size_t group, __m512i sums[MAX_ROWS][MAX_BLOCKS], int rows, int blocks)
{
	struct blocks_4 c;

#pragma GCC unroll 4
	for (int b = 0; b < blocks; b++) {
		size_t index = (t->block + (size_t)b) * t->n_groups + group;

		c.codes[b] = t->w->codes + index * mat_int_group_bytes(4);
		c.ahead[b] = int_codes_ahead(t, group, (size_t)b, 4);
		c.grids[b] = int_grids_of(t->w->grids + index * MAT_INT_GRIDS);
#pragma GCC unroll 12
		for (int r = 0; r < rows; r++) {
			sums[r][b] = _mm512_setzero_si512();
#pragma GCC unroll 4
			for (int i = 0; i < MAT_INT_SUBGROUPS / 2; i++)
				sums[r][b] = _mm512_dpwssd_epi32(
					sums[r][b], c.grids[b].negatives[i], sums_pair(&x[r], i));
		}
	}
#pragma GCC unroll 4
	for (int low = 0; low < MAT_INT_SUBGROUPS / 2; low++)
		subgroups_add(&c, x, low, sums, rows, blocks);
}

static always_inline_ __m512 block_scale(const struct mat_int *w, size_t index, int bits)
{
	if (bits == 4)
		return int_grids_scale(w->grids + index * MAT_INT_GRIDS);
	return lanes_bf16(w->scales + index * MAT_BLOCK);
}

/* `rows`, `blocks` and `bits` are constants in each instance below. */
static always_inline_ void tile_compute(
	const struct int_tile *shared, int rows, int blocks, int bits)
{
	const struct int_tile t = *shared;
	__m512 y[MAX_ROWS][MAX_BLOCKS];

#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			y[r][b] = _mm512_setzero_ps();
	for (size_t g = 0; g < t.n_groups; g++) {
		const struct act_group *x = t.x + g * t.x_stride;
		__m512i sums[MAX_ROWS][MAX_BLOCKS];

		if (bits == 4)
			group_sums_4(&t, x, g, sums, rows, blocks);
		else
			group_sums_8(&t, x, g, sums, rows, blocks);
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			__m512 scale =
				block_scale(t.w, (t.block + (size_t)b) * t.n_groups + g, bits);

#pragma GCC unroll 12
			for (int r = 0; r < rows; r++)
				y[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][b]),
					_mm512_mul_ps(scale, _mm512_set1_ps(x[r].scale)), y[r][b]);
		}
	}
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			_mm512_mask_storeu_ps(t.y + (size_t)r * t.y_stride + b * MAT_BLOCK,
				lanes_before(b == blocks - 1 ? t.n_last : MAT_BLOCK), y[r][b]);
}

#define TILE(rows, blocks, bits)                                                                   \
	static void tile_##rows##_##blocks##_of_##bits(const struct int_tile *t)                   \
	{                                                                                          \
		tile_compute(t, rows, blocks, bits);                                               \
	}
#define TILES(rows, blocks, bits) TILE(rows, blocks, bits) TILE(rows, 1, bits)
TILES(1, 4, 8)
TILES(2, 4, 8)
TILES(3, 2, 8)
TILES(4, 2, 8)
TILES(5, 2, 8)
TILES(6, 2, 8)
TILES(7, 2, 8)
TILES(8, 2, 8)
TILES(9, 2, 8)
TILES(10, 2, 8)
TILES(11, 2, 8)
TILES(12, 2, 8)
TILES(1, 4, 4)
TILES(2, 2, 4)
TILES(3, 2, 4)
TILES(4, 2, 4)
TILES(5, 2, 4)
TILES(6, 2, 4)
TILES(7, 2, 4)
TILES(8, 2, 4)

#define SHAPE(rows, blocks, bits)                                                                  \
	{                                                                                          \
		blocks, tile_##rows##_##blocks##_of_##bits, tile_##rows##_1_of_##bits              \
	}

/* By rows - 1. */
static const struct int_shape shapes_8[MAX_ROWS] = {
	SHAPE(1, 4, 8),
	SHAPE(2, 4, 8),
	SHAPE(3, 2, 8),
	SHAPE(4, 2, 8),
	SHAPE(5, 2, 8),
	SHAPE(6, 2, 8),
	SHAPE(7, 2, 8),
	SHAPE(8, 2, 8),
	SHAPE(9, 2, 8),
	SHAPE(10, 2, 8),
	SHAPE(11, 2, 8),
	SHAPE(12, 2, 8),
};

static const struct int_shape shapes_4[MAX_ROWS_4] = {
	SHAPE(1, 4, 4),
	SHAPE(2, 2, 4),
	SHAPE(3, 2, 4),
	SHAPE(4, 2, 4),
	SHAPE(5, 2, 4),
	SHAPE(6, 2, 4),
	SHAPE(7, 2, 4),
	SHAPE(8, 2, 4),
};

static const struct int_set set_8 = {MAX_ROWS, PASS_ROWS, shapes_8};
static const struct int_set set_4 = {MAX_ROWS_4, PASS_ROWS, shapes_4};

/* 4 bits, which become 8 for the rows of a pass, two blocks at a time. */
static void product_expanded(const struct int_product *p, size_t block0, size_t block1)
{
	int8_t codes[EXPAND_BLOCKS * EXPAND_GROUPS * EXPAND_GROUP_BYTES]
		__attribute__((aligned(MAT_INT_LINE)));
	uint16_t scales[EXPAND_BLOCKS * EXPAND_GROUPS * MAT_BLOCK]
		__attribute__((aligned(MAT_INT_LINE)));
	const size_t n_groups = mat_int_groups(p->w->cols);

	for (size_t block = block0, blocks; block < block1; block += blocks) {
		const size_t output = block * MAT_BLOCK;
		struct mat_int w = {
			.codes = (const uint8_t *)codes,
			.scales = scales,
			.cols = p->w->cols,
			.bits = 8,
		};
		struct int_product part = *p;

		blocks = min_u64(block1 - block, EXPAND_BLOCKS);
		for (size_t b = 0; b < blocks; b++)
			expand_groups(codes + b * n_groups * EXPAND_GROUP_BYTES,
				scales + b * n_groups * MAT_BLOCK, p->w, block + b, 0, n_groups);
		w.rows = (uint32_t)min_u64(p->w->rows - output, blocks * MAT_BLOCK);
		part.w = &w;
		part.y += output;
		int_product_by_tiles(&part, &set_8, 0, blocks);
	}
}

static bool expands(const struct mat_int *w, size_t n)
{
	return w->bits == 4 && n >= EXPAND_ROWS && mat_int_groups(w->cols) <= EXPAND_GROUPS;
}

void avx512_matmul_int(float *y, size_t y_stride, const struct mat_int *w,
	const struct act_group *x, size_t x_stride, size_t n, size_t block0, size_t block1)
{
	const struct int_product p = {
		.w = w,
		.x = x,
		.x_stride = x_stride,
		.y = y,
		.y_stride = y_stride,
		.n = n,
	};

	if (expands(w, n))
		product_expanded(&p, block0, block1);
	else
		int_product_by_tiles(&p, w->bits == 4 ? &set_4 : &set_8, block0, block1);
}

/* x is 8 vectors. */
static always_inline_ void round_group(struct act_group *ret, const __m512 x[static 8])
{
	const __m512i size = _mm512_set1_epi32(0x7fffffff);
	__m512i largest_bits = _mm512_setzero_si512();
	float largest;

#pragma GCC unroll 12
	for (int i = 0; i < 8; i++)
		largest_bits = _mm512_max_epu32(
			largest_bits, _mm512_and_si512(_mm512_castps_si512(x[i]), size));
	largest = f32_from_bits(_mm512_reduce_max_epu32(largest_bits));
	if (largest < 0x1p-100f) {
		*ret = (struct act_group){.scale = 0};
		return;
	}
	ret->scale = largest / 127;
#pragma GCC unroll 12
	for (int i = 0; i < MAT_INT_SUBGROUPS; i++) {
		__m512i codes =
			_mm512_cvtps_epi32(_mm512_mul_ps(x[i], _mm512_set1_ps(127 / largest)));

		_mm_storeu_si128(
			(__m128i *)(void *)(ret->codes + 16 * i), _mm512_cvtsepi32_epi8(codes));
		ret->sums[i] = (int16_t)_mm512_reduce_add_epi32(codes);
	}
}

void avx512_act_round(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
	size_t n, uint32_t cols)
{
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < mat_int_groups(cols); g++) {
			const float *from = x + t * x_stride + g * MAT_INT_GROUP;
			__m512 vectors[8];

#pragma GCC unroll 12
			for (size_t i = 0; i < 8; i++)
				vectors[i] = _mm512_maskz_loadu_ps(
					lanes_of_vector(i, cols - g * MAT_INT_GROUP),
					from + 16 * i);
			round_group(&ret[g * ret_stride + t], vectors);
		}
}

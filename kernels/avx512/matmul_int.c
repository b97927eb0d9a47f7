/*
 * Rounded inputs by matrices of integers. vpdpbusd takes the codes as they are, without their zero,
 * which the sums of the inputs then account for. Of 4 bits, the lower halves of a line are masked
 * and the upper ones used where they are, 16 times too large; the sum of a sub-group fits 16 bits,
 * so vpdpwssd multiplies it by its multiplier and adds it up.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/convert.h"
#include "kernels/matmul_int.h"

#include <string.h>

#define MAX_ROWS 8
#define PASS_ROWS 128 /* whose inputs stay in a second cache of 1 or 2 MiB */
#define MAX_BLOCKS 4
#define LINES_8 32 /* of a group */
#define LINES_4 16
#define HALF_LINES (LINES_4 / 2) /* of a sub-group */

static always_inline_ __m512i quad(const struct act_group *x, int line)
{
	int32_t codes;

	memcpy(&codes, x->codes + 4 * line, sizeof(codes));
	return _mm512_set1_epi32(codes);
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
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++) {
		int32_t sum = x[r].sums[0] + x[r].sums[1] + x[r].sums[2] + x[r].sums[3];

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] = _mm512_set1_epi32(-128 * sum);
	}
#pragma GCC unroll 8
	for (int line = 0; line < LINES_8; line++) {
		__m512i w[MAX_BLOCKS];

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			w[b] = _mm512_load_si512(codes[b] + line * MAT_INT_LINE);
			_mm_prefetch((const char *)ahead[b] + line * MAT_INT_LINE, _MM_HINT_T0);
		}
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
			for (int b = 0; b < blocks; b++)
				sums[r][b] =
					_mm512_dpbusd_epi32(sums[r][b], w[b], quad(&x[r], line));
	}
}

/* From one bit pattern of 4 to a multiplier in the lower half of a lane. */
static always_inline_ __m512i multiplier_table(void)
{
	return _mm512_and_si512(_mm512_set1_epi32(0xffff),
		_mm512_setr_epi32(3, 4, 5, 6, 7, 8, 9, 10, -3, -4, -5, -6, -7, -8, -9, -10));
}

/* The lines of sub-groups `half` and `half` + 2. */
static always_inline_ void half_sums_4(const uint8_t *const codes[MAX_BLOCKS],
	const uint8_t *const ahead[MAX_BLOCKS], const struct act_group *x, int half,
	__m512i low[MAX_ROWS][MAX_BLOCKS], __m512i high[MAX_ROWS][MAX_BLOCKS], int rows, int blocks)
{
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			low[r][b] = _mm512_set1_epi32(-8 * x[r].sums[half]);
			high[r][b] = _mm512_set1_epi32(-128 * x[r].sums[half + 2]);
		}
#pragma GCC unroll 8
	for (int i = 0; i < HALF_LINES; i++) {
		const int line = half * HALF_LINES + i;
		__m512i w_low[MAX_BLOCKS], w_high[MAX_BLOCKS];

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			__m512i w = _mm512_load_si512(codes[b] + line * MAT_INT_LINE);

			_mm_prefetch((const char *)ahead[b] + line * MAT_INT_LINE, _MM_HINT_T0);
			w_low[b] = _mm512_and_si512(w, _mm512_set1_epi8(0x0f));
			w_high[b] = _mm512_and_si512(w, _mm512_set1_epi8((char)0xf0));
		}
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
			for (int b = 0; b < blocks; b++) {
				low[r][b] =
					_mm512_dpbusd_epi32(low[r][b], w_low[b], quad(&x[r], line));
				high[r][b] = _mm512_dpbusd_epi32(
					high[r][b], w_high[b], quad(&x[r], line + LINES_4));
			}
	}
}

static always_inline_ void group_sums_4(const struct int_tile *t, const struct act_group *x,
	size_t group, __m512i sums[MAX_ROWS][MAX_BLOCKS], int rows, int blocks)
{
	const uint8_t *codes[MAX_BLOCKS], *ahead[MAX_BLOCKS];
	__m512i multipliers[MAX_BLOCKS];

#pragma GCC unroll 4
	for (int b = 0; b < blocks; b++) {
		size_t index = (t->block + (size_t)b) * t->n_groups + group;

		codes[b] = t->w->codes + index * mat_int_group_bytes(4);
		ahead[b] = int_codes_ahead(t, group, (size_t)b, 4);
		multipliers[b] = lanes_words(t->w->multipliers + index * MAT_BLOCK);
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++)
			sums[r][b] = _mm512_setzero_si512();
	}
#pragma GCC unroll 2
	for (int half = 0; half < 2; half++) {
		__m512i low[MAX_ROWS][MAX_BLOCKS], high[MAX_ROWS][MAX_BLOCKS];

		half_sums_4(codes, ahead, x, half, low, high, rows, blocks);
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++) {
			__m512i bits = _mm512_srli_epi32(multipliers[b], (unsigned int)(4 * half));
			__m512i m_low = _mm512_permutexvar_epi32(bits, multiplier_table());
			__m512i m_high = _mm512_permutexvar_epi32(
				_mm512_srli_epi32(bits, 8), multiplier_table());

#pragma GCC unroll 8
			for (int r = 0; r < rows; r++) {
				sums[r][b] = _mm512_dpwssd_epi32(sums[r][b], low[r][b], m_low);
				sums[r][b] = _mm512_dpwssd_epi32(
					sums[r][b], _mm512_srai_epi32(high[r][b], 4), m_high);
			}
		}
	}
}

/* `rows`, `blocks` and `bits` are constants in each instance below. */
static always_inline_ void tile_compute(
	const struct int_tile *shared, int rows, int blocks, int bits)
{
	const struct int_tile t = *shared;
	__m512 y[MAX_ROWS][MAX_BLOCKS];

#pragma GCC unroll 8
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
			const uint16_t *scales =
				t.w->scales + ((t.block + (size_t)b) * t.n_groups + g) * MAT_BLOCK;
			__m512 scale = lanes_bf16(scales);

#pragma GCC unroll 8
			for (int r = 0; r < rows; r++)
				y[r][b] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][b]),
					_mm512_mul_ps(scale, _mm512_set1_ps(x[r].scale)), y[r][b]);
		}
	}
#pragma GCC unroll 8
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
TILES(1, 4, 4)
TILES(2, 2, 4)
TILES(3, 2, 4)
TILES(4, 2, 4)
TILE(5, 1, 4)
TILE(6, 1, 4)
TILE(7, 1, 4)
TILE(8, 1, 4)

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
};

static const struct int_shape shapes_4[MAX_ROWS] = {
	SHAPE(1, 4, 4),
	SHAPE(2, 2, 4),
	SHAPE(3, 2, 4),
	SHAPE(4, 2, 4),
	SHAPE(5, 1, 4),
	SHAPE(6, 1, 4),
	SHAPE(7, 1, 4),
	SHAPE(8, 1, 4),
};

void avx512_matmul_int(float *y, size_t y_stride, const struct mat_int *w,
	const struct act_group *x, size_t x_stride, size_t n, size_t block0, size_t block1)
{
	const struct int_set set = {MAX_ROWS, PASS_ROWS, w->bits == 4 ? shapes_4 : shapes_8};
	const struct int_product p = {
		.w = w,
		.x = x,
		.x_stride = x_stride,
		.y = y,
		.y_stride = y_stride,
		.n = n,
	};

	int_product_by_tiles(&p, &set, block0, block1);
}

/* x is 8 vectors. */
static always_inline_ void round_group(struct act_group *ret, const __m512 x[static 8])
{
	const __m512i size = _mm512_set1_epi32(0x7fffffff);
	__m512i largest_bits = _mm512_setzero_si512(), two[4];
	float largest;

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		largest_bits = _mm512_max_epu32(
			largest_bits, _mm512_and_si512(_mm512_castps_si512(x[i]), size));
	largest = f32_from_bits(_mm512_reduce_max_epu32(largest_bits));
	if (largest < 0x1p-100f) {
		*ret = (struct act_group){.scale = 0};
		return;
	}
	ret->scale = largest / 127;
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) {
		__m512i codes =
			_mm512_cvtps_epi32(_mm512_mul_ps(x[i], _mm512_set1_ps(127 / largest)));

		_mm_storeu_si128(
			(__m128i *)(void *)(ret->codes + 16 * i), _mm512_cvtsepi32_epi8(codes));
		two[i / 2] = i % 2 ? _mm512_add_epi32(two[i / 2], codes) : codes;
	}
#pragma GCC unroll 4
	for (int s = 0; s < MAT_INT_SUBGROUPS; s++)
		ret->sums[s] = _mm512_reduce_add_epi32(two[s]);
}

void avx512_act_round(struct act_group *ret, size_t ret_stride, const float *x, size_t x_stride,
	size_t n, uint32_t cols)
{
	for (size_t t = 0; t < n; t++)
		for (size_t g = 0; g < mat_int_groups(cols); g++) {
			const float *from = x + t * x_stride + g * MAT_INT_GROUP;
			__m512 vectors[8];

#pragma GCC unroll 8
			for (size_t i = 0; i < 8; i++)
				vectors[i] = _mm512_maskz_loadu_ps(
					lanes_of_vector(i, cols - g * MAT_INT_GROUP),
					from + 16 * i);
			round_group(&ret[g * ret_stride + t], vectors);
		}
}

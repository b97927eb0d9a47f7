/*
 * bf16 weights are widened to f32 in registers, which costs a shift and a mask for 32 of them, and
 * every output is one chain of fused multiply-adds over its inputs in ascending order. That order
 * is the same for every shape of tile and every cut of the inputs, hence a row's result does not
 * depend on its company.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/matmul.h"

#define MAX_ROWS 12  /* of a tile; by 2 blocks, 24 sums stay in registers */
#define MAX_BLOCKS 4 /* of a tile */
#define PANEL_ROWS 96
#define PREFETCH_BYTES 3072

struct pair_weights {
	__m512 even[MAX_BLOCKS], odd[MAX_BLOCKS];
};

static always_inline_ void pair_load(
	struct pair_weights *ret, const struct matmul_tile *t, size_t pair, int blocks)
{
	const uint16_t *line = t->weights + pair * 2 * MAT_BLOCK;

#pragma GCC unroll 4
	for (int b = 0; b < blocks; b++) {
		const uint16_t *at = line + (size_t)b * t->block_size;
		__m512i pair_of_16 = _mm512_loadu_si512(at);

		_mm_prefetch((const char *)at + PREFETCH_BYTES, _MM_HINT_T0);
		ret->even[b] = _mm512_castsi512_ps(_mm512_slli_epi32(pair_of_16, 16));
		ret->odd[b] = _mm512_castsi512_ps(
			_mm512_and_si512(pair_of_16, _mm512_set1_epi32((int)0xffff0000)));
	}
}

static always_inline_ __mmask16 block_lanes(const struct matmul_tile *t, int block, int blocks)
{
	return block == blocks - 1 ? lanes_before(t->n_last) : 0xffff;
}

static always_inline_ void sums_load(
	__m512 sums[MAX_ROWS][MAX_BLOCKS], const struct matmul_tile *t, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] =
				_mm512_maskz_loadu_ps(t->resume ? block_lanes(t, b, blocks) : 0,
					t->y + (size_t)r * t->y_stride + b * MAT_BLOCK);
}

static always_inline_ void sums_store(
	__m512 sums[MAX_ROWS][MAX_BLOCKS], const struct matmul_tile *t, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			_mm512_mask_storeu_ps(t->y + (size_t)r * t->y_stride + b * MAT_BLOCK,
				block_lanes(t, b, blocks), sums[r][b]);
}

/* sums[r][b] += weights[b] * x, for one input of each row. */
static always_inline_ void sums_step(__m512 sums[MAX_ROWS][MAX_BLOCKS],
	const __m512 weights[MAX_BLOCKS], const float *x, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++) {
		__m512 input = _mm512_set1_ps(x[r * MATMUL_STRIP]);

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] = _mm512_fmadd_ps(weights[b], input, sums[r][b]);
	}
}

/* `rows` and `blocks` are constants in each instance below, so that the sums stay in registers. */
static always_inline_ void tile_compute(const struct matmul_tile *shared, int rows, int blocks)
{
	const struct matmul_tile t = *shared;
	const float *strip = t.panel;
	__m512 sums[MAX_ROWS][MAX_BLOCKS];
	struct pair_weights w;

	sums_load(sums, &t, rows, blocks);
	for (size_t p = 0; p < t.n_pairs; strip += rows * MATMUL_STRIP) {
		size_t end = p + MATMUL_STRIP / 2 < t.n_pairs ? p + MATMUL_STRIP / 2 : t.n_pairs;

		for (const float *x = strip; p < end; p++, x += 2) {
			pair_load(&w, &t, p, blocks);
			sums_step(sums, w.even, x, rows, blocks);
			sums_step(sums, w.odd, x + 1, rows, blocks);
		}
	}
	sums_store(sums, &t, rows, blocks);
}

#define TILE(rows, blocks)                                                                         \
	static void tile_##rows##_##blocks(const struct matmul_tile *t)                            \
	{                                                                                          \
		tile_compute(t, rows, blocks);                                                     \
	}
#define TILES_OF(rows, blocks) TILE(rows, blocks) TILE(rows, 1)
TILES_OF(1, 4)
TILES_OF(2, 4)
TILES_OF(3, 2)
TILES_OF(4, 2)
TILES_OF(5, 2)
TILES_OF(6, 2)
TILES_OF(7, 2)
TILES_OF(8, 2)
TILES_OF(9, 2)
TILES_OF(10, 2)
TILES_OF(11, 2)
TILES_OF(12, 2)

/* By rows - 1: several blocks at once, and one for the rest of a range. */
static const struct matmul_shape shapes[MAX_ROWS] = {
	{4, tile_1_4, tile_1_1},
	{4, tile_2_4, tile_2_1},
	{2, tile_3_2, tile_3_1},
	{2, tile_4_2, tile_4_1},
	{2, tile_5_2, tile_5_1},
	{2, tile_6_2, tile_6_1},
	{2, tile_7_2, tile_7_1},
	{2, tile_8_2, tile_8_1},
	{2, tile_9_2, tile_9_1},
	{2, tile_10_2, tile_10_1},
	{2, tile_11_2, tile_11_1},
	{2, tile_12_2, tile_12_1},
};

static const struct matmul_set set = {MAX_ROWS, PANEL_ROWS, shapes};

void avx512_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	const struct matmul m = {
		.y = y,
		.y_stride = y_stride,
		.w = w,
		.x = x,
		.x_stride = x_stride,
		.n = n,
	};

	matmul_by_tiles(&m, &set, block0, block1);
}

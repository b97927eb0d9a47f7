/*
 * bf16 weights are widened to f32 in registers, which costs a shift and a mask for 16 of them, and
 * every output is one chain of fused multiply-adds over its inputs in ascending order. That order
 * is the same for every shape of tile and every cut of the inputs, hence a row's result does not
 * depend on its company.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/matmul.h"

#define MAX_ROWS 6   /* of a tile; by 16 outputs, 12 sums stay in registers */
#define MAX_BLOCKS 4 /* of a tile */
#define PANEL_ROWS 24
#define PREFETCH_BYTES 3072

/* A block is two vectors, outputs 0 to 7 and 8 to 15. */
struct sums {
	__m256 of[MAX_ROWS][MAX_BLOCKS][2];
};

static always_inline_ __m256i block_lanes(
	const struct matmul_tile *t, int block, int blocks, int half)
{
	return lanes_of_vector((size_t)half, block == blocks - 1 ? t->n_last : MAT_BLOCK);
}

static always_inline_ void sums_load(
	struct sums *ret, const struct matmul_tile *t, int rows, int blocks)
{
#pragma GCC unroll 6
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
#pragma GCC unroll 2
			for (int i = 0; i < 2; i++)
				ret->of[r][b][i] =
					!t->resume ? _mm256_setzero_ps()
						   : _mm256_maskload_ps(
							     t->y + (size_t)r * t->y_stride +
								     b * MAT_BLOCK + i * 8,
							     block_lanes(t, b, blocks, i));
}

static always_inline_ void sums_store(
	const struct sums *s, const struct matmul_tile *t, int rows, int blocks)
{
#pragma GCC unroll 6
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
#pragma GCC unroll 2
			for (int i = 0; i < 2; i++)
				_mm256_maskstore_ps(
					t->y + (size_t)r * t->y_stride + b * MAT_BLOCK + i * 8,
					block_lanes(t, b, blocks, i), s->of[r][b][i]);
}

/* Adds to a block's sums the products of one input of each row. */
static always_inline_ void sums_step(
	struct sums *s, const __m256 weights[2], const float *x, int rows, int block)
{
#pragma GCC unroll 6
	for (int r = 0; r < rows; r++) {
		__m256 input = _mm256_broadcast_ss(x + r * MATMUL_STRIP);

#pragma GCC unroll 2
		for (int i = 0; i < 2; i++)
			s->of[r][block][i] = _mm256_fmadd_ps(weights[i], input, s->of[r][block][i]);
	}
}

/* Adds the products of a pair of inputs of each row; x is that of the first row. */
static always_inline_ void sums_pair(
	struct sums *s, const uint16_t *line, const float *x, int rows, int block)
{
	const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
	__m256 weights[2];

#pragma GCC unroll 2
	for (int i = 0; i < 2; i++)
		weights[i] = _mm256_castsi256_ps(_mm256_slli_epi32(
			_mm256_loadu_si256((const __m256i *)(line + i * MAT_BLOCK)), 16));
	sums_step(s, weights, x, rows, block);
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++)
		weights[i] = _mm256_castsi256_ps(_mm256_and_si256(
			_mm256_loadu_si256((const __m256i *)(line + i * MAT_BLOCK)), upper));
	sums_step(s, weights, x + 1, rows, block);
}

/* `rows` and `blocks` are constants in each instance below, so that the sums stay in registers. */
static always_inline_ void tile_compute(const struct matmul_tile *shared, int rows, int blocks)
{
	const struct matmul_tile t = *shared;
	const float *strip = t.panel;
	struct sums sums;

	sums_load(&sums, &t, rows, blocks);
	for (size_t p = 0; p < t.n_pairs; strip += rows * MATMUL_STRIP) {
		size_t end = p + MATMUL_STRIP / 2 < t.n_pairs ? p + MATMUL_STRIP / 2 : t.n_pairs;

		for (const float *x = strip; p < end; p++, x += 2) {
#pragma GCC unroll 4
			for (int b = 0; b < blocks; b++) {
				const uint16_t *line =
					t.weights + (size_t)b * t.block_size + p * 2 * MAT_BLOCK;

				_mm_prefetch((const char *)line + PREFETCH_BYTES, _MM_HINT_T0);
				sums_pair(&sums, line, x, rows, b);
			}
		}
	}
	sums_store(&sums, &t, rows, blocks);
}

#define TILE(rows, blocks)                                                                         \
	static void tile_##rows##_##blocks(const struct matmul_tile *t)                            \
	{                                                                                          \
		tile_compute(t, rows, blocks);                                                     \
	}
TILE(1, 4)
TILE(2, 2)
TILE(1, 1)
TILE(2, 1)
TILE(3, 1)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)

/* By rows - 1: as many blocks at once as the registers hold, and one for the rest of a range. */
static const struct matmul_shape shapes[MAX_ROWS] = {
	{4, tile_1_4, tile_1_1},
	{2, tile_2_2, tile_2_1},
	{1, tile_3_1, tile_3_1},
	{1, tile_4_1, tile_4_1},
	{1, tile_5_1, tile_5_1},
	{1, tile_6_1, tile_6_1},
};

static const struct matmul_set set = {MAX_ROWS, PANEL_ROWS, shapes};

void avx2_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
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

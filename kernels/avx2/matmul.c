/*
 * bf16 weights are widened to f32 in registers, which costs a shift and a mask for 16 of them, and
 * every output is one chain of fused multiply-adds over its inputs in ascending order. That order
 * is the same for every shape of tile and every cut of the inputs, hence a row's result does not
 * depend on its company.
 *
 * The rows are first copied to a panel: 16 inputs of each row side by side, so that a tile reaches
 * all its rows at fixed distances and rows a power of two apart do not share a cache set.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"

#define STRIP 16     /* inputs of a row that lie side by side in the panel */
#define MAX_ROWS 6   /* of a tile; by 16 outputs, 12 sums stay in registers */
#define MAX_BLOCKS 4 /* of a tile */
#define MAX_PANEL_ROWS 96
#define PANEL_NUMBERS (32 * 1024)
#define PREFETCH_BYTES 3072

struct tile {
	const uint16_t *weights; /* of the first block, at the first pair */
	size_t block_size;       /* numbers from one block to the next */
	size_t n_pairs;
	const float *panel;
	float *y;
	size_t y_stride;
	bool resume;   /* the sums so far are in y */
	size_t n_last; /* outputs of the last block that exist */
};

/* A block is two vectors, outputs 0 to 7 and 8 to 15. */
struct sums {
	__m256 of[MAX_ROWS][MAX_BLOCKS][2];
};

static always_inline_ __m256i block_lanes(const struct tile *t, int block, int blocks, int half)
{
	return lanes_of_vector((size_t)half, block == blocks - 1 ? t->n_last : MAT_BLOCK);
}

static always_inline_ void sums_load(struct sums *ret, const struct tile *t, int rows, int blocks)
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
	const struct sums *s, const struct tile *t, int rows, int blocks)
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
		__m256 input = _mm256_broadcast_ss(x + r * STRIP);

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
static always_inline_ void tile_compute(const struct tile *shared, int rows, int blocks)
{
	const struct tile t = *shared;
	const float *strip = t.panel;
	struct sums sums;

	sums_load(&sums, &t, rows, blocks);
	for (size_t p = 0; p < t.n_pairs; strip += rows * STRIP) {
		size_t end = p + STRIP / 2 < t.n_pairs ? p + STRIP / 2 : t.n_pairs;

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
	static void tile_##rows##_##blocks(const struct tile *t)                                   \
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
static const struct {
	size_t blocks;
	void (*wide)(const struct tile *t);
	void (*narrow)(const struct tile *t);
} tiles[MAX_ROWS] = {
	{4, tile_1_4, tile_1_1},
	{2, tile_2_2, tile_2_1},
	{1, tile_3_1, tile_3_1},
	{1, tile_4_1, tile_4_1},
	{1, tile_5_1, tile_5_1},
	{1, tile_6_1, tile_6_1},
};

/* Where one call of a kernel is in the product. */
struct product {
	float *y;
	size_t y_stride;
	const struct mat_bf16 *w;
	const float *x;
	size_t x_stride;
	size_t n;
	size_t col, cols; /* inputs in the panel */
};

/* Rows in tiles of nearly equal height, so that none is left with a thin one. */
static size_t tile_rows(size_t n)
{
	size_t n_tiles = (n + MAX_ROWS - 1) / MAX_ROWS;

	return (n + n_tiles - 1) / n_tiles;
}

/* Tile after tile: for each 16 inputs, one line a row; zeros past the last input. */
static void panel_fill(float *panel, const struct product *p)
{
	for (size_t t = 0, rows; t < p->n; t += rows) {
		rows = tile_rows(p->n - t);
		for (size_t c = 0; c < p->cols; c += STRIP) {
			__m256i low = lanes_of_vector(0, p->cols - c);
			__m256i high = lanes_of_vector(1, p->cols - c);
			const float *x = p->x + t * p->x_stride + p->col + c;

			for (size_t r = 0; r < rows; r++, x += p->x_stride, panel += STRIP) {
				_mm256_storeu_ps(panel, _mm256_maskload_ps(x, low));
				_mm256_storeu_ps(panel + 8, _mm256_maskload_ps(x + 8, high));
			}
		}
	}
}

/* All rows against `blocks` blocks, which is 1 or the width of the tallest tile. */
static void blocks_compute(const struct product *p, const float *panel, size_t block, size_t blocks)
{
	size_t left = p->w->rows - (block + blocks - 1) * MAT_BLOCK;
	struct tile tile = {
		.block_size = mat_bf16_pairs(p->w->cols) * 2 * MAT_BLOCK,
		.n_pairs = mat_bf16_pairs((uint32_t)p->cols),
		.panel = panel,
		.y = p->y + block * MAT_BLOCK,
		.y_stride = p->y_stride,
		.resume = p->col > 0,
		.n_last = left < MAT_BLOCK ? left : MAT_BLOCK,
	};

	tile.weights = p->w->data + block * tile.block_size + p->col * MAT_BLOCK;
	for (size_t t = 0, rows; t < p->n; t += rows) {
		rows = tile_rows(p->n - t);
		if (blocks > 1)
			tiles[rows - 1].wide(&tile);
		else
			tiles[rows - 1].narrow(&tile);
		tile.panel += rows * ((p->cols + STRIP - 1) / STRIP * STRIP);
		tile.y += rows * tile.y_stride;
	}
}

static void range_compute(const struct product *p, const float *panel, size_t block0, size_t block1)
{
	size_t wide = tiles[tile_rows(p->n) - 1].blocks;

	for (size_t block = block0, blocks; block < block1; block += blocks) {
		blocks = block1 - block >= wide ? wide : 1;
		blocks_compute(p, panel, block, blocks);
	}
}

/* The inputs are cut in parts whose panel fits; no inputs at all are one empty part, for sums of 0.
 */
static void rows_compute(struct product *p, float *panel, size_t block0, size_t block1)
{
	const size_t widest = PANEL_NUMBERS / p->n / STRIP * STRIP;

	do {
		size_t left = p->w->cols - p->col;

		p->cols = left < widest ? left : widest;
		panel_fill(panel, p);
		range_compute(p, panel, block0, block1);
		p->col += p->cols;
	} while (p->col < p->w->cols);
}

void avx2_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
	size_t x_stride, size_t n, size_t block0, size_t block1)
{
	float panel[PANEL_NUMBERS] __attribute__((aligned(64)));

	for (size_t t = 0; t < n; t += MAX_PANEL_ROWS) {
		struct product p = {
			.y = y + t * y_stride,
			.y_stride = y_stride,
			.w = w,
			.x = x + t * x_stride,
			.x_stride = x_stride,
			.n = n - t < MAX_PANEL_ROWS ? n - t : MAX_PANEL_ROWS,
		};

		rows_compute(&p, panel, block0, block1);
	}
}

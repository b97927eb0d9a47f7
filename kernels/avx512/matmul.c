/*
 * bf16 weights are widened to f32 in registers, which costs a shift and a mask for 32 of them, and
 * every output is one chain of fused multiply-adds over its inputs in ascending order. That order
 * is the same for every shape of tile and every cut of the inputs, hence a row's result does not
 * depend on its company.
 *
 * Several rows are first copied to a panel: 16 inputs of each row side by side, so that a tile
 * reaches all its rows at fixed distances and rows a power of two apart do not share a cache set.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"

#define STRIP 16     /* inputs of a row that lie side by side in the panel */
#define MAX_ROWS 12  /* of a tile; by 2 blocks, 24 sums stay in registers */
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
	bool resume;          /* the sums so far are in y */
	__mmask16 last_lanes; /* outputs of the last block that exist */
};

struct pair_weights {
	__m512 even[MAX_BLOCKS], odd[MAX_BLOCKS];
};

static always_inline_ void pair_load(
	struct pair_weights *ret, const struct tile *t, size_t pair, int blocks)
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

static always_inline_ void sums_load(
	__m512 sums[MAX_ROWS][MAX_BLOCKS], const struct tile *t, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] = _mm512_maskz_loadu_ps(!t->resume        ? 0
							   : b == blocks - 1 ? t->last_lanes
									     : 0xffff,
				t->y + (size_t)r * t->y_stride + b * MAT_BLOCK);
}

static always_inline_ void sums_store(
	__m512 sums[MAX_ROWS][MAX_BLOCKS], const struct tile *t, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			_mm512_mask_storeu_ps(t->y + (size_t)r * t->y_stride + b * MAT_BLOCK,
				b == blocks - 1 ? t->last_lanes : 0xffff, sums[r][b]);
}

/* sums[r][b] += weights[b] * x, for one input of each row. */
static always_inline_ void sums_step(__m512 sums[MAX_ROWS][MAX_BLOCKS],
	const __m512 weights[MAX_BLOCKS], const float *x, int rows, int blocks)
{
#pragma GCC unroll 12
	for (int r = 0; r < rows; r++) {
		__m512 input = _mm512_set1_ps(x[r * STRIP]);

#pragma GCC unroll 4
		for (int b = 0; b < blocks; b++)
			sums[r][b] = _mm512_fmadd_ps(weights[b], input, sums[r][b]);
	}
}

/* `rows` and `blocks` are constants in each instance below, so that the sums stay in registers. */
static always_inline_ void tile_compute(const struct tile *shared, int rows, int blocks)
{
	const struct tile t = *shared;
	const float *strip = t.panel;
	__m512 sums[MAX_ROWS][MAX_BLOCKS];
	struct pair_weights w;

	sums_load(sums, &t, rows, blocks);
	for (size_t p = 0; p < t.n_pairs; strip += rows * STRIP) {
		size_t end = p + STRIP / 2 < t.n_pairs ? p + STRIP / 2 : t.n_pairs;

		for (const float *x = strip; p < end; p++, x += 2) {
			pair_load(&w, &t, p, blocks);
			sums_step(sums, w.even, x, rows, blocks);
			sums_step(sums, w.odd, x + 1, rows, blocks);
		}
	}
	sums_store(sums, &t, rows, blocks);
}

#define TILE(rows, blocks)                                                                         \
	static void tile_##rows##_##blocks(const struct tile *t)                                   \
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
static const struct {
	size_t blocks;
	void (*wide)(const struct tile *t);
	void (*narrow)(const struct tile *t);
} tiles[MAX_ROWS] = {
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
			__mmask16 lanes = lanes_before(p->cols - c);
			const float *x = p->x + t * p->x_stride + p->col + c;

			for (size_t r = 0; r < rows; r++, panel += STRIP)
				_mm512_storeu_ps(
					panel, _mm512_maskz_loadu_ps(lanes, x + r * p->x_stride));
		}
	}
}

/* All rows against `blocks` blocks, which is 1 or the width of the tallest tile. */
static void blocks_compute(const struct product *p, const float *panel, size_t block, size_t blocks)
{
	struct tile tile = {
		.block_size = mat_bf16_pairs(p->w->cols) * 2 * MAT_BLOCK,
		.n_pairs = mat_bf16_pairs((uint32_t)p->cols),
		.panel = panel,
		.y = p->y + block * MAT_BLOCK,
		.y_stride = p->y_stride,
		.resume = p->col > 0,
		.last_lanes = lanes_before(p->w->rows - (block + blocks - 1) * MAT_BLOCK),
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

void avx512_matmul(float *y, size_t y_stride, const struct mat_bf16 *w, const float *x,
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

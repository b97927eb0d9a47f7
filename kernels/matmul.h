/*
 * What the vector sets' matmul shares: the way from a product to tiles.
 *
 * Rows of x are first copied to a panel: STRIP inputs of each row of a tile side by side, so that
 * the tile reaches all its rows at fixed distances and rows a power of two apart do not share a
 * cache set. Inputs are cut into parts whose panel fits; sums go on where the part before ended.
 */
#pragma once

#include "kernels/kernels.h"

#include <string.h>

#define MATMUL_STRIP 16 /* inputs of a row that lie side by side in the panel */
#define MATMUL_PANEL_NUMBERS (32 * 1024)

struct matmul_tile {
	const uint16_t *weights; /* of the first block, at the first pair */
	size_t block_size;       /* numbers from one block to the next */
	size_t n_pairs;
	const float *panel;
	float *y;
	size_t y_stride;
	bool resume;   /* the sums so far are in y */
	size_t n_last; /* outputs of the last block that exist */
};

/* Tiles of one number of rows. */
struct matmul_shape {
	size_t blocks; /* of the wide tile */
	void (*wide)(const struct matmul_tile *t);
	void (*narrow)(const struct matmul_tile *t); /* one block, for the rest of a range */
};

struct matmul_set {
	size_t max_rows;   /* of a tile */
	size_t panel_rows; /* at most; fewer leave room in the caches for more inputs of each */
	const struct matmul_shape *shapes; /* by rows - 1 */
};

/* Where a call is in the product. */
struct matmul {
	float *y;
	size_t y_stride;
	const struct mat_bf16 *w;
	const float *x;
	size_t x_stride;
	size_t n;
	size_t col, cols; /* inputs in the panel */
};

/* Rows in tiles of nearly equal height, so that none is left with a thin one. */
static inline size_t matmul_tile_rows(const struct matmul_set *set, size_t n)
{
	size_t n_tiles = (n + set->max_rows - 1) / set->max_rows;

	return (n + n_tiles - 1) / n_tiles;
}

/* One line of the panel; zeros past the last input. */
static inline void matmul_fill_line(float *line, const float *x, size_t left)
{
	if (left >= MATMUL_STRIP) {
		memcpy(line, x, MATMUL_STRIP * sizeof(*line));
		return;
	}
	memcpy(line, x, left * sizeof(*line));
	memset(line + left, 0, (MATMUL_STRIP - left) * sizeof(*line));
}

/* Tile after tile: for each 16 inputs, one line a row. */
static inline void matmul_fill_panel(
	float *panel, const struct matmul *m, const struct matmul_set *set)
{
	for (size_t t = 0, rows; t < m->n; t += rows) {
		rows = matmul_tile_rows(set, m->n - t);
		for (size_t c = 0; c < m->cols; c += MATMUL_STRIP) {
			const float *x = m->x + t * m->x_stride + m->col + c;

			for (size_t r = 0; r < rows; r++, x += m->x_stride, panel += MATMUL_STRIP)
				matmul_fill_line(panel, x, m->cols - c);
		}
	}
}

/* All rows against `blocks` blocks, which is 1 or the width of the tallest tile. */
static inline void matmul_blocks(const struct matmul *m, const struct matmul_set *set,
	const float *panel, size_t block, size_t blocks)
{
	struct matmul_tile tile = {
		.block_size = mat_bf16_pairs(m->w->cols) * 2 * MAT_BLOCK,
		.n_pairs = mat_bf16_pairs((uint32_t)m->cols),
		.panel = panel,
		.y = m->y + block * MAT_BLOCK,
		.y_stride = m->y_stride,
		.resume = m->col > 0,
		.n_last = min_u64(m->w->rows - (block + blocks - 1) * MAT_BLOCK, MAT_BLOCK),
	};

	tile.weights = m->w->data + block * tile.block_size + m->col * MAT_BLOCK;
	for (size_t t = 0, rows; t < m->n; t += rows) {
		rows = matmul_tile_rows(set, m->n - t);
		if (blocks > 1)
			set->shapes[rows - 1].wide(&tile);
		else
			set->shapes[rows - 1].narrow(&tile);
		tile.panel += rows * align_up(m->cols, MATMUL_STRIP);
		tile.y += rows * tile.y_stride;
	}
}

static inline void matmul_range(const struct matmul *m, const struct matmul_set *set,
	const float *panel, size_t block0, size_t block1)
{
	size_t wide = set->shapes[matmul_tile_rows(set, m->n) - 1].blocks;

	for (size_t block = block0, blocks; block < block1; block += blocks) {
		blocks = block1 - block >= wide ? wide : 1;
		matmul_blocks(m, set, panel, block, blocks);
	}
}

/* No inputs at all are one empty part, for sums of 0. */
static inline void matmul_rows(
	struct matmul *m, const struct matmul_set *set, float *panel, size_t block0, size_t block1)
{
	const size_t widest = MATMUL_PANEL_NUMBERS / m->n / MATMUL_STRIP * MATMUL_STRIP;

	do {
		m->cols = min_u64(m->w->cols - m->col, widest);
		matmul_fill_panel(panel, m, set);
		matmul_range(m, set, panel, block0, block1);
		m->col += m->cols;
	} while (m->col < m->w->cols);
}

static inline void matmul_by_tiles(
	const struct matmul *whole, const struct matmul_set *set, size_t block0, size_t block1)
{
	float panel[MATMUL_PANEL_NUMBERS] __attribute__((aligned(64)));

	for (size_t t = 0; t < whole->n; t += set->panel_rows) {
		struct matmul m = *whole;

		m.y += t * m.y_stride;
		m.x += t * m.x_stride;
		m.n = min_u64(m.n - t, set->panel_rows);
		matmul_rows(&m, set, panel, block0, block1);
	}
}

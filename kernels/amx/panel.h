/*
 * The input of a product as tiles take it. A number x is hi + lo, each a bf16: hi is x rounded, lo
 * what that left, rounded; together they are off by at most 2^-17 |x|.
 *
 * Rows are cut in tiles of nearly equal height, so that none is left with a thin one. A tile's
 * panel goes by steps of 32 inputs, what one tile instruction sums: first hi, then lo of each row,
 * 64 bytes a row. Rows past the last and inputs past the last are zero.
 *
 *   step s of tile i    (i * steps + s) * panel_step_bytes(height)
 */
#pragma once

#include "kernels/kernels.h"

#define PANEL_STEP 32      /* inputs */
#define PANEL_ROW_BYTES 64 /* of a row in a step: 32 inputs of bf16 */
#define PANEL_TILE_ROWS 16 /* at most */

static inline size_t panel_tiles(size_t n)
{
	return (n + PANEL_TILE_ROWS - 1) / PANEL_TILE_ROWS;
}

/* Rows of each tile; n is not 0. */
static inline size_t panel_height(size_t n)
{
	return (n + panel_tiles(n) - 1) / panel_tiles(n);
}

static inline size_t panel_steps(size_t cols)
{
	return (cols + PANEL_STEP - 1) / PANEL_STEP;
}

/* From hi to lo of a step. */
static inline size_t panel_lo(size_t height)
{
	return height * PANEL_ROW_BYTES;
}

static inline size_t panel_step_bytes(size_t height)
{
	return 2 * panel_lo(height);
}

/* The tile of rows [row, row + height), less what is past n; inputs [0, cols) of x. */
void panel_fill_tile(uint8_t *ret, const float *x, size_t x_stride, size_t n, size_t cols,
	size_t row, size_t height);

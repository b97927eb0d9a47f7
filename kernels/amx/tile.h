/*
 * The eight tile registers, as every product here shares them out:
 *
 *   0 to 3   sums, height x 16 numbers of f32
 *   4, 5     weights, 16 lines of a block
 *   6, 7     inputs, height rows
 */
#pragma once

#include "kernels/amx/panel.h"

#include <immintrin.h>

#define TILE_LINE 64 /* bytes of a row of a tile */
#define TILE_LINES 16
#define TILE_BYTES (TILE_LINE * TILE_LINES)

struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t row_bytes[16];
	uint8_t rows[16];
};

#define TILE_CONFIG(h)                                                                             \
	{                                                                                          \
		.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {             \
			h,                                                                         \
			h,                                                                         \
			h,                                                                         \
			h,                                                                         \
			TILE_LINES,                                                                \
			TILE_LINES,                                                                \
			h,                                                                         \
			h                                                                          \
		}                                                                                  \
	}

/* By height - 1. Constants: compilers may drop stores to a variable that only _tile_loadconfig()
 * reads. */
static const struct tile_config tile_configs[PANEL_TILE_ROWS]
	__attribute__((aligned(TILE_LINE))) = {
		TILE_CONFIG(1),
		TILE_CONFIG(2),
		TILE_CONFIG(3),
		TILE_CONFIG(4),
		TILE_CONFIG(5),
		TILE_CONFIG(6),
		TILE_CONFIG(7),
		TILE_CONFIG(8),
		TILE_CONFIG(9),
		TILE_CONFIG(10),
		TILE_CONFIG(11),
		TILE_CONFIG(12),
		TILE_CONFIG(13),
		TILE_CONFIG(14),
		TILE_CONFIG(15),
		TILE_CONFIG(16),
};

/* To be called between stores to memory and loads of it into tiles: compilers do not see that the
 * loads read it. */
static inline void tile_memory_written(void)
{
	__asm__ volatile("" : : : "memory");
}

/* Registers are named by constants, hence a switch. */
static inline void tile_zero_sum(int sum)
{
	switch (sum) {
	case 0:
		_tile_zero(0);
		break;
	case 1:
		_tile_zero(1);
		break;
	case 2:
		_tile_zero(2);
		break;
	case 3:
		_tile_zero(3);
		break;
	}
}

static inline void tile_load_sum(int sum, const void *from, size_t stride)
{
	switch (sum) {
	case 0:
		_tile_loadd(0, from, stride);
		break;
	case 1:
		_tile_loadd(1, from, stride);
		break;
	case 2:
		_tile_loadd(2, from, stride);
		break;
	case 3:
		_tile_loadd(3, from, stride);
		break;
	}
}

static inline void tile_store_sum(int sum, void *to, size_t stride)
{
	switch (sum) {
	case 0:
		_tile_stored(0, to, stride);
		break;
	case 1:
		_tile_stored(1, to, stride);
		break;
	case 2:
		_tile_stored(2, to, stride);
		break;
	case 3:
		_tile_stored(3, to, stride);
		break;
	}
}

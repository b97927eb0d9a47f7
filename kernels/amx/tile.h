/*
 * The eight tile registers, and how a product shares them out:
 *
 *             matmul.c               matmul_int.c
 *   0 to 3    sums, height rows      0, 1 sums; 2, 3 inputs, height rows
 *   4, 5      weights, 16 lines      weights, 16 lines
 *   6, 7      inputs, height rows    weights
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

/* Registers 0 to 3 have `height` rows, 4 and 5 all lines, 6 and 7 as many as is said. */
#define TILE_CONFIG(height, rows_6_7)                                                              \
	{                                                                                          \
		.palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {             \
			height,                                                                    \
			height,                                                                    \
			height,                                                                    \
			height,                                                                    \
			TILE_LINES,                                                                \
			TILE_LINES,                                                                \
			rows_6_7,                                                                  \
			rows_6_7                                                                   \
		}                                                                                  \
	}

/* A table of them by height - 1. To be a constant: compilers may drop stores to a variable that
 * only _tile_loadconfig() reads. */
#define TILE_CONFIGS(of_height)                                                                    \
	{                                                                                          \
		of_height(1), of_height(2), of_height(3), of_height(4), of_height(5),              \
			of_height(6), of_height(7), of_height(8), of_height(9), of_height(10),     \
			of_height(11), of_height(12), of_height(13), of_height(14), of_height(15), \
			of_height(16)                                                              \
	}

/* The compiler moves no access to memory across it. It does not see that loads into tiles read, so
 * that stores before and after them are to be kept where they are, and vector work that is to stay
 * between two tile instructions as well. */
static inline void tile_order(void)
{
	__asm__ volatile("" : : : "memory");
}

/* To be put between tile instructions that nothing else stands between. Where they crowd they hold
 * each other up on some cores, those where vectors are slower too, as if the other hyperthread were
 * busy: measured are 25 ns for a multiplication and the loads that it needs, and 15 with these
 * between them. On other cores, where it takes 6, they cost nothing. */
static inline void tile_space(void)
{
	__asm__ volatile(".rept 8\n\tnop\n\t.endr");
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

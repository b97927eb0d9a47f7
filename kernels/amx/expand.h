/*
 * From the codes of a matrix of integers to the signed bytes that tiles multiply: 8 bits less their
 * zero, 4 bits on their grids. The lines of a group come out as a tile wants them, in two tiles, 64
 * inputs each. Scales come out as f32, whatever the width.
 */
#pragma once

#include "kernels/kernels.h"

#define EXPAND_GROUP_BYTES (MAT_BLOCK * MAT_INT_GROUP)

/* A group is expanded by units, each of 8 lines of codes. */
static inline size_t expand_units(uint32_t bits)
{
	return bits == 4 ? 2 : 4;
}

/* `ret` and `codes` are a whole group's, 64-byte aligned, `grids` its two lines (NULL but for 4
 * bits). */
void expand_unit(int8_t ret[static EXPAND_GROUP_BYTES], const uint8_t *codes, const uint8_t *grids,
	uint32_t bits, size_t unit);

/* The scales of a group of a block, of which `index` is the number of block and group in the
 * matrix; `ret` is 64-byte aligned. */
void expand_scales(float ret[static MAT_BLOCK], const struct mat_int *w, size_t index);

/*
 * What a product with a matrix of integers takes from it, for some neighbouring groups of a block:
 * the numbers that tiles multiply, signed bytes, and their scales, f32. Numbers of 8 bits are in
 * the matrix as a tile wants them, two tiles a group, 64 inputs each; those of 4 bits are expanded
 * to the same.
 */
#pragma once

#include "kernels/kernels.h"

#define EXPAND_GROUP_BYTES (MAT_BLOCK * MAT_INT_GROUP)

/* Groups [begin, end) of a block of 4 bits, EXPAND_GROUP_BYTES each; 64-byte aligned. */
void expand_groups(int8_t *ret, const struct mat_int *w, size_t block, size_t begin, size_t end);
/* Likewise MAT_BLOCK scales of each group, of 4 or 8 bits. */
void expand_scales(float *ret, const struct mat_int *w, size_t block, size_t begin, size_t end);

/*
 * From a matrix of 4 bits to one of 8: what many rows are multiplied with, since a row of codes is
 * then multiplied by its steps once for all of them.
 */
#pragma once

#include "kernels/kernels.h"

#define EXPAND_GROUP_BYTES (MAT_BLOCK * MAT_INT_GROUP)

/* Groups [begin, end) of a block: EXPAND_GROUP_BYTES of codes each, 64-byte aligned, and MAT_BLOCK
 * scales each, 32-byte aligned. */
void expand_groups(int8_t *codes, uint16_t *scales, const struct mat_int *w, size_t block,
	size_t begin, size_t end);

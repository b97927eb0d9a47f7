/*
 * From the codes of a matrix of integers to the signed bytes that tiles multiply: 8 bits less their
 * zero, 4 bits times their multipliers. The lines of a group come out as a tile wants them, in two
 * tiles, 64 inputs each.
 */
#pragma once

#include "kernels/kernels.h"

#define EXPAND_GROUP_BYTES (MAT_BLOCK * MAT_INT_GROUP)

/* A group is expanded by units, each of 8 lines of codes. */
static inline size_t expand_units(uint32_t bits)
{
	return bits == 4 ? 2 : 4;
}

/* `ret` and `codes` are a whole group's, 64-byte aligned, `multipliers` its MAT_BLOCK (NULL but for
 * 4 bits). */
void expand_unit(int8_t ret[static EXPAND_GROUP_BYTES], const uint8_t *codes,
	const uint16_t *multipliers, uint32_t bits, size_t unit);

/*
 * Symmetric k-bit grids for single rows: value = scale * (code - zero) with zero = (2^k - 1) / 2,
 * so that no code stands for 0 and one bit is a sign. The scale is fp16 and rounded before anything
 * is quantised with it: writer and reader agree on every value exactly.
 */
#pragma once

#include "common/base.h"

static inline float row_grid_zero(uint32_t bits)
{
	return (float)((1u << bits) - 1) / 2;
}

/* The scale of least squared error, as a search over clippings finds it and alternating assignment
 * and least squares refine it. Sets its fp16 and returns the squared error that remains;
 * 1 <= bits <= 8, values are finite. */
double row_grid_fit(const float *values, uint32_t n, uint32_t bits, uint16_t *ret_scale);

/* The nearest codes at a scale. */
void row_grid_codes(
	const float *values, uint32_t n, uint32_t bits, uint16_t scale, uint8_t *ret_codes);

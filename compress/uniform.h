/*
 * Uniform grids for many numbers at once: value = step * (code - zero), code in 0 .. 2^bits - 1.
 *
 *   clipped   the levels stand symmetrically around 0 and none of them is 0 (zero is half-integral:
 *             with 1 bit a sign); the step is that of the least weighted squared error, large
 *             numbers may be cut off
 *   min-max   from the least to the greatest number, 0 among them, the zero point rounded to a
 * code, as the DeltaDQ paper has it
 */
#pragma once

#include "common/base.h"

#define UNIFORM_MAX_BITS 8u

struct uniform {
	uint32_t bits;
	double step; /* 0: all values are 0 */
	double zero;
};

/* The numbers that a grid is for. Weights are not negative and may be NULL: all 1. */
struct uniform_sample {
	const float *values, *weights;
	size_t n;
};

void uniform_fit_clipped(const struct uniform_sample *s, uint32_t bits, struct uniform *ret);
void uniform_fit_min_max(const struct uniform_sample *s, uint32_t bits, struct uniform *ret);

uint32_t uniform_code(const struct uniform *u, double value);

static inline double uniform_value(const struct uniform *u, uint32_t code)
{
	return u->step * ((double)code - u->zero);
}

/* Mean bits of a code that occurs so often; 0 where there is none. */
double uniform_entropy(const uint64_t counts[static 1u << UNIFORM_MAX_BITS]);

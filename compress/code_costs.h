/*
 * What a code costs in bits where it stands: the estimate that rounding trades against error. The
 * bytes of store/code_stream.h are what counts in the end; this follows its model (the magnitude
 * expected at a place is row mean x column mean / mean of all, and odds belong to half-octaves of
 * that), with means and odds of the whole matrix, learned from the codes of an earlier sweep, where
 * the coder learns on its way. So a cost does not depend on the order of rounding.
 */
#pragma once

#include "common/base.h"

#include <math.h>

#define CODE_LIMIT 127 /* codes are within +-CODE_LIMIT */
#define CODE_COSTS_LEVELS 32
#define CODE_COSTS_MAGNITUDES (CODE_LIMIT + 1)

struct code_costs {
	uint32_t rows, cols;
	/* The level of a place is about the sum of both. */
	float *row_levels, *col_levels;
	/* Bits of a magnitude, sign included. */
	float bits[CODE_COSTS_LEVELS][CODE_COSTS_MAGNITUDES];
};

int code_costs_new(uint32_t rows, uint32_t cols, struct code_costs **ret) _must_check_;
struct code_costs *code_costs_free(struct code_costs *c);

static inline void code_costs_freep(struct code_costs **c)
{
	code_costs_free(*c);
}

/* From what was coded, rows x cols. */
int code_costs_learn(struct code_costs *costs, const int8_t *codes) _must_check_;
/* Bits of all codes by these costs. */
double code_costs_sum(const struct code_costs *costs, const int8_t *codes);

/* Bits of magnitudes at a place. */
static inline const float *code_costs_at(const struct code_costs *c, uint32_t row, uint32_t col)
{
	int level = (int)(c->row_levels[row] + c->col_levels[col]);

	level = level < 0 ? 0 : level >= CODE_COSTS_LEVELS ? CODE_COSTS_LEVELS - 1 : level;
	return c->bits[level];
}

/* The nearest integer, its neighbour towards zero, or zero: what costs least of `weight` times the
 * squared error plus its bits. `target` is in steps, `weight` in bits. */
static inline int code_costs_cheapest(const float *bits, float target, float weight)
{
	float clipped = fminf(fmaxf(target, -CODE_LIMIT), CODE_LIMIT);
	int nearest = (int)lrintf(clipped), sign = nearest < 0 ? -1 : 1;
	int magnitude = abs(nearest);
	float distance = fabsf(target - (float)nearest);
	float best = weight * distance * distance + bits[magnitude];
	int found = magnitude;

	if (magnitude == 0)
		return 0;
	distance = fabsf(target - (float)(sign * (magnitude - 1)));
	if (weight * distance * distance + bits[magnitude - 1] < best) {
		best = weight * distance * distance + bits[magnitude - 1];
		found = magnitude - 1;
	}
	if (magnitude > 1 && weight * target * target + bits[0] < best)
		found = 0;
	return sign * found;
}

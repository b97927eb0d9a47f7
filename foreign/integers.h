/*
 * A group of numbers as small integers (kernels/types.h, struct mat_int): scale, multipliers and
 * codes that lose little. A few steps are tried for each sub-group, and refitted to the codes that
 * they give by least squares; the step of the largest number's side is such that it gets the code
 * that has no counterpart, -8 or -128. Then a few scales for the group, each with the multipliers
 * that come nearest to the steps, refitted likewise. What is lost is the sum of squared errors,
 * each times the weight of its number.
 */
#pragma once

#include "kernels/convert.h"
#include "kernels/types.h"

struct int_group {
	uint8_t codes[MAT_INT_GROUP];
	uint16_t scale;
	uint16_t multipliers; /* of 4 bits */
};

/* `values` are finite, 0 where inputs are missing; `weights`, finite and not negative, NULL: all
 * the same. The same on every machine. */
void int_group_fit(struct int_group *ret, const float values[static MAT_INT_GROUP],
	const float *weights, uint32_t bits);

/* What a step of the codes of a sub-group stands for. */
static inline float int_group_step(const struct int_group *g, size_t subgroup, uint32_t bits)
{
	float scale = bf16_to_f32(g->scale);

	return bits == 4 ? scale * (float)mat_int_multiplier(g->multipliers, subgroup) : scale;
}

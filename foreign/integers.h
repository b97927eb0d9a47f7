/*
 * A group of numbers as small integers (kernels/types.h, struct mat_int): scale, grids and codes
 * that lose little, where what is lost is the sum of squared errors, each times the weight of its
 * number.
 *
 * Of 8 bits, a few scales are tried, and refitted to the codes that they give by least squares; the
 * scale of the largest number's side is such that it gets the code that has no counterpart, 0. Of 4
 * bits, a few scales are tried, each with some of a sub-group's 64 grids: steps from that on which
 * its least and its largest number need, and zeros that put these at the ends; the best is refitted
 * likewise.
 */
#pragma once

#include "kernels/convert.h"
#include "kernels/types.h"

struct int_group {
	uint8_t codes[MAT_INT_GROUP];
	uint8_t grids[MAT_INT_SUBGROUPS]; /* of 4 bits; without bits of the scale */
	uint16_t scale;
};

/* `values` are finite, 0 where inputs are missing; `weights`, finite and not negative, NULL: all
 * the same. The same on every machine. */
void int_group_fit(struct int_group *ret, const float values[static MAT_INT_GROUP],
	const float *weights, uint32_t bits);

/* A code of a sub-group stands for  scale * (step * code - offset). */
struct int_grid {
	double scale;
	double step, offset; /* integers */
};

static inline struct int_grid int_group_grid(
	const struct int_group *g, size_t subgroup, uint32_t bits)
{
	struct int_grid grid = {(double)bf16_to_f32(g->scale), 1, 128};

	if (bits == 4) {
		grid.step = mat_int_step(g->grids[subgroup]);
		grid.offset = mat_int_offset(g->grids[subgroup]);
	}
	return grid;
}

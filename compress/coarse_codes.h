/*
 * A matrix as whole numbers of one step, entropy coded: codes for less than what a fixed width
 * takes, down to a small part of a bit a number, most of them being 0.
 *
 * GPTQ meets the columns. A code is the nearest integer, its neighbour towards zero or zero, by the
 * squared error, the column weighed by what its error costs once later ones have made up for it,
 * plus lambda times the code's bits (compress/code_costs.h), learned from the sweep before. Step
 * and lambda are tied as in compress/ldlq.h; the step is searched, so that the part just fits.
 */
#pragma once

#include "compress/gptq.h"
#include "compress/parts.h"
#include "engine/pool.h"

struct coarse_codes_problem {
	struct pool *pool;
	const struct gptq *gptq; /* of the moments of the inputs */
	const float *matrix;     /* place.rows x place.cols */
	struct part_place place;
	uint64_t bytes; /* most that the part takes in a file */
};

/* *ret is the codes, *ret_part what they take; NULL and no payload where none fit, or there is
 * nothing to code. -ENOMEM; -EDOM if a number is not finite. */
int coarse_codes_fit(const struct coarse_codes_problem *problem, struct code_matrix **ret,
	struct part *ret_part) _must_check_;

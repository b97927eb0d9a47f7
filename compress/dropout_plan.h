/*
 * How a matrix is to be dropped and quantised: columns of a group, survivors among them, bits of a
 * code, one step or one for each row. Everything is judged by the closed form of
 * compress/dropout_score.h, at no more bytes than allowed; nothing is drawn.
 *
 *   asked for   alpha and bits given: groups of alpha, 2 alpha, 4 alpha, ... columns that divide a
 *               row, and the whole row, compete; group / alpha of each group survive; one step for
 *               the matrix
 *   by bytes    all divisors of a row compete as groups, with as many survivors as the bytes allow,
 *               not more than half (alpha, a fraction here, is at least 2: with less dropped this
 *               would be plain rounding), codes of 1 to 6 bits, with and without a step a row.
 *               Of candidates within three hundredths of the best, both of what is left and of
 *               what is gained, the one with the fewest bytes in memory is taken.
 *
 * A code costs its bits, or their entropy where the writer may code them and that is less. Sums run
 * over at most DROPOUT_PLAN_ROWS rows, spread evenly.
 */
#pragma once

#include "compress/dropout_codes.h"

#define DROPOUT_PLAN_ROWS 128u
#define DROPOUT_PLAN_BITS 6u

struct dropout_request {
	uint32_t alpha, bits; /* 0: as the bytes allow. Both or none */
	uint64_t bytes;       /* of the payload; not looked at where alpha is given */
	uint32_t group;       /* columns; 0: the best by score. Else the largest that is allowed and
				 not larger */
	bool min_max, unbiased;
	double coherence; /* of compress/dropout_codes.h, as those two are */
	bool coded;       /* the writer may entropy-code */
};

struct dropout_plan {
	struct dropout_shape shape; /* n_keep 0: the bytes do not hold one survivor a group */
	struct dropout_how how;
	double left; /* expected, as a share of the output's energy */
};

int dropout_plan_make(const struct dropout_target *t, const struct dropout_request *q,
	struct dropout_plan *ret, struct reason *reason) _must_check_;

/* Groups of a row, ascending, that an alpha allows; with alpha 0 all divisors from 2 on. Returns
 * how many, at most `max`. Those that leave no room for codes of `bits` are not among them. */
size_t dropout_plan_groups(uint32_t cols, uint32_t alpha, uint32_t bits, uint32_t *ret, size_t max);

/* The largest of them that is not larger than `wanted`. -EINVAL says what does not divide what. */
int dropout_plan_group(uint32_t cols, const struct dropout_request *q, uint32_t wanted,
	uint32_t *ret, struct reason *reason) _must_check_;

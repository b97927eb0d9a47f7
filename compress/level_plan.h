/*
 * Which components of which matrices stand at which level of a delta file (store/format.h): those
 * that are worth most a byte at the first, about as many bytes at each.
 *
 * What a matrix has at a level and below is always its first components. Each stretch of them that
 * stands apart costs bytes of its own (a record, contexts that learn anew), so that stretches of
 * less than `least` bytes are put to a neighbour; what is in one piece in the end goes where all of
 * it together belongs.
 */
#pragma once

#include "common/base.h"

#define LEVEL_PLAN_MOST 4u
#define LEVEL_PLAN_BYTES (UINT32_C(256) << 10) /* a level has, of projections, or more */

struct level_component {
	float bytes, benefit; /* > 0; >= 0 */
};

struct level_matrix {
	struct level_component *components; /* the first matters most; one, of what is whole */
	uint32_t n;                         /* 0: nothing is stored */
	/* The plan: how many components stand at level k and below. */
	uint32_t ends[LEVEL_PLAN_MOST];
};

/* Levels for so many bytes of projections. */
uint32_t level_plan_count(double bytes);

/* Sets the ends of all matrices; those from n_levels on are n. -ENOMEM. */
int level_plan(struct level_matrix *matrices, size_t n_matrices, uint32_t n_levels, double least)
	_must_check_;

/* Stretches of a matrix at levels of their own, beyond the first. */
uint32_t level_plan_cuts(const struct level_matrix *m);

/*
 * The weights that one step of a model must read, however many rows it has.
 */
#pragma once

#include "store/delta.h"

/*
 * Projections, or the head, with scales or grids, of a base and of n deltas that a step
 * uses. deltas[i] NULL is the base alone. A matrix that each of them replaces as a whole is not
 * read from the base. Norms and single rows of the embedding are left out.
 */
uint64_t projections_bytes(const struct base *base, const struct delta *const *deltas, size_t n);
uint64_t head_bytes(const struct base *base, const struct delta *const *deltas, size_t n);

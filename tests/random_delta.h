/*
 * A delta with random numbers for a given base: every projection gets bands of 8, 3 and 2 bits, the
 * attention norms change, some rows of embedding and head are replaced and tokens are added.
 */
#pragma once

#include "store/delta.h"

#define RANDOM_DELTA_REPLACED 21 /* rows of the embedding, and of the head if it is not tied */

/* Fails the running test if anything goes wrong. The same seed gives the same delta. */
struct delta *random_delta(const struct base *base, uint32_t seed, uint32_t n_added);

/* Small numbers of a seed, for whoever needs some. */
uint32_t random_u32(uint32_t *state);
/* In [-1, 1). */
float random_float(uint32_t *state);

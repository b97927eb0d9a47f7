/*
 * Deltas with random numbers for a given base: every codec is at work in some projection. The
 * same seed gives the same delta; any trouble fails the running test.
 */
#pragma once

#include "store/delta.h"

#define RANDOM_DELTA_REPLACED 21 /* rows of the embedding, and of the head if it is not tied */

/* In memory; the attention norms change, too, some rows of embedding and head are replaced and
 * tokens are added. */
struct delta *random_delta(const struct base *base, uint32_t seed, uint32_t n_added);

/* The head, which is not tied, changes as the last layer's projection of that role does. */
struct delta *random_delta_with_head(
	const struct base *base, uint32_t seed, enum tensor_role head_like);

/* A file that changes projections only. `chat_folder` is a model folder whose chat format the delta
 * brings, or NULL. */
void random_delta_file(
	const struct base *base, uint32_t seed, const char *chat_folder, const char *path);

/* Small numbers of a seed, for whoever needs some. */
uint32_t random_u32(uint32_t *state);
/* In [-1, 1). */
float random_float(uint32_t *state);

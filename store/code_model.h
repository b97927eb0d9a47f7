/*
 * What the coder of small integers expects of the next one; shared by encoder, decoder and the
 * estimate of costs, so that they cannot drift apart. No part of it is stored.
 *
 * A fine-tune's delta has rows and columns of different energy, and one uniform step serves the
 * whole matrix. So the magnitude expected at (r, c) is  row mean * column mean / mean of all, with
 * running means, and the bits of a code are counted apart for each half-octave of it. The
 * neighbouring codes themselves tell nothing more (measured on real deltas).
 *
 * A code is the bits: is it zero; its sign, where both signs are possible; is its magnitude more
 * than 1, 2, ... as long as more is possible, so that a code past the end cannot be written.
 *
 * Means are magnitudes in 2^-16.
 */
#pragma once

#include "store/range_coder.h"

#define CODE_LEVELS 32
#define CODE_SLOTS 18
#define CODE_MAX_BITS 8
#define CODE_ONE (UINT32_C(1) << 16)
/* Added to every mean: no code is believed to be impossible after some hundred zeros. */
#define CODE_MEAN_FLOOR (CODE_ONE / 128)
/* Means begin as this; it is soon forgotten. */
#define CODE_MEAN_FIRST (CODE_ONE / 4)

struct code_contexts {
	struct range_bit nonzero[CODE_LEVELS];
	struct range_bit more[CODE_LEVELS][CODE_SLOTS];
};

/* The largest magnitudes below and above zero. */
struct code_limits {
	uint32_t below, above;
};

static inline struct code_limits code_limits_of(uint32_t bits, uint8_t centre)
{
	return (struct code_limits){.below = centre, .above = (1u << bits) - 1 - centre};
}

/* The half-octave of an expected magnitude: 1/256 or less is 0, 192 or more the last. */
static inline uint32_t code_level(uint64_t expected)
{
	uint64_t least = UINT64_C(1) << 8, most = (UINT64_C(1) << 24) - 1;
	uint64_t e = expected < least ? least : expected > most ? most : expected;
	uint32_t octave = 63 - (uint32_t)__builtin_clzll(e);

	return 2 * (octave - 8) + (uint32_t)(e >> (octave - 1) & 1);
}

/* Which bit tells that a magnitude is more than `than`, 1 or larger. */
static inline uint32_t code_slot(uint32_t than)
{
	uint32_t octave = 31 - (uint32_t)__builtin_clz(than);

	if (than <= 8)
		return than - 1;
	return 2 + 2 * octave + (than >> (octave - 1) & 1);
}

/* A running mean takes in a magnitude with weight 2^-shift. */
static inline uint32_t code_mean_learn(uint32_t mean, uint32_t magnitude, int shift)
{
	return (uint32_t)((int32_t)mean +
			  (((int32_t)(magnitude * CODE_ONE) - (int32_t)mean) >> shift));
}

/* What is true of a geometric distribution, about. */
static inline void code_contexts_begin(struct code_contexts *c)
{
	for (uint32_t level = 0; level < CODE_LEVELS; level++) {
		uint64_t mean = (uint64_t)(2 + level % 2) << (level / 2 + 7);
		uint32_t nonzero = (uint32_t)((mean << 16) / (mean + CODE_ONE));

		c->nonzero[level] = range_bit_of(nonzero, 8);
		for (uint32_t slot = 0; slot < CODE_SLOTS; slot++)
			c->more[level][slot] = range_bit_of(nonzero * 3 / 4, 4);
	}
}

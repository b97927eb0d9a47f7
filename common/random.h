/*
 * Numbers that only look random: functions of a seed and a counter, the same everywhere. Files and
 * what a sampler answers depend on them: they are frozen.
 */
#pragma once

#include <stdint.h>

/* The finaliser of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's "variant 13").
 */
static inline uint64_t mix64(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Number `index` of SplitMix64 that begins at `key`. Steps are 2^64 over the golden ratio, odd. */
static inline uint64_t mix64_at(uint64_t key, uint64_t index)
{
	return mix64(key + (index + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

/* Number `at` of the stream that belongs to a seed; seeds may be neighbours. */
static inline uint64_t random_at(uint64_t seed, uint64_t at)
{
	return mix64_at(mix64(seed), at);
}

/* In [0, 1). */
static inline double random_share(uint64_t bits)
{
	return (double)(bits >> 11) * 0x1p-53;
}

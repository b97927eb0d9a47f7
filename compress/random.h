/*
 * Numbers that only look random: functions of a seed and a counter, the same everywhere.
 */
#pragma once

#include <stdint.h>

/* The finaliser of SplitMix64 (Steele, Lea and Flood 2014). */
static inline uint64_t random_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Number `at` of the stream that belongs to a seed. */
static inline uint64_t random_at(uint64_t seed, uint64_t at)
{
	return random_mix(random_mix(seed) + (at + 1) * 0x9e3779b97f4a7c15);
}

/* In [0, 1). */
static inline double random_share(uint64_t bits)
{
	return (double)(bits >> 11) * 0x1p-53;
}

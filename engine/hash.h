/*
 * Hashing for tables that are built from files: the seed is drawn at run time, so that no file can
 * be made whose keys collide.
 */
#pragma once

#include "common/base.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

static inline uint64_t hash_seed(void)
{
	uint64_t seed;
	struct timespec now;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == (ssize_t)sizeof(seed))
		return seed;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_nsec * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)now.tv_sec;
}

static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)(a ^ UINT64_C(0x2d358dccaa6c78a5)) *
				    (b ^ UINT64_C(0x8bb84b93962eacc9));

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t hash_bytes(uint64_t seed, const char *bytes, size_t n)
{
	uint64_t h = hash_mix(seed, n), word;

	for (; n >= 8; bytes += 8, n -= 8) {
		memcpy(&word, bytes, 8);
		h = hash_mix(h ^ word, seed);
	}
	word = 0;
	if (n)
		memcpy(&word, bytes, n);
	return hash_mix(h ^ word, seed);
}

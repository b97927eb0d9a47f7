/*
 * Normal numbers that are the same everywhere.
 */
#pragma once

#include <stdint.h>

/* The next of mean 0 and variance 1: twelve uniform ones, less 6. */
static inline double normal_next(uint64_t *state)
{
	double sum = 0;

	for (int i = 0; i < 12; i++) {
		*state = *state * 6364136223846793005u + 1442695040888963407u;
		sum += (double)(*state >> 33) / 2147483648.0;
	}
	return sum - 6;
}

/*
 * Scratch of a step: whole lines, so that workers do not write to the same one, and what is never
 * touched is never resident.
 */
#pragma once

#include "common/base.h"

/* count x n x size bytes, 64-byte aligned, to be freed with free(); *bytes grows by them. NULL if
 * there is no such memory. */
static inline void *scratch_new(uint64_t *bytes, uint64_t count, uint64_t n, uint64_t size)
{
	uint64_t numbers, wanted;
	void *memory;

	if (!mul_u64(count, n, &numbers) || !mul_u64(numbers, size, &wanted))
		return NULL;
	wanted = align_up(max_u64(wanted, 1), 64);
	memory = aligned_alloc(64, wanted);
	if (memory)
		*bytes += wanted;
	return memory;
}

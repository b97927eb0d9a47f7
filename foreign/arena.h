/*
 * Memory that is freed all at once: for trees and values that live as long as one parse or one
 * rendering. It has a limit, because what asks for memory comes from a foreign file.
 */
#pragma once

#include "common/base.h"

#include <string.h>

#define ARENA_BLOCK_BYTES (64u << 10)
#define ARENA_MAX_BYTES (64u << 20)

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	_Alignas(16) char bytes[];
};

struct arena {
	struct arena_block *blocks;
	size_t total;
	bool full; /* something was refused for the limit */
};

static inline void arena_done(struct arena *a)
{
	while (a->blocks) {
		struct arena_block *next = a->blocks->next;

		free(a->blocks);
		a->blocks = next;
	}
	a->total = 0;
}

/* Zeroed memory aligned to 16; NULL when out of memory or past the limit. */
static inline void *arena_take(struct arena *a, size_t n)
{
	struct arena_block *b = a->blocks;
	size_t size;

	if (n > ARENA_MAX_BYTES || a->total > ARENA_MAX_BYTES - n) {
		a->full = true;
		return NULL;
	}
	n = (n + 15) & ~(size_t)15;
	if (!b || n > b->size - b->used) {
		size = n > ARENA_BLOCK_BYTES ? n : ARENA_BLOCK_BYTES;
		b = malloc(sizeof(*b) + size);
		if (!b)
			return NULL;
		*b = (struct arena_block){.next = a->blocks, .size = size};
		a->blocks = b;
	}
	b->used += n;
	a->total += n;
	return memset(b->bytes + b->used - n, 0, n);
}

/*
 * How fast this machine reads memory: the ceiling of a decoding model. A pass reads a buffer that
 * no cache holds, with the threads that compute.
 */
#pragma once

#include "engine/pool.h"

struct memory_reader;

/* Borrows the pool. The buffer is twice the largest cache, 512 MiB at least, all of it resident. */
int memory_reader_new(struct pool *pool, struct memory_reader **ret, struct reason *reason)
	_must_check_;
struct memory_reader *memory_reader_free(struct memory_reader *m);

static inline void memory_readerp(struct memory_reader **m)
{
	memory_reader_free(*m);
}

/* Bytes a second of one pass. */
double memory_reader_rate(struct memory_reader *m);

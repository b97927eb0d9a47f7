/*
 * Attention over whole contexts, from the parts that a kernel set computes. What is here is the
 * same for all sets.
 */
#pragma once

#include "kernels/kernels.h"

/* First position that a row at `position` sees. */
static inline size_t attend_first(size_t position, size_t window)
{
	return window == 0 || position < window ? 0 : position - window + 1;
}

/* Bytes of scratch for a call of n_queries = rows x heads; a multiple of 64. */
size_t attend_scratch_bytes(size_t n_queries, size_t head_dim);

/* Bytes of the sums of n_queries; a multiple of 64. */
size_t attend_sums_bytes(size_t n_queries, size_t head_dim);

/* Sums in memory that is aligned for floats. */
struct attend_sums attend_sums_at(void *memory, size_t n_queries, size_t head_dim);

/* sums += part. What is added first is kept bit for bit. */
void attend_sums_add(const struct attend_sums *sums, const struct attend_sums *part,
	size_t n_queries, size_t head_dim);

/* The attention of all rows, from their sums over all parts; `out` is laid out as q. */
void attend_finish(float *out, const struct attend_call *call, const struct attend_sums *sums);

/* Bytes of scratch of attend_all(); a multiple of 64. */
size_t attend_all_bytes(size_t n_queries, size_t head_dim);

/* The attention of all rows, part after part. `scratch` is 64-byte aligned. */
void attend_all(const struct kernels *k, float *out, const struct attend_call *call, void *scratch);

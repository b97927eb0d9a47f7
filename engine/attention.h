/*
 * Attention of one step: which rows go together over the pages of their sequence, and which long
 * contexts several workers share. Neither changes a bit of the result.
 */
#pragma once

#include "engine/forward.h"

struct attention; /* plan of a step of up to max_rows rows, and scratch */

int attention_new(const struct model *model, struct pool *pool, uint32_t max_rows,
	struct attention **ret) _must_check_;
struct attention *attention_free(struct attention *a);

/* Plans a step. The rows are borrowed until the last attention_run() of the step. */
void attention_begin(struct attention *a, const struct batch_row *rows, size_t n);

/* out = attention of q over the keys and values that are stored. Both are n_heads * head_dim
 * numbers a row. */
void attention_run(struct attention *a, uint32_t layer, const float *q, float *out);

/* Bytes of scratch it holds. */
uint64_t attention_bytes(const struct attention *a);

/*
 * What the vector sets' attention shares: the call's arguments as one thing, and the way from
 * positions to addresses.
 */
#pragma once

#include "kernels/kernels.h"

struct attention {
	float *out;
	const float *q;
	size_t n_queries;
	const struct kv_view *kv;
	size_t first;
	size_t n; /* positions */
	float scale;
	float *weights; /* n_queries rows of n */
};

/* Addresses of `n` rows from position `position` on. */
static inline void attention_rows(const char **ret, const void *const *pages,
	const struct kv_view *kv, size_t position, size_t n)
{
	const size_t row_bytes = kv->head_dim * kv_type_size(kv->type);
	size_t page = position / kv->page_tokens, slot = position % kv->page_tokens;

	for (size_t i = 0; i < n; i++) {
		ret[i] = (const char *)pages[page] + slot * row_bytes;
		if (++slot < kv->page_tokens)
			continue;
		slot = 0;
		page++;
	}
}

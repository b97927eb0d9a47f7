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

/*
 * Rows that the next step will read. They are asked for a few at a time between the tiles of this
 * step, because a core can wait for little more than a dozen lines at once.
 */
struct attention_ahead {
	const char *const *rows;
	size_t n; /* rows */
	size_t row_bytes;
	size_t done, per_tile;
};

static inline struct attention_ahead attention_ahead_new(
	const char *const *rows, size_t n, const struct kv_view *kv, size_t n_tiles)
{
	return (struct attention_ahead){.rows = rows,
		.n = n,
		.row_bytes = kv->head_dim * kv_type_size(kv->type),
		.per_tile = (n + n_tiles - 1) / n_tiles};
}

/* To be called once for each tile. */
static inline void attention_ahead_ask(struct attention_ahead *a)
{
	for (size_t i = 0; i < a->per_tile && a->done < a->n; i++, a->done++)
		for (size_t byte = 0; byte < a->row_bytes; byte += 64)
			__builtin_prefetch(a->rows[a->done] + byte);
}

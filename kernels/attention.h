/*
 * What the vector sets' attention shares: what each query sees of a part, and the way over its
 * positions, a group of rows at a time that passes all queries while it is in the cache.
 */
#pragma once

#include "common/base.h"
#include "kernels/attend.h"

#include <string.h>

/* Rows of one group, except the last. */
#define ATTENTION_ROWS 32

/* Rows of a tile, at most; it may begin with any row of the group. */
#define ATTENTION_TILE 16

/* From so many queries on it pays to widen the rows of a group to f32 once for all of them. */
#define ATTENTION_WIDE 9

/* Query i of the call is head i % n_heads of row i / n_heads. */
struct attention_query {
	const float *q;
	uint32_t begin, end; /* positions it sees, counted from the part's first; neither falls as
			      * i rises */
};

struct attention {
	const struct attend_call *call;
	const struct attend_sums *sums;
	struct attention_query *queries;
	size_t n;
	size_t start;      /* the part's first position */
	size_t begin, end; /* positions that any query sees, counted from it */
	float *weights;    /* n rows of ATTEND_PART: scores, then weights */
	float *wide;       /* ATTENTION_ROWS rows */
};

static inline size_t attention_scratch_bytes(size_t n, size_t head_dim)
{
	return align_up(n * sizeof(struct attention_query), 64) + n * ATTEND_PART * sizeof(float) +
	       align_up(ATTENTION_ROWS * head_dim * sizeof(float), 64);
}

/* `at` within the part, counted from its first position. */
static inline uint32_t attention_clip(size_t at, size_t start)
{
	if (at <= start)
		return 0;
	return at - start < ATTEND_PART ? (uint32_t)(at - start) : ATTEND_PART;
}

static inline void attention_init(struct attention *a, const struct attend_sums *sums,
	const struct attend_call *call, size_t part, void *scratch)
{
	const size_t n = call->n_rows * call->n_heads;
	char *memory = scratch;

	*a = (struct attention){.call = call,
		.sums = sums,
		.queries = scratch,
		.n = n,
		.start = part * ATTEND_PART};
	memory += align_up(n * sizeof(struct attention_query), 64);
	a->weights = (float *)(void *)memory;
	a->wide = a->weights + n * ATTEND_PART;
	for (size_t i = 0; i < n; i++) {
		const size_t row = i / call->n_heads, position = call->position + row;

		a->queries[i] = (struct attention_query){
			.q = call->q + row * call->stride + i % call->n_heads * call->kv.head_dim,
			.begin = attention_clip(attend_first(position, call->window), a->start),
			.end = attention_clip(position + 1, a->start),
		};
	}
	a->begin = n ? a->queries[0].begin : 0;
	a->end = n ? a->queries[n - 1].end : 0;
}

/* Positions, counted from the part's first. */
struct attention_range {
	size_t begin, end;
};

/* Positions i to i + n - 1 of the part. */
struct attention_group {
	const char *rows[ATTENTION_ROWS + ATTENTION_TILE];
	enum kv_type type; /* of these rows, which may be widened ones */
	size_t i, n;
	/* Where `asks`, the tiles of the first queries ask for the lines of the next group as they
	 * read their own, because a core can wait for little more than a dozen lines at once. */
	bool asks;
	const char *ahead[ATTENTION_ROWS + ATTENTION_TILE];
};

/* Whether lines of the rows ahead begin between number d, a multiple of `step`, and the next. */
static inline bool attention_asks_at(size_t d, size_t step, enum kv_type type)
{
	return d * kv_number_bytes(type) % 64 < step * kv_number_bytes(type);
}

/* Asks for the lines that begin from number d on, as far as `n` numbers reach. Two groups of f32
 * are too much for the first cache. */
static inline __attribute__((always_inline)) void attention_ask(
	const char *row, size_t d, size_t n, enum kv_type type)
{
	const size_t size = kv_number_bytes(type);

	for (size_t at = d * size; at < (d + n) * size; at += 64)
		if (type == KV_TYPE_F32)
			__builtin_prefetch(row + at, 0, 2);
		else
			__builtin_prefetch(row + at, 0, 3);
}

/* Those of the group that some query from `first` to `last` sees, both of the same call. */
static inline struct attention_range attention_seen(const struct attention_query *first,
	const struct attention_query *last, const struct attention_group *g)
{
	const size_t end = g->i + g->n;
	struct attention_range r = {
		first->begin > g->i ? first->begin : g->i, last->end < end ? last->end : end};

	if (r.begin >= r.end)
		r = (struct attention_range){g->i, g->i};
	return r;
}

static inline struct attention_range attention_seen_by(
	const struct attention_query *query, const struct attention_group *g)
{
	return attention_seen(query, query, g);
}

static inline bool attention_same(struct attention_range a, struct attention_range b)
{
	return a.begin == b.begin && a.end == b.end;
}

/* Addresses of the rows of positions i to i + n - 1 of the part. */
static inline void attention_rows(
	const char **ret, const void *const *pages, const struct attention *a, size_t i, size_t n)
{
	const struct kv_view *kv = &a->call->kv;
	const size_t row_bytes = kv_row_bytes(kv->type, kv->head_dim), position = a->start + i;
	size_t page = position / kv->page_tokens, slot = position % kv->page_tokens;

	for (size_t k = 0; k < n; k++) {
		ret[k] = (const char *)pages[page] + slot * row_bytes;
		if (++slot < kv->page_tokens)
			continue;
		slot = 0;
		page++;
	}
}

typedef void attention_group_fn(const struct attention *a, struct attention_group *g);

/* What one set does with a group of keys and one of values, how it makes weights of the scores of
 * query k, and how it widens a row. */
struct attention_steps {
	attention_group_fn *scores;
	void (*exponentials)(const struct attention *a, size_t k);
	attention_group_fn *values;
	void (*widen)(float *ret, const char *row, size_t n, enum kv_type type);
};

/* Instead of the tiles, which have no reason to ask any more. */
static inline void attention_widen(const struct attention *a, struct attention_group *g,
	void (*widen)(float *ret, const char *row, size_t n, enum kv_type type))
{
	const size_t head_dim = a->call->kv.head_dim;

	for (size_t k = 0; k < g->n; k++) {
		float *to = a->wide + k * head_dim;

		attention_ask(g->ahead[k], 0, head_dim, g->type);
		widen(to, g->rows[k], head_dim, g->type);
		g->rows[k] = (const char *)to;
	}
	/* What a tile reads beyond them is of their type. */
	for (size_t k = g->n; k < array_len(g->rows); k++)
		g->rows[k] = g->rows[0];
	g->asks = false;
	g->type = KV_TYPE_F32;
}

/* All positions of the part that any query sees, from one side's pages. */
static inline void attention_walk(const struct attention *a, const void *const *pages,
	const struct attention_steps *steps, attention_group_fn *group)
{
	const struct kv_view *kv = &a->call->kv;

	for (size_t i = a->begin; i < a->end; i += ATTENTION_ROWS) {
		const size_t n = min_u64(a->end - i, ATTENTION_ROWS);
		const size_t n_ahead = min_u64(a->end - i - n, ATTENTION_ROWS);
		struct attention_group g;

		g.type = kv->type;
		g.i = i;
		g.n = n;
		g.asks = true;
		attention_rows(g.rows, pages, a, i, n);
		/* A tile always takes all its rows; what it makes of these is not kept. */
		for (size_t k = n; k < array_len(g.rows); k++)
			g.rows[k] = g.rows[0];
		memcpy(g.ahead, g.rows, sizeof(g.ahead));
		attention_rows(g.ahead, pages, a, i + n, n_ahead);
		if (kv->type != KV_TYPE_F32 && a->n >= ATTENTION_WIDE)
			attention_widen(a, &g, steps->widen);
		group(a, &g);
	}
}

static inline void attention_run(const struct attend_sums *ret, const struct attend_call *call,
	size_t part, void *scratch, const struct attention_steps *steps)
{
	const size_t n = call->n_rows * call->n_heads;
	struct attention a;

	attention_init(&a, ret, call, part, scratch);
	attention_walk(&a, call->kv.key_pages, steps, steps->scores);
	for (size_t k = 0; k < n; k++)
		steps->exponentials(&a, k);
	memset(ret->vectors, 0, n * call->kv.head_dim * sizeof(*ret->vectors));
	attention_walk(&a, call->kv.value_pages, steps, steps->values);
}

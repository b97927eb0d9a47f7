/*
 * Attention over a part in three passes: scores of 8 positions at a time, their exponentials in
 * place, weighted sum of the values. Keys and values are read from memory once for all queries: a
 * few rows at a time pass every query while they are in the cache.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#define KEY_ROWS 8      /* positions whose scores are computed together */
#define VALUE_QUERIES 2 /* queries and vectors of one tile of sums */
#define VALUE_VECTORS 4

static always_inline_ __m256 halves_widen(__m128i halves)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static always_inline_ __m256 codes_widen(__m128i codes, const char *row)
{
	float scale;

	memcpy(&scale, row, sizeof(scale));
	return _mm256_mul_ps(
		_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), _mm256_set1_ps(scale));
}

/* The last numbers of a row, fewer than 8; zeros after them. */
static __m256 row_end_load(const char *row, size_t d, size_t left, enum kv_type type)
{
	char bytes[8 * sizeof(float)] = {0};

	switch (type) {
	case KV_TYPE_F32:
		memcpy(bytes, row + d * sizeof(float), left * sizeof(float));
		return _mm256_loadu_ps((const float *)(const void *)bytes);
	case KV_TYPE_BF16:
		memcpy(bytes, row + d * sizeof(uint16_t), left * sizeof(uint16_t));
		return halves_widen(_mm_loadu_si128((const __m128i *)(const void *)bytes));
	case KV_TYPE_INT8:
		memcpy(bytes, row + sizeof(float) + d, left);
		return codes_widen(_mm_loadl_epi64((const __m128i *)(const void *)bytes), row);
	}
	__builtin_unreachable();
}

/* 8 numbers from number `d` of a row on, of which `left` exist. `type` is a constant in each
 * caller's instance. */
static always_inline_ __m256 row_load(const char *row, size_t d, size_t left, enum kv_type type)
{
	const void *at;

	if (__builtin_expect(left < 8, 0))
		return row_end_load(row, d, left, type);
	switch (type) {
	case KV_TYPE_F32:
		at = row + d * sizeof(float);
		return _mm256_loadu_ps((const float *)at);
	case KV_TYPE_BF16:
		at = row + d * sizeof(uint16_t);
		return halves_widen(_mm_loadu_si128((const __m128i *)at));
	case KV_TYPE_INT8:
		at = row + sizeof(float) + d;
		return codes_widen(_mm_loadl_epi64((const __m128i *)at), row);
	}
	__builtin_unreachable();
}

static always_inline_ void row_widen(float *ret, const char *row, size_t n, enum kv_type type)
{
	for (size_t d = 0; d < n; d += 8)
		_mm256_maskstore_ps(ret + d, lanes_before(n - d), row_load(row, d, n - d, type));
}

static void widen(float *ret, const char *row, size_t n, enum kv_type type)
{
	switch (type) {
	case KV_TYPE_F32:
		row_widen(ret, row, n, KV_TYPE_F32);
		break;
	case KV_TYPE_BF16:
		row_widen(ret, row, n, KV_TYPE_BF16);
		break;
	case KV_TYPE_INT8:
		row_widen(ret, row, n, KV_TYPE_INT8);
		break;
	}
}

/* Lane i of the result is the sum of the lanes of v[i], each added in the same order. */
static always_inline_ __m256 sums_of_lanes(__m256 v[8])
{
	__m256 low, high;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		v[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
	v[0] = _mm256_hadd_ps(v[0], v[1]);
	v[1] = _mm256_hadd_ps(v[2], v[3]);
	low = _mm256_permute2f128_ps(v[0], v[1], 0x20);
	high = _mm256_permute2f128_ps(v[0], v[1], 0x31);
	return _mm256_add_ps(low, high);
}

static always_inline_ __m256 scores_of_rows(const float *q, const char *const rows[KEY_ROWS],
	const char *const *ahead, size_t head_dim, enum kv_type type)
{
	__m256 sums[KEY_ROWS];

#pragma GCC unroll 8
	for (int i = 0; i < KEY_ROWS; i++)
		sums[i] = _mm256_setzero_ps();
	for (size_t d = 0; d < head_dim; d += 8) {
		__m256 query = _mm256_maskload_ps(q + d, lanes_before(head_dim - d));

		if (ahead && attention_asks_at(d, 8, type))
			for (int i = 0; i < KEY_ROWS; i++)
				attention_ask(ahead[i], d, 8, type);
#pragma GCC unroll 8
		for (int i = 0; i < KEY_ROWS; i++)
			sums[i] = _mm256_fmadd_ps(
				row_load(rows[i], d, head_dim - d, type), query, sums[i]);
	}
	return sums_of_lanes(sums);
}

/* Query k; rows that it does not see are left out. */
static always_inline_ void scores_tiles(
	const struct attention *a, struct attention_group *g, size_t k, enum kv_type type)
{
	const struct attention_query *query = &a->queries[k];
	const struct attention_range seen = attention_seen_by(query, g);
	const __m256 scale = _mm256_set1_ps(a->call->scale);

	for (size_t i = seen.begin; i < seen.end; i += KEY_ROWS) {
		__m256 scores = scores_of_rows(query->q, g->rows + (i - g->i),
			k == 0 && g->asks ? g->ahead + (i - g->i) : NULL, a->call->kv.head_dim,
			type);

		_mm256_maskstore_ps(a->weights + k * ATTEND_PART + i, lanes_before(seen.end - i),
			_mm256_mul_ps(scores, scale));
	}
}

static always_inline_ void scores_rows(
	const struct attention *a, struct attention_group *g, enum kv_type type)
{
	for (size_t k = 0; k < a->n; k++)
		scores_tiles(a, g, k, type);
}

static void scores_group(const struct attention *a, struct attention_group *g)
{
	switch (g->type) {
	case KV_TYPE_F32:
		scores_rows(a, g, KV_TYPE_F32);
		break;
	case KV_TYPE_BF16:
		scores_rows(a, g, KV_TYPE_BF16);
		break;
	case KV_TYPE_INT8:
		scores_rows(a, g, KV_TYPE_INT8);
		break;
	}
}

/* Lanes of positions i to i + 7 that the query sees. */
static always_inline_ __m256i lanes_seen(const struct attention_query *query, size_t i)
{
	__m256i before = lanes_before(query->begin > i ? query->begin - i : 0);

	return _mm256_andnot_si256(before, lanes_before(query->end - i));
}

static float highest_of(const struct attention_query *query, const float *x)
{
	__m256 highest = _mm256_set1_ps(-INFINITY);
	float lanes[8], result = -INFINITY;

	for (size_t i = query->begin / 8 * 8; i < query->end; i += 8) {
		__m256i seen = lanes_seen(query, i);

		highest = _mm256_blendv_ps(highest,
			_mm256_max_ps(highest, _mm256_maskload_ps(x + i, seen)),
			_mm256_castsi256_ps(seen));
	}
	_mm256_storeu_ps(lanes, highest);
	for (size_t i = 0; i < 8; i++)
		result = fmaxf(result, lanes[i]);
	return result;
}

/* Scores become weights. A position has its lane of the sum whatever else is seen. */
static void exponentials(const struct attention *a, size_t k)
{
	const struct attention_query *query = &a->queries[k];
	__m256 highest, total = _mm256_setzero_ps();
	float *x = a->weights + k * ATTEND_PART;

	a->sums->totals[k] = 0;
	if (query->begin >= query->end)
		return;
	a->sums->highest[k] = highest_of(query, x);
	highest = _mm256_set1_ps(a->sums->highest[k]);
	for (size_t i = query->begin / 8 * 8; i < query->end; i += 8) {
		__m256i seen = lanes_seen(query, i);
		__m256 e = lanes_exp(_mm256_sub_ps(_mm256_maskload_ps(x + i, seen), highest));

		total = _mm256_add_ps(total, _mm256_and_ps(e, _mm256_castsi256_ps(seen)));
		_mm256_maskstore_ps(x + i, seen, e);
	}
	a->sums->totals[k] = lanes_sum(total, _mm256_setzero_ps());
}

/* How many of the numbers of vector v of a tile exist. */
static always_inline_ size_t vector_left(size_t v, size_t left)
{
	return left > v * 8 ? left - v * 8 : 0;
}

/* A tile of `n_queries` queries from k on by 32 numbers from d on: adds the positions of r, all of
 * which these queries see. */
static always_inline_ void values_tile(const struct attention *a, const struct attention_group *g,
	struct attention_range r, size_t k, size_t d, int n_queries, enum kv_type type)
{
	const size_t head_dim = a->call->kv.head_dim, left = head_dim - d;
	const float *weights = a->weights + k * ATTEND_PART;
	float *out = a->sums->vectors + k * head_dim + d;
	const bool asks = k == 0 && g->asks;
	__m256 sums[VALUE_QUERIES][VALUE_VECTORS];

#pragma GCC unroll 2
	for (int t = 0; t < n_queries; t++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			sums[t][v] = _mm256_maskload_ps(out + (size_t)t * head_dim + v * 8,
				lanes_before(vector_left(v, left)));
	for (size_t p = r.begin; p < r.end; p++) {
		if (asks)
			attention_ask(g->ahead[p - g->i], d, VALUE_VECTORS * 8, type);
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++) {
			__m256 values =
				row_load(g->rows[p - g->i], d + v * 8, vector_left(v, left), type);

#pragma GCC unroll 2
			for (int t = 0; t < n_queries; t++)
				sums[t][v] = _mm256_fmadd_ps(values,
					_mm256_broadcast_ss(weights + (size_t)t * ATTEND_PART + p),
					sums[t][v]);
		}
	}
#pragma GCC unroll 2
	for (int t = 0; t < n_queries; t++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			_mm256_maskstore_ps(out + (size_t)t * head_dim + v * 8,
				lanes_before(vector_left(v, left)), sums[t][v]);
}

/* Queries k to k + VALUE_QUERIES - 1: together where all see the same. What a query does not see
 * may not even be multiplied by 0, because it may be infinite. */
static always_inline_ void values_of_tile(
	const struct attention *a, struct attention_group *g, size_t k, size_t d, enum kv_type type)
{
	const struct attention_query *first = &a->queries[k], *last = first + VALUE_QUERIES - 1;
	const struct attention_range r = attention_seen_by(first, g);

	if (attention_same(r, attention_seen_by(last, g))) {
		values_tile(a, g, r, k, d, VALUE_QUERIES, type);
		return;
	}
	for (size_t t = 0; t < VALUE_QUERIES; t++)
		values_tile(a, g, attention_seen_by(first + t, g), k + t, d, 1, type);
}

static always_inline_ void values_rows(
	const struct attention *a, struct attention_group *g, enum kv_type type)
{
	for (size_t d = 0; d < a->call->kv.head_dim; d += VALUE_VECTORS * 8) {
		size_t k = 0;

		for (; k + VALUE_QUERIES <= a->n; k += VALUE_QUERIES) {
			values_of_tile(a, g, k, d, type);
		}
		for (; k < a->n; k++) {
			values_tile(a, g, attention_seen_by(&a->queries[k], g), k, d, 1, type);
		}
	}
}

static void values_group(const struct attention *a, struct attention_group *g)
{
	switch (g->type) {
	case KV_TYPE_F32:
		values_rows(a, g, KV_TYPE_F32);
		break;
	case KV_TYPE_BF16:
		values_rows(a, g, KV_TYPE_BF16);
		break;
	case KV_TYPE_INT8:
		values_rows(a, g, KV_TYPE_INT8);
		break;
	}
}

void avx2_attend(
	const struct attend_sums *ret, const struct attend_call *call, size_t part, void *scratch)
{
	static const struct attention_steps steps = {
		.scores = scores_group,
		.exponentials = exponentials,
		.values = values_group,
		.widen = widen,
	};

	attention_run(ret, call, part, scratch, &steps);
}

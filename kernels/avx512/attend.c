/*
 * Attention over a part in three passes: scores of 16 positions at a time, their exponentials in
 * place, weighted sum of the values. Keys and values are read from memory once for all queries: a
 * few rows at a time pass every query while they are in the cache.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/attention.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define KEY_QUERIES 4
#define KEY_ROWS 16     /* positions whose scores are computed together */
#define VALUE_QUERIES 4 /* queries and vectors of one tile of sums */
#define VALUE_VECTORS 4
/* So many queries are worth transposed keys, of heads of so many numbers. */
#define TRANSPOSE_QUERIES 32
#define TRANSPOSE_HEAD_DIM 256
#define PAIR 2 /* queries, and vectors of positions, of a tile over transposed keys */

/* 16 numbers from number `d` of a row on. `type` is a constant in each caller's instance. */
static always_inline_ __m512 row_load(const char *row, size_t d, __mmask16 lanes, enum kv_type type)
{
	const char *codes = row + sizeof(float) + d;
	float scale;

	switch (type) {
	case KV_TYPE_F32:
		return _mm512_maskz_loadu_ps(lanes, row + d * sizeof(float));
	case KV_TYPE_BF16:
		return _mm512_castsi512_ps(
			_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
						  lanes, row + d * sizeof(uint16_t))),
				16));
	case KV_TYPE_INT8:
		memcpy(&scale, row, sizeof(scale));
		return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
					     _mm_maskz_loadu_epi8(lanes, codes))),
			_mm512_set1_ps(scale));
	}
	__builtin_unreachable();
}

static always_inline_ void row_widen(float *ret, const char *row, size_t n, enum kv_type type)
{
	for (size_t d = 0; d < n; d += 16)
		_mm512_mask_storeu_ps(
			ret + d, lanes_before(n - d), row_load(row, d, lanes_before(n - d), type));
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
static always_inline_ __m512 sums_of_lanes(__m512 v[16])
{
	const __m512i order =
		_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44),
			_mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88),
			_mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd));
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++)
		v[i] = _mm512_add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44),
			_mm512_shuffle_ps(v[i], v[i + 2], 0xee));
	v[0] = _mm512_add_ps(
		_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
	return _mm512_permutexvar_ps(order, v[0]);
}

/*
 * Scores of `n_queries` queries from k on with 16 / n_queries rows, so that 16 sums are in flight
 * whatever the number of queries, and a key is loaded once for all of them. Positions i to
 * i + n - 1.
 */
static always_inline_ void scores_tile(const struct attention *a, const char *const *rows,
	const char *const *ahead, size_t i, size_t n, size_t k, int n_queries, enum kv_type type)
{
	const size_t head_dim = a->call->kv.head_dim;
	const int height = KEY_ROWS / n_queries;
	const float *q[KEY_QUERIES];
	float each[KEY_ROWS];
	__m512 sums[KEY_ROWS], scores;

#pragma GCC unroll 4
	for (int t = 0; t < n_queries; t++)
		q[t] = a->queries[k + (size_t)t].q;
#pragma GCC unroll 16
	for (int t = 0; t < KEY_ROWS; t++)
		sums[t] = _mm512_setzero_ps();
	for (size_t d = 0; d < head_dim; d += 16) {
		const __mmask16 lanes = lanes_before(head_dim - d);
		__m512 queries[KEY_QUERIES];

#pragma GCC unroll 4
		for (int t = 0; t < n_queries; t++)
			queries[t] = _mm512_maskz_loadu_ps(lanes, q[t] + d);
		if (ahead && attention_asks_at(d, 16, type))
			for (int r = 0; r < height; r++)
				attention_ask(ahead[r], d, 16, type);
#pragma GCC unroll 16
		for (int r = 0; r < height; r++) {
			__m512 key = row_load(rows[r], d, lanes, type);

#pragma GCC unroll 4
			for (int t = 0; t < n_queries; t++)
				sums[t * height + r] =
					_mm512_fmadd_ps(key, queries[t], sums[t * height + r]);
		}
	}
	scores = _mm512_mul_ps(sums_of_lanes(sums), _mm512_set1_ps(a->call->scale));
	if (n_queries == 1) {
		_mm512_mask_storeu_ps(a->weights + k * ATTEND_PART + i, lanes_before(n), scores);
		return;
	}
	_mm512_storeu_ps(each, scores);
	for (int t = 0; t < n_queries; t++)
		_mm_mask_storeu_ps(a->weights + (k + (size_t)t) * ATTEND_PART + i,
			(__mmask8)lanes_before(n), _mm_loadu_ps(each + t * height));
}

/* Queries k to k + n_queries - 1; rows that none of them sees are left out. */
static always_inline_ void scores_tiles(const struct attention *a, struct attention_group *g,
	size_t k, int n_queries, enum kv_type type)
{
	const size_t height = KEY_ROWS / (size_t)n_queries;
	const struct attention_query *first = &a->queries[k], *last = first + n_queries - 1;
	const struct attention_range seen = attention_seen(first, last, g);

	for (size_t i = seen.begin; i < seen.end; i += height) {
		const size_t left = seen.end - i;

		scores_tile(a, g->rows + (i - g->i),
			k == 0 && g->asks ? g->ahead + (i - g->i) : NULL, i,
			left < height ? left : height, k, n_queries, type);
	}
}

static always_inline_ void scores_rows(
	const struct attention *a, struct attention_group *g, enum kv_type type)
{
	size_t k = 0;

	for (; k + KEY_QUERIES <= a->n; k += KEY_QUERIES)
		scores_tiles(a, g, k, KEY_QUERIES, type);
	for (; k < a->n; k++)
		scores_tiles(a, g, k, 1, type);
}

/* Row i of the result is column i; four by four, of numbers and then of quarters of vectors. */
static always_inline_ void transpose_16(__m512 ret[16], const __m512 rows[16])
{
	__m512 fours[4][4];

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		const __m512 *r = rows + 4 * i;
		__m512 low = _mm512_shuffle_ps(r[0], r[1], 0x44);
		__m512 low2 = _mm512_shuffle_ps(r[2], r[3], 0x44);
		__m512 high = _mm512_shuffle_ps(r[0], r[1], 0xee);
		__m512 high2 = _mm512_shuffle_ps(r[2], r[3], 0xee);

		fours[i][0] = _mm512_shuffle_ps(low, low2, 0x88);
		fours[i][1] = _mm512_shuffle_ps(low, low2, 0xdd);
		fours[i][2] = _mm512_shuffle_ps(high, high2, 0x88);
		fours[i][3] = _mm512_shuffle_ps(high, high2, 0xdd);
	}
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		__m512 low = _mm512_shuffle_f32x4(fours[0][i], fours[1][i], 0x44);
		__m512 low2 = _mm512_shuffle_f32x4(fours[2][i], fours[3][i], 0x44);
		__m512 high = _mm512_shuffle_f32x4(fours[0][i], fours[1][i], 0xee);
		__m512 high2 = _mm512_shuffle_f32x4(fours[2][i], fours[3][i], 0xee);

		ret[i] = _mm512_shuffle_f32x4(low, low2, 0x88);
		ret[i + 4] = _mm512_shuffle_f32x4(low, low2, 0xdd);
		ret[i + 8] = _mm512_shuffle_f32x4(high, high2, 0x88);
		ret[i + 12] = _mm512_shuffle_f32x4(high, high2, 0xdd);
	}
}

/* keys[d] is number d of all positions of the group. */
static void keys_transpose(
	float keys[][ATTENTION_ROWS], const struct attention_group *g, size_t head_dim)
{
	for (size_t first = 0; first < ATTENTION_ROWS; first += 16)
		for (size_t d = 0; d < head_dim; d += 16) {
			__m512 rows[16], columns[16];

			for (size_t i = 0; i < 16; i++)
				rows[i] = _mm512_loadu_ps(g->rows[first + i] + d * sizeof(float));
			transpose_16(columns, rows);
			for (size_t i = 0; i < 16; i++)
				_mm512_store_ps(keys[d + i] + first, columns[i]);
		}
}

typedef __m512 pair_sums[PAIR][PAIR]; /* of queries, for vectors of positions */

/* What lanes `lane`, and those 4, 8 and 12 after it, add up to in scores_tile(), in its order. */
static always_inline_ void lanes_four(pair_sums ret, float (*keys)[ATTENTION_ROWS],
	const float *const q[PAIR], size_t lane, size_t head_dim)
{
	pair_sums sums[4];

#pragma GCC unroll 4
	for (int l = 0; l < 4; l++)
#pragma GCC unroll 2
		for (int t = 0; t < PAIR; t++)
#pragma GCC unroll 2
			for (int v = 0; v < PAIR; v++)
				sums[l][t][v] = _mm512_setzero_ps();
	for (size_t at = lane; at < head_dim; at += 16)
#pragma GCC unroll 4
		for (size_t l = 0; l < 4; l++) {
			const size_t d = at + 4 * l;
			__m512 key[PAIR] = {_mm512_load_ps(keys[d]), _mm512_load_ps(keys[d] + 16)};

#pragma GCC unroll 2
			for (int t = 0; t < PAIR; t++) {
				__m512 number = _mm512_set1_ps(q[t][d]);

#pragma GCC unroll 2
				for (int v = 0; v < PAIR; v++)
					sums[l][t][v] =
						_mm512_fmadd_ps(key[v], number, sums[l][t][v]);
			}
		}
#pragma GCC unroll 2
	for (int t = 0; t < PAIR; t++)
#pragma GCC unroll 2
		for (int v = 0; v < PAIR; v++)
			ret[t][v] = _mm512_add_ps(_mm512_add_ps(sums[0][t][v], sums[2][t][v]),
				_mm512_add_ps(sums[1][t][v], sums[3][t][v]));
}

/* Scores of queries k and k + 1 with all positions of the group. */
static void scores_pair(const struct attention *a, const struct attention_group *g,
	float (*keys)[ATTENTION_ROWS], size_t k)
{
	const float *const q[PAIR] = {a->queries[k].q, a->queries[k + 1].q};
	const __m512 scale = _mm512_set1_ps(a->call->scale);
	pair_sums four[4];

#pragma GCC unroll 4
	for (size_t lane = 0; lane < 4; lane++)
		lanes_four(four[lane], keys, q, lane, a->call->kv.head_dim);
#pragma GCC unroll 2
	for (size_t t = 0; t < PAIR; t++)
#pragma GCC unroll 2
		for (size_t v = 0; v < PAIR; v++) {
			__m512 sum = _mm512_add_ps(_mm512_add_ps(four[0][t][v], four[2][t][v]),
				_mm512_add_ps(four[1][t][v], four[3][t][v]));

			_mm512_mask_storeu_ps(a->weights + (k + t) * ATTEND_PART + g->i + v * 16,
				lanes_of_vector(v, g->n), _mm512_mul_ps(sum, scale));
		}
}

/* A score is the sum that scores_tile() makes, but for many positions in the lanes of a vector, so
 * that no lanes are to be added up. */
static void scores_transposed(const struct attention *a, struct attention_group *g)
{
	float keys[TRANSPOSE_HEAD_DIM][ATTENTION_ROWS] __attribute__((aligned(64)));
	const size_t head_dim = a->call->kv.head_dim;
	size_t k = 0;

	if (g->asks)
		for (size_t i = 0; i < g->n; i++)
			attention_ask(g->ahead[i], 0, head_dim, g->type);
	keys_transpose(keys, g, head_dim);
	for (; k + PAIR <= a->n; k += PAIR)
		if (attention_seen(&a->queries[k], &a->queries[k + 1], g).end > g->i)
			scores_pair(a, g, keys, k);
	if (k < a->n)
		scores_tiles(a, g, k, 1, KV_TYPE_F32);
}

static bool is_transposed(const struct attention *a)
{
	const size_t head_dim = a->call->kv.head_dim;

	return a->n >= TRANSPOSE_QUERIES && head_dim % 16 == 0 && head_dim <= TRANSPOSE_HEAD_DIM;
}

static void scores_group(const struct attention *a, struct attention_group *g)
{
	switch (g->type) {
	case KV_TYPE_F32:
		if (is_transposed(a))
			scores_transposed(a, g);
		else
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

/* Lanes of positions i to i + 15 that the query sees. */
static always_inline_ __mmask16 lanes_seen(const struct attention_query *query, size_t i)
{
	__mmask16 before = query->begin > i ? lanes_before(query->begin - i) : 0;

	return lanes_before(query->end - i) & (__mmask16)~before;
}

/* Scores become weights. A position has its lane of the sum whatever else is seen. */
static void exponentials(const struct attention *a, size_t k)
{
	const struct attention_query *query = &a->queries[k];
	__m512 highest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
	float *x = a->weights + k * ATTEND_PART;

	a->sums->totals[k] = 0;
	if (query->begin >= query->end)
		return;
	for (size_t i = query->begin / 16 * 16; i < query->end; i += 16) {
		const __mmask16 lanes = lanes_seen(query, i);

		highest = _mm512_mask_max_ps(
			highest, lanes, highest, _mm512_maskz_loadu_ps(lanes, x + i));
	}
	a->sums->highest[k] = _mm512_reduce_max_ps(highest);
	highest = _mm512_set1_ps(a->sums->highest[k]);
	for (size_t i = query->begin / 16 * 16; i < query->end; i += 16) {
		const __mmask16 lanes = lanes_seen(query, i);
		__m512 e = lanes_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), highest));

		total = _mm512_mask_add_ps(total, lanes, total, e);
		_mm512_mask_storeu_ps(x + i, lanes, e);
	}
	a->sums->totals[k] = lanes_sum(total);
}

/* A tile of `n_queries` queries from k on by 64 numbers from d on: adds the positions of r, all of
 * which these queries see. */
static always_inline_ void values_tile(const struct attention *a, const struct attention_group *g,
	struct attention_range r, size_t k, size_t d, int n_queries, enum kv_type type)
{
	const size_t head_dim = a->call->kv.head_dim;
	const float *weights = a->weights + k * ATTEND_PART;
	float *out = a->sums->vectors + k * head_dim + d;
	__mmask16 lanes[VALUE_VECTORS];
	const bool asks = k == 0 && g->asks;
	__m512 sums[VALUE_QUERIES][VALUE_VECTORS];

#pragma GCC unroll 4
	for (size_t v = 0; v < VALUE_VECTORS; v++)
		lanes[v] = lanes_of_vector(v, head_dim - d);
#pragma GCC unroll 4
	for (int t = 0; t < n_queries; t++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			sums[t][v] = _mm512_maskz_loadu_ps(
				lanes[v], out + (size_t)t * head_dim + v * 16);
	for (size_t p = r.begin; p < r.end; p++) {
		if (asks)
			attention_ask(g->ahead[p - g->i], d, VALUE_VECTORS * 16, type);
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++) {
			__m512 values = row_load(g->rows[p - g->i], d + v * 16, lanes[v], type);

#pragma GCC unroll 4
			for (int t = 0; t < n_queries; t++)
				sums[t][v] = _mm512_fmadd_ps(values,
					_mm512_set1_ps(weights[(size_t)t * ATTEND_PART + p]),
					sums[t][v]);
		}
	}
#pragma GCC unroll 4
	for (int t = 0; t < n_queries; t++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			_mm512_mask_storeu_ps(
				out + (size_t)t * head_dim + v * 16, lanes[v], sums[t][v]);
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
	for (size_t d = 0; d < a->call->kv.head_dim; d += VALUE_VECTORS * 16) {
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

void avx512_attend(
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

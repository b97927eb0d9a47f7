/*
 * Attention in three passes: scores of 8 positions at a time, softmax in place, weighted sum of the
 * values. Keys and values are read from memory once for all query heads: a few rows at a time pass
 * every head while they are in the cache.
 */
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/lanes.h"
#include "kernels/attention.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define KEY_ROWS 8    /* positions whose scores are computed together */
#define VALUE_ROWS 32 /* positions of values that stay in the cache */
#define VALUE_HEADS 2 /* heads and vectors of one tile of sums */
#define VALUE_VECTORS 4

/* The last numbers of a row, fewer than 8; zeros after them. */
static __m256 row_end_load(const char *row, size_t d, size_t left, enum kv_type type)
{
	uint16_t halves[8] = {0};
	float numbers[8] = {0};

	if (type == KV_TYPE_F32) {
		memcpy(numbers, row + d * sizeof(float), left * sizeof(float));
		return _mm256_loadu_ps(numbers);
	}
	memcpy(halves, row + d * sizeof(uint16_t), left * sizeof(uint16_t));
	return _mm256_castsi256_ps(_mm256_slli_epi32(
		_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)halves)), 16));
}

/* 8 numbers from number `d` of a row on, of which `left` exist. `type` is a constant in each
 * caller's instance. */
static always_inline_ __m256 row_load(const char *row, size_t d, size_t left, enum kv_type type)
{
	if (__builtin_expect(left < 8, 0))
		return row_end_load(row, d, left, type);
	if (type == KV_TYPE_F32)
		return _mm256_loadu_ps((const float *)(const void *)(row + d * sizeof(float)));
	return _mm256_castsi256_ps(_mm256_slli_epi32(
		_mm256_cvtepu16_epi32(_mm_loadu_si128(
			(const __m128i *)(const void *)(row + d * sizeof(uint16_t)))),
		16));
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

static always_inline_ __m256 scores_of_rows(
	const float *q, const char *const rows[KEY_ROWS], size_t head_dim, enum kv_type type)
{
	__m256 sums[KEY_ROWS];

#pragma GCC unroll 8
	for (int i = 0; i < KEY_ROWS; i++)
		sums[i] = _mm256_setzero_ps();
	for (size_t d = 0; d < head_dim; d += 8) {
		__m256 query = _mm256_maskload_ps(q + d, lanes_before(head_dim - d));

#pragma GCC unroll 8
		for (int i = 0; i < KEY_ROWS; i++)
			sums[i] = _mm256_fmadd_ps(
				row_load(rows[i], d, head_dim - d, type), query, sums[i]);
	}
	return sums_of_lanes(sums);
}

static always_inline_ void scores_fill(const struct attention *a, enum kv_type type)
{
	const size_t head_dim = a->kv->head_dim;
	const __m256 scale = _mm256_set1_ps(a->scale);

	for (size_t i = 0; i < a->n; i += KEY_ROWS) {
		const size_t n = a->n - i < KEY_ROWS ? a->n - i : KEY_ROWS;
		const size_t end = i + n, n_ahead = a->n - end < KEY_ROWS ? a->n - end : KEY_ROWS;
		const char *rows[KEY_ROWS], *rows_ahead[KEY_ROWS];
		struct attention_ahead ahead =
			attention_ahead_new(rows_ahead, n_ahead, a->kv, a->n_queries);

		attention_rows(rows_ahead, a->kv->key_pages, a->kv, a->first + end, n_ahead);
		attention_rows(rows, a->kv->key_pages, a->kv, a->first + i, n);
		for (size_t k = n; k < KEY_ROWS; k++)
			rows[k] = rows[0];
		for (size_t h = 0; h < a->n_queries; h++) {
			__m256 scores = scores_of_rows(a->q + h * head_dim, rows, head_dim, type);

			attention_ahead_ask(&ahead);
			_mm256_maskstore_ps(a->weights + h * a->n + i, lanes_before(n),
				_mm256_mul_ps(scores, scale));
		}
	}
}

static float highest_of(const float *x, size_t n)
{
	__m256 highest = _mm256_set1_ps(x[0]);
	float lanes[8], result = x[0];

	for (size_t i = 0; i + 8 <= n; i += 8)
		highest = _mm256_max_ps(highest, _mm256_loadu_ps(x + i));
	_mm256_storeu_ps(lanes, highest);
	for (size_t i = 0; i < 8; i++)
		result = fmaxf(result, lanes[i]);
	for (size_t i = n / 8 * 8; i < n; i++)
		result = fmaxf(result, x[i]);
	return result;
}

/* Scores become weights whose sum is 1. */
static void softmax(float *x, size_t n)
{
	const __m256 highest = _mm256_set1_ps(highest_of(x, n));
	__m256 total = _mm256_setzero_ps(), factor;

	for (size_t i = 0; i < n; i += 8) {
		__m256i lanes = lanes_before(n - i);
		__m256 e = lanes_exp(_mm256_sub_ps(_mm256_maskload_ps(x + i, lanes), highest));

		total = _mm256_add_ps(total, _mm256_and_ps(e, _mm256_castsi256_ps(lanes)));
		_mm256_maskstore_ps(x + i, lanes, e);
	}
	factor = _mm256_set1_ps(1 / lanes_sum(total, _mm256_setzero_ps()));
	for (size_t i = 0; i < n; i += 8) {
		__m256i lanes = lanes_before(n - i);

		_mm256_maskstore_ps(
			x + i, lanes, _mm256_mul_ps(_mm256_maskload_ps(x + i, lanes), factor));
	}
}

/* How many of the numbers of vector v of a tile exist. */
static always_inline_ size_t vector_left(size_t v, size_t left)
{
	return left > v * 8 ? left - v * 8 : 0;
}

/* A tile of `heads` heads from h on by 32 numbers from d on: adds positions i to i + n - 1. */
static always_inline_ void values_tile(const struct attention *a, const char *const *rows, size_t i,
	size_t n, size_t h, size_t d, int heads, enum kv_type type)
{
	const size_t head_dim = a->kv->head_dim, left = head_dim - d;
	float *out = a->out + h * head_dim + d;
	const float *weights = a->weights + h * a->n + i;
	__m256 sums[VALUE_HEADS][VALUE_VECTORS];

#pragma GCC unroll 2
	for (int k = 0; k < heads; k++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			sums[k][v] = _mm256_maskload_ps(out + (size_t)k * head_dim + v * 8,
				lanes_before(i == 0 ? 0 : vector_left(v, left)));
	for (size_t p = 0; p < n; p++) {
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++) {
			__m256 values = row_load(rows[p], d + v * 8, vector_left(v, left), type);

#pragma GCC unroll 2
			for (int k = 0; k < heads; k++)
				sums[k][v] = _mm256_fmadd_ps(values,
					_mm256_broadcast_ss(weights + (size_t)k * a->n + p),
					sums[k][v]);
		}
	}
#pragma GCC unroll 2
	for (int k = 0; k < heads; k++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			_mm256_maskstore_ps(out + (size_t)k * head_dim + v * 8,
				lanes_before(vector_left(v, left)), sums[k][v]);
}

/* Positions i to i + n - 1 for all heads. */
static always_inline_ void values_rows(const struct attention *a, const char *const *rows, size_t i,
	size_t n, struct attention_ahead *ahead, enum kv_type type)
{
	for (size_t d = 0; d < a->kv->head_dim; d += VALUE_VECTORS * 8) {
		size_t h = 0;

		for (; h + VALUE_HEADS <= a->n_queries; h += VALUE_HEADS) {
			values_tile(a, rows, i, n, h, d, VALUE_HEADS, type);
			attention_ahead_ask(ahead);
		}
		for (; h < a->n_queries; h++) {
			values_tile(a, rows, i, n, h, d, 1, type);
			attention_ahead_ask(ahead);
		}
	}
}

static always_inline_ void values_add(const struct attention *a, enum kv_type type)
{
	const size_t tile_numbers = VALUE_VECTORS * 8;
	const size_t n_tiles = (a->kv->head_dim + tile_numbers - 1) / tile_numbers *
			       (a->n_queries / VALUE_HEADS + a->n_queries % VALUE_HEADS);

	for (size_t i = 0; i < a->n; i += VALUE_ROWS) {
		const size_t n = a->n - i < VALUE_ROWS ? a->n - i : VALUE_ROWS;
		const size_t end = i + n,
			     n_ahead = a->n - end < VALUE_ROWS ? a->n - end : VALUE_ROWS;
		const char *rows[VALUE_ROWS], *rows_ahead[VALUE_ROWS];
		struct attention_ahead ahead =
			attention_ahead_new(rows_ahead, n_ahead, a->kv, n_tiles);

		attention_rows(rows, a->kv->value_pages, a->kv, a->first + i, n);
		attention_rows(rows_ahead, a->kv->value_pages, a->kv, a->first + end, n_ahead);
		values_rows(a, rows, i, n, &ahead, type);
	}
}

static void attend_f32(const struct attention *a)
{
	scores_fill(a, KV_TYPE_F32);
	for (size_t h = 0; h < a->n_queries; h++)
		softmax(a->weights + h * a->n, a->n);
	values_add(a, KV_TYPE_F32);
}

static void attend_bf16(const struct attention *a)
{
	scores_fill(a, KV_TYPE_BF16);
	for (size_t h = 0; h < a->n_queries; h++)
		softmax(a->weights + h * a->n, a->n);
	values_add(a, KV_TYPE_BF16);
}

void avx2_attend(float *out, const float *q, size_t n_queries, const struct kv_view *kv,
	size_t first, size_t last, float scale, float *scores)
{
	struct attention a = {.out = out,
		.q = q,
		.n_queries = n_queries,
		.kv = kv,
		.first = first,
		.n = last - first + 1,
		.scale = scale,
		.weights = scores};

	if (n_queries == 0)
		return;
	switch (kv->type) {
	case KV_TYPE_F32:
		attend_f32(&a);
		break;
	case KV_TYPE_BF16:
		attend_bf16(&a);
		break;
	}
}

/* The eight halves, as dwords. */
static __m256i bf16_round(__m256i bits)
{
	__m256i upper = _mm256_srli_epi32(bits, 16);
	__m256i bias = _mm256_add_epi32(
		_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
	__m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
	__m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
	__m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));

	return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
}

static void bf16_store(uint16_t *ret, const float *x, size_t n)
{
	size_t i = 0;

	for (; i + 8 <= n; i += 8) {
		__m256i dwords = bf16_round(_mm256_loadu_si256((const __m256i *)(x + i)));
		__m128i words = _mm_packus_epi32(
			_mm256_castsi256_si128(dwords), _mm256_extracti128_si256(dwords, 1));

		_mm_storeu_si128((__m128i *)(ret + i), words);
	}
	for (; i < n; i++)
		ret[i] = bf16_from_f32(x[i]);
}

void avx2_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
{
	switch (type) {
	case KV_TYPE_F32:
		memcpy(ret, x, n * sizeof(*x));
		break;
	case KV_TYPE_BF16:
		bf16_store(ret, x, n);
		break;
	}
}

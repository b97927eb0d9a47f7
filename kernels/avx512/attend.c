/*
 * Attention in three passes: scores of 16 positions at a time, softmax in place, weighted sum of
 * the values. Keys and values are read from memory once for all query heads: a few rows at a time
 * pass every head while they are in the cache.
 */
#include "kernels/avx512/avx512.h"

#include "kernels/avx512/lanes.h"
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

#define KEY_HEADS 4
#define KEY_ROWS 16   /* positions whose scores are computed together */
#define VALUE_ROWS 32 /* positions of values that stay in the cache */
#define VALUE_HEADS 4 /* heads and vectors of one tile of sums */
#define VALUE_VECTORS 4

/* 16 numbers from number `d` of a row on. `type` is a constant in each caller's instance. */
static always_inline_ __m512 row_load(const char *row, size_t d, __mmask16 lanes, enum kv_type type)
{
	if (type == KV_TYPE_F32)
		return _mm512_maskz_loadu_ps(lanes, row + d * sizeof(float));
	return _mm512_castsi512_ps(_mm512_slli_epi32(
		_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row + d * sizeof(uint16_t))),
		16));
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
 * Scores of `heads` heads from h on with 16 / heads rows, so that 16 sums are in flight whatever
 * the number of heads, and a key is loaded once for all of them. Positions i to i + n - 1.
 */
static always_inline_ void scores_tile(const struct attention *a, const char *const *rows, size_t i,
	size_t n, size_t h, int heads, enum kv_type type)
{
	const size_t head_dim = a->kv->head_dim;
	const int height = KEY_ROWS / heads;
	float scores[KEY_ROWS];
	__m512 sums[KEY_ROWS];

#pragma GCC unroll 16
	for (int k = 0; k < KEY_ROWS; k++)
		sums[k] = _mm512_setzero_ps();
	for (size_t d = 0; d < head_dim; d += 16) {
		const __mmask16 lanes = lanes_before(head_dim - d);
		__m512 queries[KEY_HEADS];

#pragma GCC unroll 4
		for (int k = 0; k < heads; k++)
			queries[k] =
				_mm512_maskz_loadu_ps(lanes, a->q + (h + (size_t)k) * head_dim + d);
#pragma GCC unroll 16
		for (int r = 0; r < height; r++) {
			__m512 key = row_load(rows[r], d, lanes, type);

#pragma GCC unroll 4
			for (int k = 0; k < heads; k++)
				sums[k * height + r] =
					_mm512_fmadd_ps(key, queries[k], sums[k * height + r]);
		}
	}
	_mm512_storeu_ps(scores, _mm512_mul_ps(sums_of_lanes(sums), _mm512_set1_ps(a->scale)));
	for (int k = 0; k < heads; k++)
		memcpy(a->weights + (h + (size_t)k) * a->n + i, scores + k * height,
			n * sizeof(*scores));
}

/* As many positions as `rows` has, which may be fewer than KEY_ROWS, for all heads. */
static always_inline_ void scores_rows(const struct attention *a, const char *const *rows, size_t i,
	size_t n, struct attention_ahead *ahead, enum kv_type type)
{
	const size_t height = KEY_ROWS / KEY_HEADS;
	size_t h = 0;

	for (; h + KEY_HEADS <= a->n_queries; h += KEY_HEADS) {
		for (size_t r = 0; r < n; r += height)
			scores_tile(a, rows + r, i + r, n - r < height ? n - r : height, h,
				KEY_HEADS, type);
		attention_ahead_ask(ahead);
	}
	for (; h < a->n_queries; h++) {
		scores_tile(a, rows, i, n, h, 1, type);
		attention_ahead_ask(ahead);
	}
}

static always_inline_ void scores_fill(const struct attention *a, enum kv_type type)
{
	const size_t n_tiles = a->n_queries / KEY_HEADS + a->n_queries % KEY_HEADS;

	for (size_t i = 0; i < a->n; i += KEY_ROWS) {
		const size_t n = a->n - i < KEY_ROWS ? a->n - i : KEY_ROWS;
		const size_t end = i + n, n_ahead = a->n - end < KEY_ROWS ? a->n - end : KEY_ROWS;
		const char *rows[KEY_ROWS], *rows_ahead[KEY_ROWS];
		struct attention_ahead ahead =
			attention_ahead_new(rows_ahead, n_ahead, a->kv, n_tiles);

		attention_rows(rows, a->kv->key_pages, a->kv, a->first + i, n);
		attention_rows(rows_ahead, a->kv->key_pages, a->kv, a->first + end, n_ahead);
		/* A tile always takes all its rows; what it makes of these is not kept. */
		for (size_t k = n; k < KEY_ROWS; k++)
			rows[k] = rows[0];
		scores_rows(a, rows, i, n, &ahead, type);
	}
}

/* Scores become weights whose sum is 1. */
static void softmax(float *x, size_t n)
{
	__m512 highest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps(), factor;

	for (size_t i = 0; i < n; i += 16)
		highest = _mm512_mask_max_ps(highest, lanes_before(n - i), highest,
			_mm512_maskz_loadu_ps(lanes_before(n - i), x + i));
	highest = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);
		__m512 e = lanes_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), highest));

		total = _mm512_mask_add_ps(total, lanes, total, e);
		_mm512_mask_storeu_ps(x + i, lanes, e);
	}
	factor = _mm512_set1_ps(1 / lanes_sum(total));
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);

		_mm512_mask_storeu_ps(
			x + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), factor));
	}
}

/* A tile of `heads` heads from h on by 64 numbers from d on: adds positions i to i + n - 1. */
static always_inline_ void values_tile(const struct attention *a, const char *const *rows, size_t i,
	size_t n, size_t h, size_t d, int heads, enum kv_type type)
{
	const size_t head_dim = a->kv->head_dim;
	float *out = a->out + h * head_dim + d;
	const float *weights = a->weights + h * a->n + i;
	__mmask16 lanes[VALUE_VECTORS];
	__m512 sums[VALUE_HEADS][VALUE_VECTORS];

#pragma GCC unroll 4
	for (size_t v = 0; v < VALUE_VECTORS; v++)
		lanes[v] = lanes_of_vector(v, head_dim - d);
#pragma GCC unroll 4
	for (int k = 0; k < heads; k++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			sums[k][v] = _mm512_maskz_loadu_ps(
				i == 0 ? 0 : lanes[v], out + (size_t)k * head_dim + v * 16);
	for (size_t p = 0; p < n; p++) {
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++) {
			__m512 values = row_load(rows[p], d + v * 16, lanes[v], type);

#pragma GCC unroll 4
			for (int k = 0; k < heads; k++)
				sums[k][v] = _mm512_fmadd_ps(values,
					_mm512_set1_ps(weights[(size_t)k * a->n + p]), sums[k][v]);
		}
	}
#pragma GCC unroll 4
	for (int k = 0; k < heads; k++)
#pragma GCC unroll 4
		for (size_t v = 0; v < VALUE_VECTORS; v++)
			_mm512_mask_storeu_ps(
				out + (size_t)k * head_dim + v * 16, lanes[v], sums[k][v]);
}

/* Positions i to i + n - 1 for all heads. */
static always_inline_ void values_rows(const struct attention *a, const char *const *rows, size_t i,
	size_t n, struct attention_ahead *ahead, enum kv_type type)
{
	for (size_t d = 0; d < a->kv->head_dim; d += VALUE_VECTORS * 16) {
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
	const size_t tile_numbers = VALUE_VECTORS * 16;
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

void avx512_attend(float *out, const float *q, size_t n_queries, const struct kv_view *kv,
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

static void bf16_store(uint16_t *ret, const float *x, size_t n)
{
	const __m512i one = _mm512_set1_epi32(1), infinity = _mm512_set1_epi32(0x7f800000);

	for (size_t i = 0; i < n; i += 16) {
		__mmask16 lanes = lanes_before(n - i);
		__m512i bits = _mm512_maskz_loadu_epi32(lanes, x + i);
		__m512i upper = _mm512_srli_epi32(bits, 16);
		__m512i bias =
			_mm512_add_epi32(_mm512_and_si512(upper, one), _mm512_set1_epi32(0x7fff));
		__m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
		__m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
		__mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, infinity);

		rounded = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
		_mm512_mask_cvtepi32_storeu_epi16(ret + i, lanes, rounded);
	}
}

void avx512_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
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

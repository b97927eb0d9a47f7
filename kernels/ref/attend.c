#include "kernels/attend.h"
#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

static void int8_store(char *ret, const float *x, size_t n)
{
	uint32_t largest_bits = 0;
	float scale = 0, inverse = 0, largest;

	/* By their bits, so that a NaN is larger than any number. */
	for (size_t i = 0; i < n; i++)
		largest_bits = (uint32_t)max_u64(largest_bits, f32_to_bits(x[i]) & 0x7fffffff);
	largest = f32_from_bits(largest_bits);
	if (!(largest < 0x1p-100f)) {
		scale = largest / 127;
		inverse = 127 / largest;
	}
	memcpy(ret, &scale, sizeof(scale));
	for (size_t i = 0; i < n; i++)
		ret[sizeof(scale) + i] = (char)lrintf(x[i] * inverse);
}

void ref_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
{
	char *at = ret;

	switch (type) {
	case KV_TYPE_F32:
		memcpy(at, x, n * sizeof(*x));
		break;
	case KV_TYPE_BF16:
		for (size_t i = 0; i < n; i++) {
			uint16_t rounded = bf16_from_f32(x[i]);

			memcpy(at + i * sizeof(rounded), &rounded, sizeof(rounded));
		}
		break;
	case KV_TYPE_INT8:
		int8_store(at, x, n);
		break;
	}
}

/* Number d of a position, from the pages of keys or of values. */
static double kv_number(
	const void *const *pages, const struct kv_view *kv, size_t position, size_t d)
{
	const char *page = pages[position / kv->page_tokens];
	const char *row = page + position % kv->page_tokens * kv_row_bytes(kv->type, kv->head_dim);
	uint16_t half;
	float number;

	switch (kv->type) {
	case KV_TYPE_F32:
		memcpy(&number, row + d * sizeof(number), sizeof(number));
		return number;
	case KV_TYPE_BF16:
		memcpy(&half, row + d * sizeof(half), sizeof(half));
		return bf16_to_f32(half);
	case KV_TYPE_INT8:
		memcpy(&number, row, sizeof(number));
		return (float)(int8_t)row[sizeof(number) + d] * number;
	}
	__builtin_unreachable();
}

/* Not rounded, but infinite where the highest score, which is, would be. */
static double score_of(const float *q, const struct kv_view *kv, size_t position, float scale)
{
	double sum = 0;

	for (size_t d = 0; d < kv->head_dim; d++)
		sum += q[d] * kv_number(kv->key_pages, kv, position, d);
	sum *= scale;
	return isinf((float)sum) ? (float)sum : sum;
}

/* Sums `i`, of positions first to last. Factors are relative to the highest score as it is
 * returned, which is rounded; scores themselves are not. */
static void attend_one(const struct attend_sums *ret, size_t i, const float *q,
	const struct attend_call *call, size_t first, size_t last)
{
	const struct kv_view *kv = &call->kv;
	double weights[ATTEND_PART], highest = -INFINITY, total = 0;

	for (size_t p = first; p <= last; p++) {
		weights[p - first] = score_of(q, kv, p, call->scale);
		highest = fmax(highest, weights[p - first]);
	}
	ret->highest[i] = (float)highest;
	for (size_t p = first; p <= last; p++) {
		weights[p - first] = exp(weights[p - first] - ret->highest[i]);
		total += weights[p - first];
	}
	ret->totals[i] = (float)total;
	for (size_t d = 0; d < kv->head_dim; d++) {
		double sum = 0;

		for (size_t p = first; p <= last; p++)
			sum += weights[p - first] * kv_number(kv->value_pages, kv, p, d);
		ret->vectors[i * kv->head_dim + d] = (float)sum;
	}
}

void ref_attend(
	const struct attend_sums *ret, const struct attend_call *call, size_t part, void *scratch)
{
	const size_t start = part * ATTEND_PART, end = start + ATTEND_PART - 1;

	(void)scratch;
	for (size_t i = 0; i < call->n_rows * call->n_heads; i++) {
		const size_t row = i / call->n_heads, position = call->position + row;
		const size_t first = max_u64(attend_first(position, call->window), start);
		const size_t last = min_u64(position, end);
		const float *q =
			call->q + row * call->stride + i % call->n_heads * call->kv.head_dim;

		if (first > last)
			ret->totals[i] = 0;
		else
			attend_one(ret, i, q, call, first, last);
	}
}

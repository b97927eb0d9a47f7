#include "kernels/convert.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_kv_store(void *ret, const float *x, size_t n, enum kv_type type)
{
	char *at = ret;

	for (size_t i = 0; i < n; i++) {
		uint16_t rounded = bf16_from_f32(x[i]);

		switch (type) {
		case KV_TYPE_F32:
			memcpy(at + i * sizeof(float), &x[i], sizeof(float));
			break;
		case KV_TYPE_BF16:
			memcpy(at + i * sizeof(rounded), &rounded, sizeof(rounded));
			break;
		}
	}
}

/* Number d of a position, from the pages of keys or of values. */
static double kv_number(
	const void *const *pages, const struct kv_view *kv, size_t position, size_t d)
{
	const char *page = pages[position / kv->page_tokens];
	size_t index = position % kv->page_tokens * kv->head_dim + d;
	uint16_t half;
	float number;

	switch (kv->type) {
	case KV_TYPE_F32:
		memcpy(&number, page + index * sizeof(number), sizeof(number));
		return number;
	case KV_TYPE_BF16:
		memcpy(&half, page + index * sizeof(half), sizeof(half));
		return bf16_to_f32(half);
	}
	__builtin_unreachable();
}

static double score_of(const float *q, const struct kv_view *kv, size_t position, float scale)
{
	double sum = 0;

	for (size_t d = 0; d < kv->head_dim; d++)
		sum += q[d] * kv_number(kv->key_pages, kv, position, d);
	return sum * scale;
}

/* Scores are computed twice, because rounding them to f32 in between would already cost the weights
 * more than the error that is allowed. */
static void attend_one(float *out, const float *q, const struct kv_view *kv, size_t first,
	size_t last, float scale, float *weights)
{
	double highest = -INFINITY, total = 0;

	for (size_t p = first; p <= last; p++)
		highest = fmax(highest, score_of(q, kv, p, scale));
	for (size_t p = first; p <= last; p++) {
		weights[p - first] = (float)exp(score_of(q, kv, p, scale) - highest);
		total += weights[p - first];
	}
	for (size_t d = 0; d < kv->head_dim; d++) {
		double sum = 0;

		for (size_t p = first; p <= last; p++)
			sum += weights[p - first] * kv_number(kv->value_pages, kv, p, d);
		out[d] = (float)(sum / total);
	}
}

void ref_attend(float *out, const float *q, size_t n_queries, const struct kv_view *kv,
	size_t first, size_t last, float scale, float *scores)
{
	for (size_t h = 0; h < n_queries; h++)
		attend_one(out + h * kv->head_dim, q + h * kv->head_dim, kv, first, last, scale,
			scores + h * (last - first + 1));
}

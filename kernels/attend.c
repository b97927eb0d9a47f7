#include "kernels/attend.h"

#include "common/base.h"
#include "kernels/attention.h"

#include <math.h>
#include <string.h>

/* The parts that hold what the rows of a call see: [*ret_part0, *ret_part1). */
static void attend_parts(const struct attend_call *call, size_t *ret_part0, size_t *ret_part1)
{
	*ret_part0 = attend_first(call->position, call->window) / ATTEND_PART;
	*ret_part1 = (call->position + call->n_rows - 1) / ATTEND_PART + 1;
}

size_t attend_scratch_bytes(size_t n_queries, size_t head_dim)
{
	return attention_scratch_bytes(n_queries, head_dim);
}

size_t attend_sums_bytes(size_t n_queries, size_t head_dim)
{
	return align_up(n_queries * (head_dim + 2) * sizeof(float), 64);
}

struct attend_sums attend_sums_at(void *memory, size_t n_queries, size_t head_dim)
{
	float *numbers = memory;

	return (struct attend_sums){
		.vectors = numbers,
		.highest = numbers + n_queries * head_dim,
		.totals = numbers + n_queries * head_dim + n_queries,
	};
}

/* Where one side's highest score is the new one, its factor is 1. */
static void sums_add_one(
	const struct attend_sums *sums, const struct attend_sums *part, size_t i, size_t head_dim)
{
	const float highest = fmaxf(sums->highest[i], part->highest[i]);
	const float old = expf(sums->highest[i] - highest), new = expf(part->highest[i] - highest);
	float *vector = sums->vectors + i * head_dim;
	const float *more = part->vectors + i * head_dim;

	sums->highest[i] = highest;
	sums->totals[i] = sums->totals[i] * old + part->totals[i] * new;
	for (size_t d = 0; d < head_dim; d++)
		vector[d] = vector[d] * old + more[d] * new;
}

void attend_sums_add(const struct attend_sums *sums, const struct attend_sums *part,
	size_t n_queries, size_t head_dim)
{
	for (size_t i = 0; i < n_queries; i++) {
		if (part->totals[i] == 0)
			continue;
		if (sums->totals[i] != 0) {
			sums_add_one(sums, part, i, head_dim);
			continue;
		}
		sums->highest[i] = part->highest[i];
		sums->totals[i] = part->totals[i];
		memcpy(sums->vectors + i * head_dim, part->vectors + i * head_dim,
			head_dim * sizeof(float));
	}
}

void attend_finish(float *out, const struct attend_call *call, const struct attend_sums *sums)
{
	const size_t head_dim = call->kv.head_dim;

	for (size_t i = 0; i < call->n_rows * call->n_heads; i++) {
		const float *vector = sums->vectors + i * head_dim;
		const float factor = 1 / sums->totals[i];
		float *to = out + i / call->n_heads * call->stride + i % call->n_heads * head_dim;

		for (size_t d = 0; d < head_dim; d++)
			to[d] = vector[d] * factor;
	}
}

size_t attend_all_bytes(size_t n_queries, size_t head_dim)
{
	return 2 * attend_sums_bytes(n_queries, head_dim) +
	       attend_scratch_bytes(n_queries, head_dim);
}

void attend_all(const struct kernels *k, float *out, const struct attend_call *call, void *scratch)
{
	const size_t n = call->n_rows * call->n_heads, head_dim = call->kv.head_dim;
	const size_t bytes = attend_sums_bytes(n, head_dim);
	char *memory = scratch;
	struct attend_sums sums = attend_sums_at(memory, n, head_dim);
	struct attend_sums more = attend_sums_at(memory + bytes, n, head_dim);
	size_t part, end;

	if (n == 0)
		return;
	attend_parts(call, &part, &end);
	k->attend(&sums, call, part++, memory + 2 * bytes);
	for (; part < end; part++) {
		k->attend(&more, call, part, memory + 2 * bytes);
		attend_sums_add(&sums, &more, n, head_dim);
	}
	attend_finish(out, call, &sums);
}

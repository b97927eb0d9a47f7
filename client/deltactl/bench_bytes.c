#include "client/deltactl/bench_bytes.h"

#include "kernels/pack.h"

#include <assert.h>

static uint64_t qmat_bytes(const struct qmat *m)
{
	uint64_t groups = (uint64_t)m->rows * qmat_groups(m->cols);
	uint64_t sum = qmat_codes_bytes(m->rows, m->cols, m->bits);

	if (m->scales)
		sum += sizeof(uint16_t) * (m->scale_group ? groups : m->rows);
	return m->zeros ? sum + groups : sum;
}

static uint64_t dropmat_bytes(const struct dropmat *m)
{
	return dropmat_entries_bytes(m) + (m->scales ? sizeof(uint16_t) * (uint64_t)m->rows : 0);
}

static uint64_t part_bytes(const struct delta_part *part)
{
	switch ((enum tensor_codec)part->codec) {
	case CODEC_ROWS:
		return mat_bf16_bytes(part->rows.n_rows, part->rows.values.cols);
	case CODEC_FACTORS:
		return qmat_bytes(&part->factors.v) + qmat_bytes(&part->factors.u) +
		       sizeof(float) * (uint64_t)part->factors.v.rows;
	case CODEC_CODES:
		return qmat_bytes(&part->codes.q);
	case CODEC_DROPOUT:
		return dropmat_bytes(&part->dropout);
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
	case CODEC_MAT_INT:
		assert(!"delta_bind() lets no other codec pass");
	}
	return 0;
}

static bool replaces_all(const struct linear_delta *delta)
{
	return delta->n_parts && delta->parts[0].codec == CODEC_ROWS && !delta->parts[0].rows.rows;
}

/* A base's matrix is read unless each delta replaces all of it. */
struct count {
	uint64_t of_deltas;
	bool base_is_read;
};

/* NULL changes nothing. */
static void count_delta(struct count *c, const struct linear_delta *delta)
{
	c->base_is_read |= !delta || !replaces_all(delta);
	for (uint32_t i = 0; delta && i < delta->n_parts; i++)
		c->of_deltas += part_bytes(&delta->parts[i]);
}

static uint64_t counted(const struct count *c, const struct base_matrix *base)
{
	return c->of_deltas + (c->base_is_read ? base_matrix_bytes(base) : 0);
}

static const struct {
	size_t in_base, in_delta;
} projections[] = {
	{offsetof(struct base_layer, q), offsetof(struct delta_layer, q)},
	{offsetof(struct base_layer, k), offsetof(struct delta_layer, k)},
	{offsetof(struct base_layer, v), offsetof(struct delta_layer, v)},
	{offsetof(struct base_layer, o), offsetof(struct delta_layer, o)},
	{offsetof(struct base_layer, gate), offsetof(struct delta_layer, gate)},
	{offsetof(struct base_layer, up), offsetof(struct delta_layer, up)},
	{offsetof(struct base_layer, down), offsetof(struct delta_layer, down)},
};

static uint64_t projection_bytes(const struct base *base, uint32_t layer, size_t projection,
	const struct delta *const *deltas, size_t n)
{
	const char *of_base = (const char *)&base->layers[layer];
	struct count c = {0};

	for (size_t i = 0; i < n; i++) {
		const char *of_delta = deltas[i] ? (const char *)&deltas[i]->layers[layer] : NULL;

		count_delta(
			&c, of_delta ? (const void *)(of_delta + projections[projection].in_delta)
				     : NULL);
	}
	return counted(&c, (const void *)(of_base + projections[projection].in_base));
}

uint64_t projections_bytes(const struct base *base, const struct delta *const *deltas, size_t n)
{
	uint64_t sum = 0;

	for (uint32_t layer = 0; layer < base->config.n_layers; layer++)
		for (size_t p = 0; p < array_len(projections); p++)
			sum += projection_bytes(base, layer, p, deltas, n);
	return sum;
}

uint64_t head_bytes(const struct base *base, const struct delta *const *deltas, size_t n)
{
	struct count c = {0};

	for (size_t i = 0; i < n; i++)
		count_delta(&c, deltas[i] ? &deltas[i]->head : NULL);
	return counted(&c, &base->head);
}

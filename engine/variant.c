#include "engine/variant.h"

#include "kernels/pack.h"

#include <string.h>

static const enum tensor_role projection_roles[N_LAYER_PROJECTIONS] = {
	[PROJECTION_Q] = ROLE_Q,
	[PROJECTION_K] = ROLE_K,
	[PROJECTION_V] = ROLE_V,
	[PROJECTION_O] = ROLE_O,
	[PROJECTION_GATE] = ROLE_GATE,
	[PROJECTION_UP] = ROLE_UP,
	[PROJECTION_DOWN] = ROLE_DOWN,
};

static void replace_vectors(struct layer_vectors *vectors, struct layer_vectors replacements)
{
	for (uint32_t role = 0; role < N_ROLES; role++) {
		const float **to = layer_vector(vectors, role);

		if (to && *layer_vector(&replacements, role))
			*to = *layer_vector(&replacements, role);
	}
}

/* Which blocks of the base's matrix are replaced whole. */
static int find_replaced(const struct replaced_rows *rows, uint32_t n_rows,
	struct projection_delta *to, struct reason *reason)
{
	size_t n_blocks = mat_bf16_blocks(n_rows), at = 0;

	to->block_replaced = calloc(n_blocks, sizeof(*to->block_replaced));
	if (!to->block_replaced)
		return reason_set(reason, -ENOMEM, "no memory for a variant");
	for (size_t b = 0; b < n_blocks; b++) {
		uint32_t end = (uint32_t)min_u64((b + 1) * MAT_BLOCK, n_rows);
		size_t first = at;

		while (rows->rows && at < rows->n_rows && rows->rows[at] < end)
			at++;
		to->block_replaced[b] = !rows->rows || at - first == end - b * MAT_BLOCK;
	}
	return 0;
}

static int bind_delta(const struct linear_delta *from, uint32_t n_rows, struct projection_delta *to,
	struct reason *reason)
{
	if (from->n_parts == 0)
		return 0;
	to->parts = from;
	if (from->parts[0].codec != CODEC_ROWS)
		return 0;
	return find_replaced(&from->parts[0].rows, n_rows, to, reason);
}

static int bind_projections(struct variant *v, uint32_t layer, struct reason *reason)
{
	const struct delta_layer *d = &v->delta->layers[layer];
	const struct linear_delta *deltas[N_LAYER_PROJECTIONS] = {
		[PROJECTION_Q] = &d->q,
		[PROJECTION_K] = &d->k,
		[PROJECTION_V] = &d->v,
		[PROJECTION_O] = &d->o,
		[PROJECTION_GATE] = &d->gate,
		[PROJECTION_UP] = &d->up,
		[PROJECTION_DOWN] = &d->down,
	};

	for (size_t p = 0; p < N_LAYER_PROJECTIONS; p++) {
		uint32_t rows = 0, cols = 0;
		int r;

		(void)model_config_shape(&v->config, projection_roles[p], layer, &rows, &cols);
		r = bind_delta(deltas[p], rows, &v->layers[layer].deltas[p], reason);
		if (r < 0)
			return reason_prefix(reason, r, "layer %u %s", layer,
				tensor_role_name(projection_roles[p]));
	}
	return 0;
}

static int bind_layers(struct variant *v, struct reason *reason)
{
	const struct base *base = v->model->base;

	for (uint32_t i = 0; i < base->config.n_layers; i++) {
		int r;

		v->layers[i].vectors = base->layers[i].vectors;
		if (!v->delta)
			continue;
		replace_vectors(&v->layers[i].vectors, v->delta->layers[i].vectors);
		r = bind_projections(v, i, reason);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A single row is made of rows alone. */
static int check_embedding(const struct linear_delta *embed, struct reason *reason)
{
	for (uint32_t i = 0; i < embed->n_parts; i++)
		if (embed->parts[i].codec != CODEC_ROWS && embed->parts[i].codec != CODEC_CODES)
			return reason_set(reason, -EOPNOTSUPP,
				"codec %u cannot stand in an embedding", embed->parts[i].codec);
	return 0;
}

static int bind_vocabulary(struct variant *v, struct reason *reason)
{
	const struct delta *d = v->delta;
	uint32_t base_vocab = v->model->base->config.vocab;
	int r;

	if (v->config.vocab > base_vocab && v->config.vocab - base_vocab > VARIANT_MAX_ADDED_TOKENS)
		return reason_set(reason, -EOPNOTSUPP, "%u added tokens, at most %u are supported",
			v->config.vocab - base_vocab, VARIANT_MAX_ADDED_TOKENS);
	r = check_embedding(&d->embed, reason);
	if (r < 0)
		return r;
	v->embed = d->embed.n_parts ? &d->embed : NULL;
	return bind_delta(&d->head, base_vocab, &v->head, reason);
}

int variant_new(const struct model *model, const struct delta *delta, struct variant **ret,
	struct reason *reason)
{
	_cleanup_(variantp) struct variant *v = calloc(1, sizeof(*v));
	int r;

	if (v)
		v->layers = calloc(model->base->config.n_layers, sizeof(*v->layers));
	if (!v || !v->layers)
		return reason_set(reason, -ENOMEM, "no memory for a variant");
	v->model = model;
	v->delta = delta;
	v->config = delta ? delta->config : model->base->config;
	v->final_norm = delta && delta->final_norm ? delta->final_norm : model->base->final_norm;
	r = bind_layers(v, reason);
	if (r < 0)
		return r;
	if (delta) {
		r = bind_vocabulary(v, reason);
		if (r < 0)
			return r;
	}
	*ret = take_ptr(v);
	return 0;
}

struct variant *variant_free(struct variant *variant)
{
	if (!variant)
		return NULL;
	for (uint32_t i = 0; variant->layers && i < variant->config.n_layers; i++)
		for (size_t p = 0; p < N_LAYER_PROJECTIONS; p++)
			free(variant->layers[i].deltas[p].block_replaced);
	free(variant->head.block_replaced);
	free(variant->layers);
	free(variant);
	return NULL;
}

const struct model_config *variant_config(const struct variant *variant)
{
	return &variant->config;
}

/* Index of `row` in the ascending list, or -1; without a list row i is number i. */
static int64_t find_row(const uint32_t *rows, uint32_t n_rows, uint32_t row)
{
	size_t at = rows_first_at(rows, n_rows, row);

	return at < n_rows && (!rows || rows[at] == row) ? (int64_t)at : -1;
}

/* A chunk of a row at a time: nothing is allocated on the way of a token. */
static void add_codes(const struct row_codes *codes, uint32_t token, float *ret)
{
	int64_t row = find_row(codes->rows, codes->q.rows, token);
	double values[QMAT_GROUP];

	for (uint32_t c = 0; row >= 0 && c < codes->q.cols; c += QMAT_GROUP) {
		size_t n = min_u64(QMAT_GROUP, codes->q.cols - c);

		qmat_group_values(values, &codes->q, (uint32_t)row, c / QMAT_GROUP);
		for (size_t i = 0; i < n; i++)
			ret[c + i] += (float)values[i];
	}
}

void variant_embed(const struct variant *variant, uint32_t token, float *ret)
{
	const struct base_matrix *embed = &variant->model->base->embed;
	const struct linear_delta *d = variant->embed;
	const struct kernels *k = variant->model->kernels;

	if (d && d->parts[0].codec == CODEC_ROWS) {
		const struct replaced_rows *rows = &d->parts[0].rows;
		int64_t replaced = find_row(rows->rows, rows->n_rows, token);

		if (replaced >= 0) {
			k->mat_row(ret, &rows->values, (uint32_t)replaced);
			return;
		}
	}
	if (embed->codec == CODEC_MAT_INT)
		base_matrix_row(ret, embed, token);
	else
		k->mat_row(ret, &embed->bf16, token);
	for (uint32_t i = 0; d && i < d->n_parts; i++)
		if (d->parts[i].codec == CODEC_CODES)
			add_codes(&d->parts[i].codes, token, ret);
}

#include "engine/variant.h"

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

/* More ranks than the matrix has would overrun the scratch of a step, and mean nothing. */
static int bind_svd(const struct linear_delta *from, uint32_t rows, uint32_t cols,
	struct projection_delta *to, struct reason *reason)
{
	if (from->svd.total_ranks > min_u64(rows, cols))
		return reason_set(reason, -EBADMSG, "%u ranks, more than a matrix of %u by %u has",
			from->svd.total_ranks, rows, cols);
	*to = (struct projection_delta){.codec = CODEC_MIXED_SVD, .svd = &from->svd};
	return 0;
}

static int bind_delta(const struct linear_delta *from, uint32_t rows, uint32_t cols,
	struct projection_delta *to, struct reason *reason)
{
	if (from->codec == 0)
		return 0;
	switch ((enum tensor_codec)from->codec) {
	case CODEC_MIXED_SVD:
		return bind_svd(from, rows, cols, to, reason);
	case CODEC_VECTOR_F32:
	case CODEC_MAT_BF16:
	case CODEC_DENSE_ROWS:
		break;
	}
	return reason_set(
		reason, -EOPNOTSUPP, "codec %u cannot stand in a projection", from->codec);
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
		r = bind_delta(deltas[p], rows, cols, &v->layers[layer].deltas[p], reason);
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

/* Tokens that the base does not have must come with the delta, each of them. */
static int check_added_rows(const struct variant *v, const struct dense_rows *rows,
	const char *what, struct reason *reason)
{
	uint32_t base_vocab = v->model->base->config.vocab, n_added = 0;

	for (uint32_t i = 0; i < rows->n_rows; i++) {
		if (rows->rows[i] >= v->config.vocab)
			return reason_set(reason, -EBADMSG, "%s row %u, but the vocabulary has %u",
				what, rows->rows[i], v->config.vocab);
		n_added += rows->rows[i] >= base_vocab;
	}
	if (v->config.vocab > base_vocab && n_added != v->config.vocab - base_vocab)
		return reason_set(reason, -EBADMSG, "%s has %u rows of added tokens, expected %u",
			what, n_added, v->config.vocab - base_vocab);
	return 0;
}

static int bind_head(struct variant *v, struct reason *reason)
{
	const struct dense_rows *rows = &v->delta->head;
	uint32_t vocab = v->model->base->config.vocab;
	size_t n_blocks = mat_bf16_blocks(vocab), at = 0;

	v->block_replaced = calloc(n_blocks, sizeof(*v->block_replaced));
	if (!v->block_replaced)
		return reason_set(reason, -ENOMEM, "no memory for a variant");
	for (size_t b = 0; b < n_blocks; b++) {
		uint32_t end = (uint32_t)min_u64((b + 1) * MAT_BLOCK, vocab);
		size_t first = at;

		while (at < rows->n_rows && rows->rows[at] < end)
			at++;
		v->block_replaced[b] = at - first == end - b * MAT_BLOCK;
	}
	v->head = (struct projection_delta){
		.codec = CODEC_DENSE_ROWS,
		.rows = rows,
		.block_replaced = v->block_replaced,
	};
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
	r = check_added_rows(v, &d->embed, "embedding", reason);
	if (r < 0)
		return r;
	r = check_added_rows(v, &d->head, "head", reason);
	if (r < 0)
		return r;
	v->embed = d->embed.n_rows ? &d->embed : NULL;
	return d->head.n_rows ? bind_head(v, reason) : 0;
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
	free(variant->block_replaced);
	free(variant->layers);
	free(variant);
	return NULL;
}

const struct model_config *variant_config(const struct variant *variant)
{
	return &variant->config;
}

/* Index of `row` in the ascending list, or -1. */
static int64_t find_row(const struct dense_rows *rows, uint32_t row)
{
	uint32_t low = 0, high = rows->n_rows;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (rows->rows[middle] < row)
			low = middle + 1;
		else
			high = middle;
	}
	return low < rows->n_rows && rows->rows[low] == row ? (int64_t)low : -1;
}

void variant_embed(const struct variant *variant, uint32_t token, float *ret)
{
	const struct kernels *k = variant->model->kernels;
	int64_t replaced = variant->embed ? find_row(variant->embed, token) : -1;

	if (replaced >= 0)
		k->mat_row(ret, &variant->embed->values, (uint32_t)replaced);
	else
		k->mat_row(ret, &variant->model->base->embed, token);
}

#include "compress/layer.h"

#include "compress/exact.h"
#include "store/base.h"

#include <string.h>

static const enum tensor_role roles[N_PLACES] = {
	ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_DOWN};

static const enum tensor_role vector_roles[LAYER_VECTORS] = {ROLE_ATTN_NORM, ROLE_Q_BIAS,
	ROLE_K_BIAS, ROLE_V_BIAS, ROLE_Q_NORM, ROLE_K_NORM, ROLE_O_BIAS, ROLE_FFN_NORM,
	ROLE_GATE_BIAS, ROLE_UP_BIAS, ROLE_DOWN_BIAS};

enum tensor_role layer_role(enum layer_place place)
{
	return roles[place];
}

void layer_drop(struct layer *l, size_t first, size_t last)
{
	for (size_t i = first; i < last; i++) {
		free(l->matrices[i].base);
		free(l->matrices[i].delta);
		l->matrices[i] = (struct pair_matrix){0};
	}
}

void layer_done(struct layer *l)
{
	layer_drop(l, 0, N_PLACES);
	for (size_t i = 0; i < LAYER_VECTORS; i++)
		free(l->vectors[i]);
	*l = (struct layer){0};
}

static int load_vector(const struct pair *pair, const struct vector_source *vectors, size_t at,
	struct delta_file *f, struct layer *l, struct reason *reason)
{
	const float *other;
	enum tensor_role role = vector_roles[at];
	uint32_t rows, cols;
	bool changed;
	int r;

	r = pair_read_vector(pair, role, l->index, &l->vectors[at], &changed, reason);
	if (r < 0 || !l->vectors[at])
		return r;
	other = vectors->of ? vectors->of(vectors->state, role, l->index) : NULL;
	if (!changed && !other)
		return 0;
	if (!model_config_shape(&pair->base_config, role, l->index, &rows, &cols))
		return -EINVAL;
	if (other)
		memcpy(l->vectors[at], other, rows * sizeof(*other));
	return exact_vector(f, role, l->index, l->vectors[at], rows);
}

int layer_load(const struct pair *pair, const struct vector_source *vectors, struct delta_file *f,
	struct layer *ret, struct reason *reason)
{
	uint32_t index = ret->index;
	int r = 0;

	*ret = (struct layer){.index = index};
	for (size_t i = 0; r == 0 && i < LAYER_VECTORS; i++)
		r = load_vector(pair, vectors, i, f, ret, reason);
	return r;
}

int layer_read(
	const struct pair *pair, struct layer *l, size_t first, size_t last, struct reason *reason)
{
	int r = 0;

	for (size_t i = first; r == 0 && i < last; i++)
		r = pair_read_matrix(pair, roles[i], l->index, &l->matrices[i], reason);
	return r;
}

struct block_weights layer_weights(const struct layer *l)
{
	struct block_weights w = {
		.q = l->matrices[PLACE_Q].base,
		.k = l->matrices[PLACE_K].base,
		.v = l->matrices[PLACE_V].base,
		.o = l->matrices[PLACE_O].base,
		.gate = l->matrices[PLACE_GATE].base,
		.up = l->matrices[PLACE_UP].base,
		.down = l->matrices[PLACE_DOWN].base,
	};
	const float **const vectors[LAYER_VECTORS] = {&w.attn_norm, &w.q_bias, &w.k_bias, &w.v_bias,
		&w.q_norm, &w.k_norm, &w.o_bias, &w.ffn_norm, &w.gate_bias, &w.up_bias,
		&w.down_bias};

	for (size_t i = 0; i < LAYER_VECTORS; i++)
		*vectors[i] = l->vectors[i];
	return w;
}

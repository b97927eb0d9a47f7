/*
 * What the forward pass sees of a model and of its variants; private to engine/. Pointers are
 * resolved once, here, so that a step never asks whether a vector comes from the base or the delta.
 */
#pragma once

#include "engine/model.h"

/* Most tokens that a variant may add to the vocabulary of its base; it sizes the rows of logits. */
#define VARIANT_MAX_ADDED_TOKENS 4096u

enum projection {
	PROJECTION_Q,
	PROJECTION_K,
	PROJECTION_V,
	PROJECTION_O,
	PROJECTION_GATE,
	PROJECTION_UP,
	PROJECTION_DOWN,
	N_LAYER_PROJECTIONS,
	PROJECTION_HEAD = N_LAYER_PROJECTIONS,
};

struct model {
	const struct base *base;
	const struct kernels *kernels;
	double *inv_freq; /* head_dim / 2 angles of one position */
	float attention_factor;
};

/* What a variant does to one linear map. */
struct projection_delta {
	const struct linear_delta *parts; /* NULL: nothing */
	/* One flag for each block of the base's matrix: every output of it is replaced, so its
	 * product with the base would be thrown away. NULL: none is. */
	bool *block_replaced; /* owned */
};

struct variant_layer {
	struct projection_delta deltas[N_LAYER_PROJECTIONS];
	struct layer_vectors vectors;
};

struct variant {
	const struct model *model;
	const struct delta *delta; /* or NULL */
	struct model_config config;
	struct variant_layer *layers;
	const float *final_norm;
	const struct linear_delta *embed; /* or NULL */
	struct projection_delta head;
};

/* What a variant does to a map of a layer; the layer of the head is ignored. */
static inline const struct projection_delta *variant_delta(
	const struct variant *variant, uint32_t layer, enum projection projection)
{
	if (projection == PROJECTION_HEAD)
		return &variant->head;
	return &variant->layers[layer].deltas[projection];
}

/* Numbers in a row of logits that any variant of this model may need. */
uint32_t model_logits_stride(const struct model *model);

/* cosines and sines of one position, head_dim / 2 of each, attention factor included. */
void model_rotation(
	const struct model *model, uint32_t position, float *ret_cosines, float *ret_sines);

/* ret[0 .. hidden): the embedding of a token. */
void variant_embed(const struct variant *variant, uint32_t token, float *ret);

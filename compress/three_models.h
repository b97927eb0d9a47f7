/*
 * The models that a certificate compares, one tensor at a time, as f32: the base as it will be
 * served, the fine-tune rounded to bf16, and what base and delta make together. For models that do
 * not fit into memory; the delta is read from its parts, before there is a file.
 */
#pragma once

#include "compress/delta_file.h"
#include "compress/dense_model.h"
#include "compress/pair.h"
#include "engine/pool.h"

enum which_model {
	MODEL_TUNED,
	MODEL_DELTA,
	MODEL_BASE,
	N_MODELS,
};

struct three_models {
	struct pool *pool;
	const struct pair *pair;
	enum weights base_weights; /* what the base is served as */
	const struct delta_file *file;
};

const struct model_config *three_models_config(const struct three_models *m, enum which_model w);

/* The whole tensor, rows x cols by the model's config, malloc'ed; NULL where the model has none. */
int three_models_read(const struct three_models *m, enum which_model w, enum tensor_role role,
	uint32_t layer, float **ret, struct reason *reason) _must_check_;

/* All tensors of a block. `ret` goes to three_models_drop(), whatever the result. */
int three_models_block(const struct three_models *m, enum which_model w, uint32_t layer,
	struct dense_layer *ret, struct reason *reason) _must_check_;
void three_models_drop(struct dense_layer *b);

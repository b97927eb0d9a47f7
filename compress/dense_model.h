/*
 * A number for every number of a model, in f32 and without packing: weights that are trained, or
 * their gradients. A tensor is found by role and layer as in store/format.h: matrices row-major,
 * outputs by inputs; embedding in layer 0, final norm and head in the last layer.
 *
 * A tensor is owned by the model if dense_model_fill() or dense_model_read() made it, else by
 * whoever set the pointer; NULL is a tensor that the model lacks or, among gradients, nobody wants.
 */
#pragma once

#include "compress/block.h"
#include "foreign/checkpoint.h"

struct dense_layer {
	float *at[N_ROLES];
};

struct dense_model {
	struct model_config config;
	struct dense_layer *layers;
	struct dense_layer *owned; /* those of them to be freed */
	struct checkpoint *source; /* or NULL; see dense_model_open() */
};

/* All tensors NULL. */
int dense_model_new(const struct model_config *config, struct dense_model **ret) _must_check_;
struct dense_model *dense_model_free(struct dense_model *m);

static inline void dense_modelp(struct dense_model **m)
{
	dense_model_free(*m);
}

/* Sets of roles: bit `1 << role`. */
#define DENSE_PROJECTIONS                                                                          \
	(1u << ROLE_Q | 1u << ROLE_K | 1u << ROLE_V | 1u << ROLE_O | 1u << ROLE_GATE |             \
		1u << ROLE_UP | 1u << ROLE_DOWN)
#define DENSE_NORMS                                                                                \
	(1u << ROLE_ATTN_NORM | 1u << ROLE_FFN_NORM | 1u << ROLE_Q_NORM | 1u << ROLE_K_NORM |      \
		1u << ROLE_FINAL_NORM)
#define DENSE_BIASES                                                                               \
	(1u << ROLE_Q_BIAS | 1u << ROLE_K_BIAS | 1u << ROLE_V_BIAS | 1u << ROLE_O_BIAS |           \
		1u << ROLE_GATE_BIAS | 1u << ROLE_UP_BIAS | 1u << ROLE_DOWN_BIAS)
#define DENSE_ALL ((1u << N_ROLES) - 1)

/* Zeros for those of the roles that the config has and that are still NULL. */
int dense_model_fill(struct dense_model *m, uint32_t roles) _must_check_;
void dense_model_zero(struct dense_model *m);

/* A whole checkpoint in memory. */
int dense_model_read(struct checkpoint *c, struct dense_model **ret, struct reason *reason)
	_must_check_;
/* Only embedding, head and final norm; dense_model_hold() reads a block, dense_model_drop() forgets
 * it. Borrows the checkpoint. For models that do not fit as f32. */
int dense_model_open(struct checkpoint *c, struct dense_model **ret, struct reason *reason)
	_must_check_;
/* Nothing but what is held. Borrows likewise. */
int dense_model_open_blocks(struct checkpoint *c, struct dense_model **ret) _must_check_;
/* Everyone who uses the tensors of a block holds it meanwhile; of a model in memory these do
 * nothing. One holder at a time. */
int dense_model_hold(struct dense_model *m, uint32_t layer, struct reason *reason) _must_check_;
void dense_model_drop(struct dense_model *m, uint32_t layer);

/* Numbers of a tensor; 0 if the config has none. */
size_t dense_count(const struct dense_model *m, enum tensor_role role, uint32_t layer);

static inline float *dense_embedding(const struct dense_model *m)
{
	return m->layers[0].at[ROLE_EMBED];
}

static inline float *dense_final_norm(const struct dense_model *m)
{
	return m->layers[m->config.n_layers - 1].at[ROLE_FINAL_NORM];
}

/* The embedding where they are tied. */
float *dense_head(const struct dense_model *m);

/* The projections of a block, in the order of enum projection of the engine. */
#define DENSE_N_PROJECTIONS 7u
extern const enum tensor_role dense_projections[DENSE_N_PROJECTIONS];

struct block_weights dense_layer_weights(const struct dense_layer *l);
struct block_weights dense_block(const struct dense_model *m, uint32_t layer);

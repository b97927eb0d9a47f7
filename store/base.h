/*
 * A base image as a model: config and tensors, each record checked against the config once.
 */
#pragma once

#include "store/base_matrix.h"
#include "store/image.h"

/* The norms and biases of a layer, NULL where the model has none. */
struct layer_vectors {
	const float *attn_norm, *ffn_norm;
	const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
	const float *q_norm, *k_norm;
};

struct base_layer {
	struct base_matrix q, k, v, o, gate, up, down;
	struct layer_vectors vectors;
};

struct base {
	struct image *image; /* owned */
	struct model_config config;
	struct base_matrix embed;
	struct base_matrix head; /* the embedding where tied */
	const float *final_norm;
	struct base_layer *layers; /* config.n_layers of them; owned */
};

/* Is every field in range and every product of sizes representable? -EBADMSG names the field. */
int model_config_check(const struct model_config *c, struct reason *reason) _must_check_;

/* Rows and columns that a role must have in this model (cols 1 for vectors); false if the model has
 * no such tensor (a bias it lacks, a head that is tied, a layer out of range). */
bool model_config_shape(const struct model_config *c, enum tensor_role role, uint32_t layer,
	uint32_t *ret_rows, uint32_t *ret_cols);

/* "q", "final_norm", ...; for messages. */
const char *tensor_role_name(enum tensor_role role);
/* Projections are the seven matrices of a block; vectors are norms and biases. */
bool tensor_role_is_projection(enum tensor_role role);
bool tensor_role_is_vector(enum tensor_role role);

/* The place of a role among them; NULL if it is no vector of a layer. */
const float **layer_vector(struct layer_vectors *v, enum tensor_role role);

/* Bytes of a matrix in kernel order, padding included. */
uint64_t mat_bf16_bytes(uint32_t rows, uint32_t cols);

/* Is `tuned` the same model with other values: alike in everything that shapes memory or
 * arithmetic, but for a vocabulary that may be larger? -EMEDIUMTYPE names the field. */
int model_config_fits(const struct model_config *tuned, const struct model_config *base,
	struct reason *reason) _must_check_;

/* The matrix of a role; NULL if it is none, or the model has no such layer. */
const struct base_matrix *base_matrix(
	const struct base *base, enum tensor_role role, uint32_t layer);

/* Takes the image on success. -EBADMSG if a record is missing, doubled, of the wrong shape or out
 * of its section. */
int base_bind(struct image *image, struct base **ret, struct reason *reason) _must_check_;
int base_open(const char *path, struct base **ret, const struct progress *progress,
	struct reason *reason) _must_check_;
struct base *base_free(struct base *base);

static inline void basep(struct base **b)
{
	base_free(*b);
}

/* What was packed, whatever its packing. */
static inline const struct digest *base_model_digest(const struct base *base)
{
	return &base->image->header.model;
}

/* What computes: the same where no codes stand for the weights. */
static inline const struct digest *base_served_digest(const struct base *base)
{
	return image_served_digest(&base->image->header);
}

/* How the projections are stored: "bf16", or "int8", "int4", ... for codes of so many bits. */
const char *base_weights_name(const struct base *base);

/*
 * A transformer in double, written for being read: what gradients are checked against by finite
 * differences. Shares nothing with the code under test but the angles of the rotation.
 */
#pragma once

#include "compress/dense_model.h"

/* Two layers, small enough for differences of every number. */
enum {
	LITTLE_HIDDEN = 16,
	LITTLE_KV = 8,
	LITTLE_FFN = 24,
	LITTLE_VOCAB = 40,
};
extern const struct model_config little_config;

struct double_model {
	struct model_config config;
	double *(*layers)[N_ROLES];
	struct block_shape *shape; /* for the angles */
	bool rounds;               /* inputs of projections: each 128 to 127ths of their largest */
	bool rounds_head;          /* likewise of the head */
};

/* A copy; any trouble fails the running test. */
struct double_model *double_model_of(const struct dense_model *m, uint32_t longest);
void double_model_free(struct double_model *m);

/* Looks at, or disturbs, one projection (its number in dense_projections) of one layer. */
struct double_probe {
	uint32_t layer;
	size_t projection;
	double *inputs; /* if not NULL: gets what enters it, n x cols */
	size_t token, output;
	double amount; /* is added to that output at that token */
};

/* Logits of every token, n x vocab. `probe` may be NULL. */
void double_model_logits(const struct double_model *m, const uint32_t *ids, size_t n,
	const struct double_probe *probe, double *ret);

/* A model of random numbers with the shape of `config`, on a scale where every part matters. */
struct dense_model *random_dense_model(const struct model_config *config, uint64_t seed);

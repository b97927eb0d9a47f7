/*
 * Kronecker factors of the Fisher information of every projection (Martens and Grosse 2015, K-FAC).
 *
 *   H = 1/R sum_t x_t x_t^T     over the R tokens that are read; cols x cols
 *   G = 1/N sum_t g_t g_t^T     over the same tokens, N the judged ones; rows x rows
 *
 * where x_t is what enters the projection W at token t and g_t = d(sum of losses of the sequence) /
 * d(W x_t), the loss being -log p(y) with labels y drawn from the model itself (LOSS_SAMPLED of
 * compress/loss.h). With these two means an error E of W raises the KL of a judged token by about
 *
 *   1/2 tr(G E H E^T)  nats                             fisher_kl()
 *
 * at temperature 1, so errors of different matrices and layers may be compared and summed. A higher
 * temperature steadies G where the model is sure of itself, but estimates too much, and not by the
 * same factor everywhere: for random errors of 3 % in a model that is nearly certain of every token
 * by 2 to 26 at T = 2, half of the matrices below 6; at T = 1 by 0.8 to 21, half below 1.5. Assumes
 * that inputs and gradients are independent and those of different tokens not correlated.
 *
 * Memory: inputs of all blocks (R x hidden x layers) and the factors of one block, in f32: 970 MB
 * at most for a width of 11008.
 */
#pragma once

#include "common/progress.h"
#include "compress/backward.h"

#define FISHER_TEMPERATURE 2.0

enum fisher_input {
	FISHER_ATTENTION_INPUT, /* of q, k, v */
	FISHER_ATTENTION,       /* of o */
	FISHER_FFN_INPUT,       /* of gate, up */
	FISHER_FFN,             /* of down */
	N_FISHER_INPUTS,
};

/* The factors of one block; both triangles. */
struct fisher_block {
	uint32_t layer;
	float *h[N_FISHER_INPUTS];
	float *g[DENSE_N_PROJECTIONS];               /* as dense_projections */
	double input_energy[N_FISHER_INPUTS];        /* tr H = E |x|^2 */
	double gradient_energy[DENSE_N_PROJECTIONS]; /* tr G, in the units above */
};

void fisher_block_done(struct fisher_block *b);

/* Which H belongs to a projection (its number in dense_projections). */
enum fisher_input fisher_input_of(size_t projection);
/* Numbers of an input: H is so wide and so high. */
uint32_t fisher_input_width(const struct model_config *config, enum fisher_input input);

struct fisher_settings {
	struct pool *pool;
	struct dense_model *model; /* in steps: only its config is looked at */
	const struct sequences *sequences;
	double temperature; /* 0: FISHER_TEMPERATURE */
	uint64_t seed;
	const struct progress *progress;
};

/* Called for each layer, the last first. It may keep the factors by moving the pointers out of the
 * struct and leaving NULL. */
typedef int fisher_fn(void *user, struct fisher_block *block, struct reason *reason);

int fisher_run(const struct fisher_settings *settings, fisher_fn *fn, void *user,
	struct reason *reason) _must_check_;

/*
 * The same in steps of the caller's (compress/backward.h): fisher_visit() is what blocks are
 * visited with, `fisher` its user, and `fn` is called at the end of each.
 */
struct fisher;
int fisher_new(const struct fisher_settings *settings, fisher_fn *fn, void *user,
	struct fisher **ret) _must_check_;
struct fisher *fisher_free(struct fisher *f);

static inline void fisherp(struct fisher **f)
{
	fisher_free(*f);
}

struct loss fisher_loss(const struct fisher_settings *settings);
int fisher_visit(void *fisher, const struct backward_taps *taps, struct reason *reason)
	_must_check_;

/* All layers at once, for small models: `ret` has config.n_layers elements, each to be done with
 * fisher_block_done() after success. */
int fisher_all(const struct fisher_settings *settings, struct fisher_block *ret,
	struct reason *reason) _must_check_;

/*
 * Every factor F becomes (1 - share) F + share tr(F) / tr(F') F' of another text's F': directions
 * that a text shows too seldom to be weighed borrow from one that shows them more, and the sum
 * stays what it was. A factor stays whose F' is 0.
 */
void fisher_blend(struct fisher_block *block, const struct fisher_block *other,
	const struct model_config *config, double share);

/* 1/2 tr(G E H E^T) of an error E, rows x cols. -ENOMEM. */
int fisher_kl(struct pool *pool, const struct fisher_block *block, size_t projection,
	const float *error, uint32_t rows, uint32_t cols, double *ret) _must_check_;

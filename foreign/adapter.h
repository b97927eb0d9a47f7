/*
 * A LoRA adapter (arXiv 2106.09685) as PEFT writes it: adapter_config.json and
 * adapter_model.safetensors. Reads foreign bytes, so it runs inside a sandboxed child.
 *
 * To a projection W it adds  scale * B A,  A of n x inputs and B of outputs x n, with the scale
 * alpha / n, or alpha / sqrt(n) where use_rslora is set. rank_pattern and alpha_pattern give other
 * n and alpha to modules whose name, or what follows a dot in it, a key matches as a regular
 * expression; the first that does counts. Modules that fuse projections (Phi-3) appear as their
 * parts, which share A. modules_to_save and trained biases are whole tensors of the fine-tune.
 *
 * Refused by name: kinds other than LoRA, DoRA, adapters of the embedding's rows, replicated
 * layers, adapters that presume other base weights (PiSSA and its like), and every tensor that
 * belongs to no module of the model.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

struct adapter;

/* `base` is the config of the model that it is for. -EMEDIUMTYPE: shapes of another model.
 * -EBADMSG, -EOPNOTSUPP. */
int adapter_open(const char *folder, const struct model_config *base, struct adapter **ret,
	struct reason *reason) _must_check_;
struct adapter *adapter_free(struct adapter *a);

static inline void adapterp(struct adapter **a)
{
	adapter_free(*a);
}

/* The base's, with the vocabulary of a replaced embedding. */
const struct model_config *adapter_config(const struct adapter *a);

/* What is added to a matrix: sum over i of sigma * b[i] a[i]^T. */
struct adapter_factors {
	uint32_t n; /* 0: nothing */
	uint32_t rows, cols;
	float *a; /* n x cols */
	float *b; /* n x rows: B transposed */
	float sigma;
};
int adapter_read_factors(const struct adapter *a, enum tensor_role role, uint32_t layer,
	struct adapter_factors *ret, struct reason *reason) _must_check_;
void adapter_factors_done(struct adapter_factors *f);

/* The whole tensor in place of the base's, malloc'ed; *ret is NULL if there is none. Embedding and
 * head have as many rows as the adapter's config says. */
int adapter_read_whole(const struct adapter *a, enum tensor_role role, uint32_t layer, float **ret,
	struct reason *reason) _must_check_;

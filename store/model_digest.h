/*
 * The model digest: what the weights are, independent of packing. SHA-256 over, in this order,
 *
 *   the shape part of the config: family, flags, n_layers, hidden, ffn, n_heads, n_kv_heads,
 *   head_dim, vocab, sliding_window, first_window_layer, rope_kind, rope_original_positions (u32),
 *   rope_theta (f64), the six other rope_* fields in the order of struct model_config and norm_eps
 *   (f32);
 *
 *   for each tensor, in the order of (layer, role): role, layer, rows, cols (u32) and the SHA-256
 * of its values, row by row, matrices as bf16, vectors as f32.
 *
 * All little-endian. Longest context, tokenizer, first, padding and end-of-text ids are not part of
 * it. model_digest_add must be called in that order of tensors.
 */
#pragma once

#include "common/digest.h"
#include "store/format.h"

struct model_digest;

/* NULL when out of memory. */
struct model_digest *model_digest_new(const struct model_config *config);
/* `values` are bf16 for matrices, f32 for vectors, rows x cols of them, row-major. */
void model_digest_add(struct model_digest *m, enum tensor_role role, uint32_t layer, uint32_t rows,
	uint32_t cols, const void *values, size_t n_bytes);
/* Ends the computation and frees the state. */
struct digest model_digest_finish(struct model_digest *m);
struct model_digest *model_digest_free(struct model_digest *m);

static inline void model_digestp(struct model_digest **m)
{
	model_digest_free(*m);
}

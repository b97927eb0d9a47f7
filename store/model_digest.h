/*
 * The model digest: what the weights are, independent of packing. SHA-256 over, in this order,
 * the shape part of the config (family, flags, n_layers, hidden, ffn, n_heads, n_kv_heads, head_dim,
 * vocab, sliding_window, first_window_layer, all rope_* fields, norm_eps) and then each tensor in
 * the order of (layer, role): role, layer, rows, cols as u32, and its values row by row, matrices
 * as bf16, vectors as f32. Tokenizer and end-of-text ids are not part of it.
 *
 * SHA-256 is sequential, so tensors are digested one by one and the model digest is the digest of
 * the list of their digests: tensors may be added in any order of computation, but model_digest_add
 * must be called in canonical order.
 */
#pragma once

#include "common/digest.h"
#include "store/format.h"

struct model_digest;

struct model_digest *model_digest_new(const struct model_config *config);
/* `values` are bf16 for matrices, f32 for vectors, rows x cols of them, row-major. */
void model_digest_add(struct model_digest *m, enum tensor_role role, uint32_t layer, uint32_t rows,
	uint32_t cols, const void *values, size_t n_bytes);
struct digest model_digest_finish(struct model_digest *m);
struct model_digest *model_digest_free(struct model_digest *m);

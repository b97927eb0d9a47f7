/*
 * A Hugging Face model folder as one thing: its config turned into ours, and its tensors by role.
 * Reads foreign bytes, so it runs inside a sandboxed child (foreign/sandbox.h). Tensors are read on
 * demand; nothing is kept. Fused tensors (Phi-3's qkv_proj and gate_up_proj) appear as their parts.
 */
#pragma once

#include "common/reason.h"
#include "store/format.h"

struct checkpoint;

/* -EBADMSG: a file breaks its format. -EOPNOTSUPP: an architecture, activation, RoPE type or dtype
 * that we do not implement, by name. */
int checkpoint_open(const char *folder, struct checkpoint **ret, struct reason *reason) _must_check_;
struct checkpoint *checkpoint_free(struct checkpoint *c);

const char *checkpoint_folder(const struct checkpoint *c);
const struct model_config *checkpoint_config(const struct checkpoint *c);

/* Reads a whole tensor, rows x cols row-major as model_config_shape() says. */
int checkpoint_read_f32(struct checkpoint *c, enum tensor_role role, uint32_t layer, float *ret,
	struct reason *reason) _must_check_;
/* Matrices as bf16. *ret_inexact (may be NULL) counts values that bf16 had to round. */
int checkpoint_read_bf16(struct checkpoint *c, enum tensor_role role, uint32_t layer, uint16_t *ret,
	uint64_t *ret_inexact, struct reason *reason) _must_check_;

/* The model digest of store/model_digest.h; reads everything once. */
struct progress;
int checkpoint_digest(struct checkpoint *c, const struct progress *progress, struct digest *ret,
	struct reason *reason) _must_check_;

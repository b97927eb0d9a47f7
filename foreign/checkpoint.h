/*
 * A Hugging Face model folder as one thing: its config turned into ours, and its tensors by role.
 * Reads foreign bytes, so it runs inside a sandboxed child (foreign/sandbox.h). Tensors are read on
 * demand; nothing is kept. Fused tensors (Phi-3's qkv_proj and gate_up_proj) appear as their parts.
 */
#pragma once

#include "common/reason.h"
#include "foreign/safetensors.h"
#include "store/format.h"

struct adapter;
struct checkpoint;
struct progress;

/* -EBADMSG: a file breaks its format. -EOPNOTSUPP: an architecture, activation, RoPE type or dtype
 * that we do not implement, by name. */
int checkpoint_open(const char *folder, struct checkpoint **ret, struct reason *reason)
	_must_check_;
/*
 * The fine-tune that a base and an adapter of it make (foreign/adapter.h), as if somebody had
 * merged them: base + scale * B A, added in double. As bf16 every weight is rounded once; the
 * digest is that of the merged model. The folder is the adapter's, for texts; the base's own folder
 * tells the rest. Errors also as of adapter_open().
 */
int checkpoint_open_adapted(const char *base_folder, const char *adapter_folder,
	struct checkpoint **ret, struct reason *reason) _must_check_;
struct checkpoint *checkpoint_free(struct checkpoint *c);

static inline void checkpointp(struct checkpoint **c)
{
	checkpoint_free(*c);
}

const char *checkpoint_folder(const struct checkpoint *c);
const struct model_config *checkpoint_config(const struct checkpoint *c);
/* NULL where there is none. */
const struct adapter *checkpoint_adapter(const struct checkpoint *c);

/* Reads a whole tensor, rows x cols row-major as model_config_shape() says. A value that is not
 * finite is -EBADMSG. */
int checkpoint_read_f32(struct checkpoint *c, enum tensor_role role, uint32_t layer, float *ret,
	struct reason *reason) _must_check_;
/* Matrices as bf16. *ret_inexact (may be NULL) counts values that bf16 had to round. */
int checkpoint_read_bf16(struct checkpoint *c, enum tensor_role role, uint32_t layer, uint16_t *ret,
	uint64_t *ret_inexact, struct reason *reason) _must_check_;

/* The model digest of store/model_digest.h; reads everything once. */
int checkpoint_digest(struct checkpoint *c, const struct progress *progress, struct digest *ret,
	struct reason *reason) _must_check_;

/* A role's place in a tensor, by the names that Hugging Face gives: rows [first_row, first_row +
 * rows) of tensor_rows. False if such a model has no such role. */
struct checkpoint_place {
	char name[96]; /* "model.layers.0.self_attn.q_proj.weight" */
	uint32_t first_row;
	uint32_t rows, cols;
	uint64_t tensor_rows;
};
bool checkpoint_place(const struct model_config *c, enum tensor_role role, uint32_t layer,
	struct checkpoint_place *ret);

/* The files behind it (of an adapted one, the base's), borrowed; and where a role lies in them:
 * rows [first_row, first_row + rows) of a tensor. False if the model has no such role. */
struct checkpoint_part {
	const struct safetensors_tensor *tensor;
	uint32_t first_row;
	uint32_t rows;
	uint32_t cols;
};
const struct safetensors *checkpoint_tensors(const struct checkpoint *c);
bool checkpoint_part(const struct checkpoint *c, enum tensor_role role, uint32_t layer,
	struct checkpoint_part *ret);

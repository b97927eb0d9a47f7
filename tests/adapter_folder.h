/*
 * A LoRA adapter in memory, of numbers made up for a test, to be changed and written out as PEFT
 * does. A struct model_folder whose config is adapter_config.json; model_folder_done() frees it.
 */
#pragma once

#include "tests/model_folder.h"

#define ADAPTER_PREFIX "base_model.model."

/* No tensors yet. */
void adapter_folder_begin(struct model_folder *f, uint32_t rank, double alpha);

/* A tensor of numbers that its dtype holds exactly; `name` without the prefix, cols 0: a vector.
 * The result is good until the next tensor is added. */
struct folder_tensor *adapter_folder_add(struct model_folder *f, const char *name,
	enum safetensors_dtype dtype, uint64_t rows, uint64_t cols);

/* lora_A and lora_B of a module such as "model.layers.0.self_attn.q_proj". */
struct adapter_module {
	const char *name;
	uint32_t rank, outputs, inputs;
};
void adapter_folder_adapt(
	struct model_folder *f, const struct adapter_module *m, enum safetensors_dtype dtype);

/* Adds scale * B A, rows [first, first + rows) of it, to rows x inputs numbers. */
void adapter_folder_apply(struct model_folder *f, const struct adapter_module *m, double scale,
	uint32_t first, uint32_t rows, double *weights);

/* Makes the folder. */
void adapter_folder_write(struct model_folder *f, const char *folder);

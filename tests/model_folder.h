/*
 * A small model folder in memory, to be changed and written out again: other types of numbers,
 * shards, fused tensors, faults. Any trouble fails the running test.
 */
#pragma once

#include "foreign/safetensors.h"

#include <jansson.h>

struct folder_tensor {
	char *name;
	enum safetensors_dtype dtype; /* BF16, F16 or F32 when written */
	uint32_t n_dims;
	uint64_t shape[2];
	float *values;
};

struct model_folder {
	struct folder_tensor *tensors;
	size_t n_tensors;
	json_t *config;
};

/* Reads a folder with one file of bf16 tensors. */
void model_folder_read(struct model_folder *f, const char *folder);
void model_folder_done(struct model_folder *f);

struct folder_tensor *model_folder_find(struct model_folder *f, const char *name);
uint64_t folder_tensor_count(const struct folder_tensor *t);
/* A copy under another name. */
void model_folder_add(struct model_folder *f, const char *name, const struct folder_tensor *like);
void model_folder_remove(struct model_folder *f, const char *name);
/* Llama to Phi-3: the same numbers in fused tensors. */
void model_folder_fuse(struct model_folder *f);
void model_folder_set_dtype(struct model_folder *f, enum safetensors_dtype dtype);

/* Makes `folder`; with more than one shard tensors are dealt out in turn, with an index. */
void model_folder_write(struct model_folder *f, const char *folder, size_t n_shards);

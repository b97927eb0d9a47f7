/*
 * safetensors files: a JSON header that names tensors, then their bytes. Every rule of the format
 * is checked when a file is opened; afterwards tensors are read with positioned reads, so a file
 * that shrinks meanwhile is an error and not a fault. One file, or the shards of a model folder.
 */
#pragma once

#include "common/reason.h"

#define SAFETENSORS_MAX_DIMS 8
#define SAFETENSORS_INDEX_NAME "model.safetensors.index.json"

enum safetensors_dtype {
	SAFETENSORS_BOOL,
	SAFETENSORS_F4,
	SAFETENSORS_F6_E2M3,
	SAFETENSORS_F6_E3M2,
	SAFETENSORS_U8,
	SAFETENSORS_I8,
	SAFETENSORS_F8_E5M2,
	SAFETENSORS_F8_E4M3,
	SAFETENSORS_F8_E8M0,
	SAFETENSORS_F8_E4M3FNUZ,
	SAFETENSORS_F8_E5M2FNUZ,
	SAFETENSORS_I16,
	SAFETENSORS_U16,
	SAFETENSORS_F16,
	SAFETENSORS_BF16,
	SAFETENSORS_I32,
	SAFETENSORS_U32,
	SAFETENSORS_F32,
	SAFETENSORS_C64,
	SAFETENSORS_F64,
	SAFETENSORS_I64,
	SAFETENSORS_U64,
	SAFETENSORS_N_DTYPES,
};

struct safetensors_tensor {
	const char *name;
	enum safetensors_dtype dtype;
	uint32_t n_dims;
	uint64_t shape[SAFETENSORS_MAX_DIMS];
	uint64_t offset; /* from the beginning of its file */
	uint64_t bytes;
	uint32_t file; /* which of safetensors_n_files() */
};

struct safetensors;

/* One file. -EBADMSG with the rule that it breaks. */
int safetensors_open(const char *path, struct safetensors **ret, struct reason *reason)
	_must_check_;
/* The tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json
 * names. -ENOENT if the folder has neither. */
int safetensors_open_folder(const char *folder, struct safetensors **ret, struct reason *reason)
	_must_check_;
struct safetensors *safetensors_free(struct safetensors *s);

/* Tensors stand in the order of files, and in a file in the order of bytes. */
size_t safetensors_n_tensors(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i);
/* Borrowed; NULL if there is no such tensor. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);

/* Were the files found through an index? */
bool safetensors_has_index(const struct safetensors *s);
size_t safetensors_n_files(const struct safetensors *s);
/* File name without folder. */
const char *safetensors_file_name(const struct safetensors *s, size_t file);
uint64_t safetensors_file_bytes(const struct safetensors *s, size_t file);

/* Reads bytes [from, from + n) of a tensor, as they are stored: little-endian, row-major. */
int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *tensor,
	uint64_t from, void *ret, size_t n, struct reason *reason) _must_check_;

const char *safetensors_dtype_name(enum safetensors_dtype dtype);
/* Bits of one number. */
uint32_t safetensors_dtype_bits(enum safetensors_dtype dtype);
/* "[4096, 384]" */
const char *safetensors_shape_text(const struct safetensors_tensor *tensor, char ret[static 192]);

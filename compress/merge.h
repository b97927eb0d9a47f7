/*
 * Base and delta back to a Hugging Face folder: the base's names and shards, the fine-tune's
 * weights as the delta describes them, rounded to bf16.
 */
#pragma once

#include "common/progress.h"
#include "compress/merge_tokenizer.h"
#include "foreign/checkpoint.h"
#include "store/image.h"

struct merge_job {
	struct checkpoint *base;
	struct image *delta; /* the caller's, not taken */
	const char *folder;  /* exists and is empty */
};

struct merge_report {
	uint64_t file_bytes;
	uint64_t n_tensors; /* of the files */
	uint64_t n_changed; /* of these, by the delta */
	struct merge_tokenizer_report tokenizer;
};

/* Of a delta made for a base of codes, what these serve. -EMEDIUMTYPE if the delta was made for
 * another base. One tensor in memory at a time.
 * The caller has called blas_load(). */
int merge_folder(const struct merge_job *job, const struct progress *progress,
	struct merge_report *ret, struct reason *reason) _must_check_;

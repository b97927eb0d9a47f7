/*
 * A model folder to a base image.
 */
#pragma once

#include "common/progress.h"
#include "foreign/weights.h"

struct import_report {
	struct digest model;
	struct digest
		served; /* of the values that the image serves; `model` unless they are codes */
	struct digest root;
	uint64_t file_bytes;
	uint64_t n_parameters;
	uint64_t n_inexact; /* values of an f32 or f16 source that bf16 had to round */
	bool has_tokenizer;
	char chat_format[32];   /* empty: no known one */
	char chat_refusal[256]; /* why, in that case */
};

/* Writes the image into an empty open file (or memfd). Two tensors in memory at a time, each as
 * read and as packed, and one more in f32 where packing makes codes. A folder without
 * tokenizer.json gives an image without a tokenizer (score works, text does not). */
int import_base(struct checkpoint *checkpoint, enum weights weights, int fd,
	const struct progress *progress, struct import_report *ret, struct reason *reason)
	_must_check_;

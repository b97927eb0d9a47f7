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

/*
 * Whoever rounds projections to codes better than each by itself (foreign/weights.h): called once
 * for each, layer by layer and in the order of roles. `ret` takes record->bytes, aligned to 64.
 */
struct import_rounding {
	int (*pack)(void *user, const struct tensor_record *record, uint8_t *ret,
		struct reason *reason);
	void *user;
};

struct import_settings {
	enum weights weights;
	const struct import_rounding *rounding; /* NULL: weights_pack() */
	const struct progress *progress;        /* or NULL */
};

/* Writes the image into an empty open file (or memfd). Two tensors in memory at a time, each as
 * read and as packed, and one more in f32 where packing makes codes. A folder without
 * tokenizer.json gives an image without a tokenizer (score works, text does not). */
int import_image(struct checkpoint *checkpoint, const struct import_settings *settings, int fd,
	struct import_report *ret, struct reason *reason) _must_check_;
/* Every matrix by itself. */
int import_base(struct checkpoint *checkpoint, enum weights weights, int fd,
	const struct progress *progress, struct import_report *ret, struct reason *reason)
	_must_check_;

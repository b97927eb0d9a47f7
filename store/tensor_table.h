/*
 * The tensor records of an image, each checked once against a model config: role, shape, order and
 * place of its payload. What a payload holds is the business of store/codec.h.
 */
#pragma once

#include "store/base.h"

struct tensor_table {
	const struct tensor_record *records;
	size_t n;             /* of the levels that are there */
	size_t n_all;         /* in the file */
	const uint8_t *bytes; /* of the image */
	uint64_t weights_begin, weights_end;
};

/* Copies the config out of its section and checks it. */
int tensor_table_config(const struct image *image, struct model_config *ret, struct reason *reason)
	_must_check_;

/* Checks every record: known role, shape as the config has it, ascending (level, layer, role),
 * codec and numbers that make sense, payloads 64-byte aligned, ascending, apart from each other,
 * inside the weights and inside their level. */
int tensor_table_open(const struct image *image, const struct model_config *config,
	struct tensor_table *ret, struct reason *reason) _must_check_;

/* Puts "layer 3 q: " before the text that is there. Returns `error`. */
int tensor_reason(const struct tensor_record *record, int error, struct reason *reason);

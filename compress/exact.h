/*
 * What a delta carries exactly: norms and biases that differ, and the rows of embedding and head
 * that differ. All methods share it.
 */
#pragma once

#include "compress/delta_file.h"
#include "compress/pair.h"

/* The record of a norm or bias; `values` has `rows` numbers. */
int exact_vector(struct delta_file *f, enum tensor_role role, uint32_t layer, const float *values,
	uint32_t rows) _must_check_;

/* The record of embedding or head; none where no row changed. */
int exact_rows(struct delta_file *f, enum tensor_role role, uint32_t layer,
	const struct pair_rows *rows) _must_check_;

/* All tensors of a model at 16 bits: what a compressed one is compared with. */
uint64_t model_16bit_bytes(const struct model_config *c);

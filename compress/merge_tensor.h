/*
 * One tensor of a fine-tune, from the base's numbers and what a delta says about them.
 */
#pragma once

#include "foreign/weights.h"
#include "store/delta.h"

struct merge_tensor {
	struct checkpoint *base;
	enum weights weights; /* of the base that is served */
	const struct delta *delta;
	enum tensor_role role;
	uint32_t layer;
};

/* Fills ret with rows x cols numbers as bf16, shape as the delta's config has it; rows that the
 * base does not have are zeros there before. *ret_changed tells whether the delta mentions the
 * tensor. */
int merge_tensor(const struct merge_tensor *m, uint16_t *ret, bool *ret_changed,
	struct reason *reason) _must_check_;

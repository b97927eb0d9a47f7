/*
 * A tensor of the fine-tune that a base and an adapter make.
 */
#pragma once

#include "foreign/adapter.h"
#include "foreign/checkpoint.h"

/*
 * All numbers of a tensor, malloc'ed, as the adapter's config has its shape: what the adapter
 * replaces, or the base's with scale * B A added. A matrix of the base is what an import makes of
 * it, bf16. Sums are in double, in the order of the components: the same on every machine.
 */
int adapted_read(struct checkpoint *base, const struct adapter *a, enum tensor_role role,
	uint32_t layer, float **ret, size_t *ret_n, struct reason *reason) _must_check_;

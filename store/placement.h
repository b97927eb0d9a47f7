/*
 * Where the parts of a delta go that have to be expanded (store/part.h). Factors of a tensor that
 * stand at different levels go side by side, so that kernels meet one matrix of factors however
 * finely a file is cut.
 */
#pragma once

#include "store/tensor_table.h"

/* Of one record. */
struct placement {
	uint64_t at;       /* in the memory for all of them; of joined ones the same */
	uint32_t first;    /* of its components among the joined ones */
	uint32_t n_joined; /* components of all that are joined; 0: it stands alone */
};

/* Fills one for each record of the table. What they take in all is at most the sum of
 * part_layout().expanded_bytes. -ENOMEM. */
int placement_plan(const struct tensor_table *t, uint32_t n_layers, struct placement *ret)
	_must_check_;

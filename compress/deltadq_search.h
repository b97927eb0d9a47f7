/*
 * The DeltaDQ paper's search for the columns of a group: the q, k, v and o changes of the first
 * layer are dropped, not quantised, and the error of what attention adds to the residual stream is
 * averaged over seeds. The best group is used in all tensors.
 *
 * Seeds matter as much as groups do: the error of a single draw says nothing (hence
 * DELTADQ_SEARCH_SEEDS). compress/dropout_score.h has the same without drawing, for every tensor.
 */
#pragma once

#include "compress/method.h"

#define DELTADQ_SEARCH_SEEDS 8u
#define DELTADQ_SEARCH_WINDOWS 8u /* of calibration text, at most */

struct deltadq_searched {
	uint32_t group;
	double error; /* mean over the seeds, as a share of what the changes do */
};

/* Candidates as dropout_plan_groups() has them. -EINVAL if there is none. */
int deltadq_search(const struct method_model *model, uint32_t alpha, uint32_t bits, uint64_t seed,
	struct deltadq_searched *ret, struct reason *reason) _must_check_;

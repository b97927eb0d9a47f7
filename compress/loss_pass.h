/*
 * The head: from hidden numbers after the last block to losses (compress/loss.h), and back.
 */
#pragma once

#include "compress/loss.h"

/* A token that is judged: the model reads rows up to and including `row` and is asked for `token`.
 */
struct judged {
	size_t row;
	uint32_t token;
	uint64_t sequence; /* its number among all, and the token's place in it: for draws */
	uint32_t place;
};

struct loss_pass {
	struct pool *pool;
	const struct dense_model *model;
	const struct loss *loss;
	const struct judged *judged;
	size_t n_judged;
	const float *x; /* rows after the last block, hidden numbers each */
	/* Gradients, all or none: of x (the judged rows are set), and what is not NULL here. */
	float *dx;
	float *dfinal_norm, *dhead; /* added to */
};

/* Losses, and gradients where dx is set. -ENOMEM. */
int loss_pass_run(const struct loss_pass *p, struct loss_sums *ret) _must_check_;

/* The teacher's part: after the final norm, one row a judged token. */
void loss_pass_states(const struct loss_pass *p, float *ret);

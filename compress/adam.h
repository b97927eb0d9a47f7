/*
 * Adam (Kingma and Ba 2015, algorithm 1) over one array of numbers, with decoupled weight decay
 * (Loshchilov and Hutter 2019).
 */
#pragma once

#include "common/reason.h"

struct adam_settings {
	double beta1, beta2, epsilon;
	double decay; /* share of a number that a step at rate 1 takes away */
};

struct adam; /* both moments */

int adam_new(size_t n, struct adam **ret) _must_check_;
struct adam *adam_free(struct adam *a);

static inline void adamp(struct adam **a)
{
	adam_free(*a);
}

/* One step down the gradient. */
void adam_step(struct adam *a, const struct adam_settings *settings, double rate,
	const float *gradient, float *values);

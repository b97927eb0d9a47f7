/*
 * Vectors as codes: each vector has its width, each run of 128 of its elements its grid
 * value = scale * (code - zero), as kernels/types.h stores them.
 *
 * Grids are the asymmetric min-max grids of GPTQ: the range of the values widened to hold zero,
 * cut into 2^bits - 1 steps, the zero point rounded to a code. The scale is rounded to fp16 before
 * anything is quantised with it, and upwards where rounding would lose the range, so writer and
 * reader agree on every value exactly.
 */
#pragma once

#include "common/base.h"

struct qvectors {
	uint32_t n_vectors;
	uint32_t length;
	size_t n_groups;  /* of one vector */
	uint8_t *bits;    /* of each vector */
	uint8_t *codes;   /* n_vectors x length, one a byte */
	uint16_t *scales; /* n_vectors x n_groups, fp16 */
	uint8_t *zeros;   /* n_vectors x n_groups */
};

/* All values zero. `bits` is copied. -ENOMEM. */
int qvectors_new(uint32_t n_vectors, uint32_t length, const uint8_t *bits, struct qvectors **ret)
	_must_check_;
struct qvectors *qvectors_free(struct qvectors *q);

static inline void qvectors_freep(struct qvectors **q)
{
	qvectors_free(*q);
}

/* Sets the grid of a group from its values; values[i] are finite, missing ones of the last group
 * are not looked at. */
void qvectors_fit_grid(struct qvectors *q, uint32_t vector, size_t group, const double *values);
/* Stores the nearest code and returns the value that it stands for. */
double qvectors_put(struct qvectors *q, uint32_t vector, uint32_t element, double value);
/* The values of one vector. */
void qvectors_values(const struct qvectors *q, uint32_t vector, double *ret);

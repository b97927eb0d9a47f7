/*
 * The arithmetic of a block on single rows, and its derivatives: d... is the gradient of a loss by
 * what stands behind it. In f32 with sums in double.
 */
#pragma once

#include "common/base.h"

/* y_i = x_i w_i / sqrt(mean x^2 + eps); y may be x. */
void rms_norm(float *y, const float *x, const float *weight, size_t n, float eps);

struct rms_norm_back {
	const float *x, *weight, *dy;
	size_t n;
	float eps;
	double *dweight; /* added to; or NULL */
};

/* dx += ... where `add`, else dx = ...; dx may be dy. */
void rms_norm_back(const struct rms_norm_back *b, bool add, float *dx);

/* Turns the pairs (x_i, x_{i + n/2}) by the angles; rotate_back() is the transposed map. */
void rotate(float *x, const float *cosines, const float *sines, size_t n);
void rotate_back(float *x, const float *cosines, const float *sines, size_t n);

/* Softmax of scale x scores[first .. end), zero elsewhere in scores[0 .. n). */
struct softmax_range {
	size_t n, first, end;
	float scale;
};
void softmax(const struct softmax_range *r, float *scores);
/* From probabilities and their gradient, that of the scores, in place of `dp`; zero outside. */
void softmax_back(const struct softmax_range *r, const float *p, float *dp);

/* ret[i] = 1 / (1 + exp(-x[i])) */
void sigmoid(float *ret, const float *x, size_t n);

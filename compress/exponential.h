/*
 * Many exponentials at once, which libm makes one by one: training takes some per token, head and
 * position. The same bits on every processor.
 */
#pragma once

#include "common/base.h"

/* The largest of scale * x[i]; scale >= 0, n >= 1. */
float exponential_top(const float *x, float scale, size_t n);

/* y[i] = exp(scale * x[i] - top), within 2 units in the last place where that is at most 88 and 0
 * or the least normal number where it is below -87; y may be x. Returns the sum, in double. */
double exponential_sum(float *y, const float *x, float scale, float top, size_t n);

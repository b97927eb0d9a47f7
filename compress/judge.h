/*
 * How good the parts of a projection are: decoded as a reader decodes them and held against the
 * change that they stand for.
 */
#pragma once

#include "compress/method.h"

struct judgement {
	double weight_error;      /* ||D - D'||_F / ||D||_F */
	double calibration_error; /* ||(D - D') X||_F / ||D X||_F; NaN without calibration */
	double held_out_error;    /* the same on held-out text */
};

/*
 * Fills the quality of every part (with all levels below it) but `energy`, which its maker knows,
 * and *ret for all parts together. ret_weights is rows x cols: base + decoded delta.
 */
int judge_matrix(const struct method_group *group, struct method_matrix *m, float *ret_weights,
	struct judgement *ret, struct reason *reason) _must_check_;

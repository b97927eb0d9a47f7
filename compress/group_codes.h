/*
 * A base's matrix as codes in groups (foreign/integers.h), rounded with its inputs in mind.
 *
 * Scales, steps and offsets are those that lose least where the error of a number weighs as much as
 * its input's second moment; codes are GPTQ's (compress/gptq.h) on these grids, so that each error
 * is made up for by the numbers of the row that are rounded after it. The form is that of
 * weights_pack(): whoever reads it sees no difference.
 *
 * Where the inputs are no longer what they were, because matrices before it were rounded, the
 * matrix that is rounded is one that answers y, as they are, more like the matrix M answered x, as
 * they were:  M + share * M D H^-1,  with H = E y y^T and D = E (x - y) y^T. A share of 1 is least
 * squares (GPTAQ, arXiv 2504.02692), but D is measured on little text: for the chat model of
 * ../shared, KL is .037, .036, .038 with a share of 1/4, 1/2, 1 and .041 without.
 */
#pragma once

#include "compress/gptq.h"
#include "foreign/weights.h"

struct group_codes {
	struct pool *pool; /* BLAS runs on one thread in each of its workers */
	const struct tensor_record *record;
	const float *matrix;     /* rows x cols */
	const double *moments;   /* of the inputs, cols x cols: H */
	const double *drift;     /* D, cols x cols; NULL: they are what they were */
	const struct gptq *gptq; /* of the same */
};

/* The payload: record->bytes at `ret`, aligned to 64. Rows go in pieces that do not depend on the
 * pool: same input, same bytes. -ENOMEM. */
int group_codes_pack(const struct group_codes *g, uint8_t *ret) _must_check_;

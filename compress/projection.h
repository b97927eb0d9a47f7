/*
 * One projection of one block on its way into a delta: decomposed, quantised, packed.
 *
 *   projection_plan, projection_decompose    bands, then the svd; independent of any input
 *   projections_quantise    V, then U, for all projections with the same inputs
 *   projection_part         the bytes that store/part.h describes
 */
#pragma once

#include "compress/bands.h"
#include "compress/parts.h"
#include "compress/qvectors.h"
#include "compress/svd.h"
#include "engine/pool.h"

struct projection {
	enum tensor_role role;
	uint32_t rows, cols;
	const float *delta; /* borrowed */
	bool whitened;      /* components of the outputs' error, not of the weights' */
	bool refit;         /* U solved again for the codes of V, and sigma for both */
	struct svd *svd;
	struct band_plan plan; /* no bands: not stored, the base's weights stay */
	struct qvectors *u, *v;
	float *sigma;
	float energy; /* share of the delta's in the kept ranks */
};

void projection_done(struct projection *p);

/* Plans the bands, and says whether the decomposition is worth all threads. */
bool projection_plan(struct projection *p, double ratio);
/* `hessian` as below, and `pool` may be NULL. */
int projection_decompose(struct pool *pool, struct projection *p, const double *hessian,
	struct reason *reason) _must_check_;

/* Those without bands are passed by. `hessian` holds the second moments of the inputs that all of
 * them share. */
int projections_quantise(struct pool *pool, struct projection *const *members, size_t n_members,
	const double *hessian, struct reason *reason) _must_check_;

/* One band as a part of the delta. */
int projection_part(const struct projection *p, uint32_t band, const struct part_place *place,
	struct part *ret) _must_check_;

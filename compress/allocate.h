/*
 * One budget for many tensors: each is coded so that loss + lambda * bytes is lowest for it, with
 * the same lambda for all of them, and lambda is searched until all together are as large, or as
 * good, as asked for. Whatever a tensor chooses from (codecs, steps, ranks, nothing at all) is its
 * own affair; what counts is measured on real codes at every lambda that is tried, never taken from
 * a curve.
 *
 * Loss is in nats of KL a token (compress/fisher.h), lambda in nats a byte.
 */
#pragma once

#include "common/progress.h"
#include "common/reason.h"
#include "engine/pool.h"

struct rate_loss {
	double bytes; /* payload and record */
	double loss;
};

/* Something that has a size and a loss. */
struct allocate_tensor {
	/* Codes it at lambda and keeps the codes, instead of those of the call before. Calls for
	 * different tensors run side by side. */
	int (*encode)(void *self, double lambda, struct rate_loss *ret, struct reason *reason);
	void *self;
};

struct allocation {
	double lambda;
	struct rate_loss sum;
	uint32_t n_trials; /* lambdas that were tried */
};

struct allocate_settings {
	const struct allocate_tensor *tensors;
	size_t n;
	struct pool *pool;
	const struct progress *progress;
	const char *stage; /* for progress */
	double first;      /* lambda to begin with; > 0 */
	double slack;      /* share of the limit that may stay unused */
	double nearest;    /* factor between lambdas that are near enough; 0: 1.0001 */
};

/* All tensors at one lambda. Pieces of work are tensors, in the order given. */
int allocate_at(const struct allocate_settings *s, double lambda, struct rate_loss *ret,
	struct reason *reason) _must_check_;

/*
 * The smallest lambda found at which all tensors take at most `bytes`; they stand coded so. Less
 * than bytes * (1 - slack) if sizes jump there, or if everything is as fine as it can be. -ERANGE
 * if even the coarsest codes are larger.
 */
int allocate_bytes(const struct allocate_settings *s, double bytes, struct allocation *ret,
	struct reason *reason) _must_check_;

/* What a coding is worth, measured; lower is better. */
typedef int allocate_measure_fn(void *user, double *ret, struct reason *reason);

/* The largest lambda found at which the measure is at most `limit`; all tensors stand coded so.
 * -ERANGE if it is above at the finest codes. */
int allocate_quality(const struct allocate_settings *s, allocate_measure_fn *measure, void *user,
	double limit, struct allocation *ret, struct reason *reason) _must_check_;

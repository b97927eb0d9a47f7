/*
 * A quadratic form that errors are weighed with: second moments of the inputs of a matrix or of the
 * gradients at its outputs, shrunk towards the identity.
 *
 *   M = (moments + damping m I) / (1 + damping),   m the mean of the moments' diagonal
 *
 * so that the trace, and with it the unit of what is measured, stays whatever the damping. Damping
 * is not a matter of numerics alone: moments of some thousand tokens know little of most
 * directions, and error parked where the calibration never looked comes back elsewhere.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

struct metric {
	uint32_t n;
	double mean;     /* of the diagonal of M; 1 for the identity */
	double *matrix;  /* n x n; NULL: the identity, and the factors are NULL too */
	float *feedback; /* n x n: U, upper with a unit diagonal, M = U diag(weights) U^T */
	double *weights; /* n; 1 for the identity */
	double *root;    /* n x n: L, lower, M = L L^T; what is above the diagonal is zero */
};

/* `moments` is n x n, symmetric, and only read; NULL for the identity. -EDOM if it holds numbers
 * that are not finite or is far from positive. */
int metric_new(const float *moments, uint32_t n, double damping, struct metric **ret,
	struct reason *reason) _must_check_;
/* The same for large n: feedback, weights and mean alone, with the work split over the pool; 12 n^2
 * bytes of memory, of which 4 n^2 stay. */
int metric_new_feedback(struct pool *pool, const float *moments, uint32_t n, double damping,
	struct metric **ret, struct reason *reason) _must_check_;
struct metric *metric_free(struct metric *m);

static inline void metric_freep(struct metric **m)
{
	metric_free(*m);
}

/* tr(G E H E^T) of an error E, G->n x H->n. */
int metric_loss(const struct metric *g, const struct metric *h, const float *error, double *ret)
	_must_check_;

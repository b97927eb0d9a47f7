/*
 * The root that a metric's feedback is: M = R R^T with R = U diag(sqrt(weights)), upper. In the
 * coordinates W = R_g^T E R_h what an error costs is the sum of its squares, tr(G E H E^T) = |W|^2.
 *
 * Needs no more of a metric than metric_new_feedback() makes. Single precision; work is split in
 * pieces that do not depend on the pool, BLAS must run on one thread.
 */
#pragma once

#include "compress/metric.h"

/* ret = X R, rows x m->n. */
void metric_root_right(
	struct pool *pool, const struct metric *m, const float *x, size_t rows, float *ret);
/* ret = R^T X, m->n x cols. */
void metric_root_left(
	struct pool *pool, const struct metric *m, const float *x, size_t cols, float *ret);
/* X := X R^-1, rows x m->n. */
void metric_root_solve(struct pool *pool, const struct metric *m, float *x, size_t rows);

/* ret = R_g^T E R_h, g->n x h->n. -ENOMEM. */
int metric_root_turn(struct pool *pool, const struct metric *g, const struct metric *h,
	const float *error, float *ret) _must_check_;

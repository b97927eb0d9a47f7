/*
 * The Cholesky factor of a large matrix with the work split over a pool, in pieces that do not
 * depend on it: same input, same bytes, whatever the number of threads.
 */
#pragma once

#include "common/base.h"
#include "engine/pool.h"

/* A = L L^T in place: n x n, of which the lower triangle and the diagonal are read and written.
 * BLAS must run on one thread; the pool may be NULL. BLAS_E_NOT_POSITIVE (the triangle is then
 * spoilt), -ENOMEM. */
int cholesky_factor(struct pool *pool, double *a, size_t n) _must_check_;

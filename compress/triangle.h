/*
 * The inverse of a large triangle: by blocks, whose products are split over the pool in pieces that
 * do not depend on it. BLAS runs on one thread in each.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

/* L^-1 in place of L, n x n and lower, row-major and tight; zeros above the diagonal. The pool may
 * be NULL. BLAS_E_SINGULAR, -ENOMEM. */
int triangle_inverse(struct pool *pool, double *l, size_t n) _must_check_;

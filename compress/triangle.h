/*
 * Cholesky factors and inverses of triangles for matrices of many thousand rows: by blocks, whose
 * products are split over the pool in pieces that do not depend on it. BLAS runs on one thread in
 * each. Matrices are row-major and tight; the pool may be NULL.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

/* A = L L^T in place, from the lower triangle; what is above the diagonal is spoilt.
 * BLAS_E_NOT_POSITIVE, -ENOMEM. */
int triangle_factor(struct pool *pool, double *a, size_t n) _must_check_;
/* L^-1 in place; zeros above the diagonal. BLAS_E_SINGULAR, -ENOMEM. */
int triangle_inverse(struct pool *pool, double *l, size_t n) _must_check_;

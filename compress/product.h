/*
 * A product of large matrices with both cores at work: cut into stripes of rows, whose number
 * depends on the size alone, so that its bytes do not depend on who computes them. BLAS runs on one
 * thread in each.
 */
#pragma once

#include "engine/pool.h"
#include "kernels/blas.h"

/* C = op(A) op(B) as blas_gemm_f64() has it, alpha and beta included. The pool may be NULL. */
void product_f64(struct pool *pool, const struct blas_gemm *gemm, const double *a, const double *b,
	double *c);

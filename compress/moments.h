/*
 * Second moments of a layer's inputs, H = 1/T sum_t x_t x_t^T, in double.
 * Work is split by blocks of the result, so the bytes do not depend on the number of threads.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

/* x is n_rows x n with rows `stride` numbers apart; ret is n x n, both triangles. -ENOMEM. */
int moments_of(struct pool *pool, const float *x, size_t stride, size_t n_rows, uint32_t n,
	double *ret) _must_check_;

/* sum_r m_r H m_r^T over the rows of m: the mean squared output of a matrix with such inputs. */
int moments_energy(struct pool *pool, const double *h, const float *m, uint32_t rows, uint32_t n,
	double *ret) _must_check_;

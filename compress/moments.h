/*
 * Second moments of a layer's inputs, H = 1/T sum_t x_t x_t^T, in double.
 *
 * Work is split by blocks of the result and rows are taken TILE at a time, so the bytes do not
 * depend on the number of threads, nor on how the rows are handed over while every stretch but the
 * last holds a multiple of MOMENTS_TILE of them.
 *
 * Products of a tile are summed in f32 and tiles in double: each entry is within 2^-19 of
 * sqrt(H_ii H_jj), far below what its 1 % of damping covers, at half the time of double.
 */
#pragma once

#include "common/reason.h"
#include "engine/pool.h"

#define MOMENTS_TILE 512u

/* Set n, n_rows and h before the first stretch of rows; h is written without being read. */
struct moments {
	uint32_t n;
	size_t n_rows; /* of all stretches */
	double *h;     /* n x n; its upper triangle until the end */
	size_t n_seen;
};

/* The next rows, n numbers each and tight. -ENOMEM. */
int moments_add(struct pool *pool, struct moments *m, const float *x, size_t n_rows) _must_check_;
void moments_finish(struct moments *m);
/* Instead: of two kinds of rows, 1/T sum_t x_t y_t^T, which is whole without moments_finish(). */
int moments_add_cross(struct pool *pool, struct moments *m, const float *x, const float *y,
	size_t n_rows) _must_check_;

/* sum_r m_r H m_r^T over the rows of m: the mean squared output of a matrix with such inputs. In
 * f32, which is as near as H is. */
int moments_energy(struct pool *pool, const double *h, const float *m, uint32_t rows, uint32_t n,
	double *ret) _must_check_;

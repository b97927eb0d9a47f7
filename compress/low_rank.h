/*
 * The best approximation of a matrix by a product of two thin ones, in fp16.
 *
 * Plain: the first singular triplets, least in ||D - D'||_F. Whitened (SVD-LLM, arXiv 2403.07378,
 * section 3.1): with H = L L^T the second moments of the inputs, those of D L, with V^T taken back
 * through L: least in tr((D - D') H (D - D')^T).
 *
 * V and U are rows of a root mean square of 1, so that fp16 keeps their precision whatever the
 * size of the matrix; sigma takes the factor.
 */
#pragma once

#include "compress/method.h"

struct low_rank {
	uint32_t n, rows, cols;
	float *v;      /* n x cols, each number exact in fp16 */
	float *u;      /* n x rows, likewise */
	float *sigma;  /* n */
	double energy; /* share of ||D||_F^2 in the first n singular values; whitened: of ||D
			  L||_F^2 */
};

struct low_rank_problem {
	struct pool *pool;   /* NULL: none */
	const float *matrix; /* rows x cols */
	uint32_t rows, cols;
	uint32_t n;            /* at least 1 and at most the smaller side */
	const double *moments; /* H, cols x cols; NULL: plain */
};

/* By svd_leading(). -ENOMEM; -EDOM for numbers that are not finite. *ret goes to low_rank_done().
 */
int low_rank_fit(const struct low_rank_problem *problem, struct low_rank *ret,
	struct reason *reason) _must_check_;
void low_rank_done(struct low_rank *l);

/* matrix -= what the factors stand for. -ENOMEM. */
int low_rank_subtract(const struct low_rank *l, float *matrix) _must_check_;

/* The most components whose part, with its record, is not above `bytes`. */
uint32_t low_rank_most(uint32_t rows, uint32_t cols, uint64_t bytes);

/* As a part of the matrix. */
int low_rank_add(const struct low_rank *l, struct method_matrix *m, uint8_t level) _must_check_;

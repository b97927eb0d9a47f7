/*
 * Dense linear algebra of the offline tools, by OpenBLAS, which this file alone knows. The library
 * is loaded at run time, so that its choice of kernels can be corrected before it starts: some
 * releases take a newer Xeon for a core of 2004 and run seven times slower.
 *
 * Matrices are row-major and contiguous unless a stride is given; every dimension fits an int.
 * Nothing here may overlap unless said so.
 *
 * Determinism: same input, same core name, same number of threads, same bytes. Another number of
 * threads may change the last bits, so a program whose output must not depend on it calls
 * blas_set_threads(1) and runs independent problems side by side; concurrent calls are safe then.
 */
#pragma once

#include "common/reason.h"

/* Expected conditions. */
enum {
	BLAS_E_NOT_POSITIVE = 1, /* the matrix has no Cholesky factor */
	BLAS_E_SINGULAR = 2,     /* a zero on the diagonal of a triangle */
	BLAS_E_NO_CONVERGENCE = 3,
};

enum blas_triangle {
	BLAS_LOWER,
	BLAS_UPPER,
};

/*
 * Loads the library; to be called once before anything else here and before the program has
 * threads (it may set OPENBLAS_CORETYPE, where the user has not). Later calls only set the number
 * of threads. n_threads 0 means as many as the library finds. -EOPNOTSUPP, with the reason, if the
 * library or one of its functions is missing.
 */
int blas_load(unsigned int n_threads, struct reason *reason) _must_check_;
void blas_set_threads(unsigned int n_threads);
/* The core whose code the library runs, after blas_load(): "SkylakeX", "Haswell"; "Prescott" is the
 * slow one. For reports. */
const char *blas_core(void);

/* C = alpha op(A) op(B) + beta C, with C m x n, op(A) m x k, op(B) k x n. Strides 0 mean tight: the
 * number of columns as stored. With beta = 0, C is written without being read. */
struct blas_gemm {
	size_t m, n, k;
	bool transpose_a, transpose_b;
	double alpha, beta;
	size_t a_stride, b_stride, c_stride;
};

void blas_gemm_f32(const struct blas_gemm *g, const float *a, const float *b, float *c);
void blas_gemm_f64(const struct blas_gemm *g, const double *a, const double *b, double *c);

/*
 * gram[i][j] += sum_t x[t][i] x[t][j] for j >= i: the upper triangle of an n x n matrix; the rest
 * is not touched. The rows are widened and both products and sums are in double (dsyrk). -ENOMEM.
 */
int blas_gram_add(double *gram, const float *x, size_t x_stride, size_t n_rows, size_t n)
	_must_check_;
/* Copies the upper triangle onto the lower. */
void blas_mirror_upper(double *a, size_t n);

/*
 * Cholesky factor in place: BLAS_LOWER gives L with A = L L^T, BLAS_UPPER gives U with A = U^T U.
 * Reads and writes that triangle and the diagonal only; the other triangle is not touched.
 * BLAS_E_NOT_POSITIVE (the triangle is then spoilt).
 */
int blas_cholesky(double *a, size_t n, enum blas_triangle triangle) _must_check_;
/* From the factor of blas_cholesky(), the same triangle of the inverse of A. BLAS_E_SINGULAR. */
int blas_cholesky_inverse(double *a, size_t n, enum blas_triangle triangle) _must_check_;
/* Inverse of a triangular matrix, in place; the other triangle is not touched. BLAS_E_SINGULAR. */
int blas_triangle_inverse(double *a, size_t n, enum blas_triangle triangle) _must_check_;

/* B = op(T)^-1 B, or B = B op(T)^-1 where `right`. B is m x n; T is m x m, or n x n where `right`.
 * The diagonal of T must not hold a zero. */
struct blas_solve {
	size_t m, n;
	enum blas_triangle triangle;
	bool transpose, right;
	size_t t_stride, b_stride; /* 0: tight */
};

void blas_triangle_solve(const struct blas_solve *s, const double *t, double *b);

/*
 * Thin singular value decomposition A = U diag(s) V^T (divide and conquer), k = min(m, n):
 * u is m x k, s has k numbers in descending order, vt is k x n. A is destroyed. Signs are as the
 * library leaves them. BLAS_E_NO_CONVERGENCE (also for numbers that are not finite), -ENOMEM.
 */
int blas_svd(double *a, size_t m, size_t n, double *u, double *s, double *vt) _must_check_;

/* Eigenvalues in ascending order and, in the rows of `a`, the eigenvectors of a symmetric n x n
 * matrix of which the upper triangle is read. BLAS_E_NO_CONVERGENCE (likewise), -ENOMEM. */
int blas_eigen(double *a, size_t n, double *values) _must_check_;

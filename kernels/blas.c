#include "kernels/blas.h"

#include "kernels/kernels.h"

#include <assert.h>
#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <string.h>

#define LIBRARY "libopenblas.so.0"

/* The C interface's own numbers. */
enum {
	CBLAS_ROW_MAJOR = 101,
	CBLAS_PLAIN = 111,
	CBLAS_TRANSPOSED = 112,
	CBLAS_UPPER = 121,
	CBLAS_LOWER = 122,
	CBLAS_NON_UNIT = 131,
	CBLAS_LEFT = 141,
	CBLAS_RIGHT = 142,
};

/*
 * LAPACK is Fortran: everything by address, matrices column-major, and after the arguments the
 * length of each string. A row-major matrix is there the transposed one, and its upper triangle the
 * lower.
 */
static struct {
	void *library;
	void (*set_threads)(int);
	int (*processors)(void);
	char *(*core)(void);
	void (*sgemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
		float, float *, int);
	void (*dgemm)(int, int, int, int, int, int, double, const double *, int, const double *,
		int, double, double *, int);
	void (*dsyrk)(int, int, int, int, int, double, const double *, int, double, double *, int);
	void (*dtrsm)(
		int, int, int, int, int, int, int, double, const double *, int, double *, int);
	void (*dpotrf)(const char *, const int *, double *, const int *, int *, size_t);
	void (*dpotri)(const char *, const int *, double *, const int *, int *, size_t);
	void (*dtrtri)(const char *, const char *, const int *, double *, const int *, int *,
		size_t, size_t);
	void (*dgesdd)(const char *, const int *, const int *, double *, const int *, double *,
		double *, const int *, double *, const int *, double *, const int *, int *, int *,
		size_t);
	void (*dsyevd)(const char *, const char *, const int *, double *, const int *, double *,
		double *, const int *, int *, const int *, int *, size_t, size_t);
} blas;

static const struct {
	const char *name;
	void *pointer; /* to the function pointer above */
} symbols[] = {
	{"openblas_set_num_threads", &blas.set_threads},
	{"openblas_get_num_procs", &blas.processors},
	{"openblas_get_corename", &blas.core},
	{"cblas_sgemm", &blas.sgemm},
	{"cblas_dgemm", &blas.dgemm},
	{"cblas_dsyrk", &blas.dsyrk},
	{"cblas_dtrsm", &blas.dtrsm},
	{"dpotrf_", &blas.dpotrf},
	{"dpotri_", &blas.dpotri},
	{"dtrtri_", &blas.dtrtri},
	{"dgesdd_", &blas.dgesdd},
	{"dsyevd_", &blas.dsyevd},
};

/* The library reads the variable when it is loaded. A user's own choice stands. */
static int choose_core(void)
{
	struct cpu_features cpu = cpu_features_detect();
	const char *core = cpu.avx512 ? "SkylakeX" : cpu.avx2 ? "Haswell" : NULL;

	if (core && setenv("OPENBLAS_CORETYPE", core, 0) < 0)
		return -errno;
	return 0;
}

int blas_load(unsigned int n_threads, struct reason *reason)
{
	void *library;
	int r;

	if (blas.library) {
		blas_set_threads(n_threads);
		return 0;
	}
	r = choose_core();
	if (r < 0)
		return reason_set(reason, r, "cannot set OPENBLAS_CORETYPE: %s", strerror(-r));
	library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return reason_set(reason, -EOPNOTSUPP, "cannot load OpenBLAS: %s", dlerror());
	for (size_t i = 0; i < array_len(symbols); i++) {
		void *found = dlsym(library, symbols[i].name);

		if (!found) {
			dlclose(library);
			return reason_set(reason, -EOPNOTSUPP, "%s lacks the function %s", LIBRARY,
				symbols[i].name);
		}
		memcpy(symbols[i].pointer, &found, sizeof(found));
	}
	blas.library = library;
	blas_set_threads(n_threads);
	return 0;
}

void blas_set_threads(unsigned int n_threads)
{
	blas.set_threads(n_threads ? (int)n_threads : blas.processors());
}

const char *blas_core(void)
{
	return blas.core();
}

static int as_int(size_t n)
{
	assert(n <= INT_MAX);
	return (int)n;
}

/* A row stride as the library takes it, which is never 0. */
static int stride_or(size_t stride, size_t tight)
{
	size_t s = stride ? stride : tight;

	return s ? as_int(s) : 1;
}

static int cblas_op(bool transpose)
{
	return transpose ? CBLAS_TRANSPOSED : CBLAS_PLAIN;
}

void blas_gemm_f32(const struct blas_gemm *g, const float *a, const float *b, float *c)
{
	blas.sgemm(CBLAS_ROW_MAJOR, cblas_op(g->transpose_a), cblas_op(g->transpose_b),
		as_int(g->m), as_int(g->n), as_int(g->k), (float)g->alpha, a,
		stride_or(g->a_stride, g->transpose_a ? g->m : g->k), b,
		stride_or(g->b_stride, g->transpose_b ? g->k : g->n), (float)g->beta, c,
		stride_or(g->c_stride, g->n));
}

void blas_gemm_f64(const struct blas_gemm *g, const double *a, const double *b, double *c)
{
	blas.dgemm(CBLAS_ROW_MAJOR, cblas_op(g->transpose_a), cblas_op(g->transpose_b),
		as_int(g->m), as_int(g->n), as_int(g->k), g->alpha, a,
		stride_or(g->a_stride, g->transpose_a ? g->m : g->k), b,
		stride_or(g->b_stride, g->transpose_b ? g->k : g->n), g->beta, c,
		stride_or(g->c_stride, g->n));
}

int blas_gram_add(double *gram, const float *x, size_t x_stride, size_t n_rows, size_t n)
{
	enum { ROWS_AT_ONCE = 256 };
	_cleanup_(freep) double *wide = NULL;

	if (n_rows == 0 || n == 0)
		return 0;
	wide = reallocarray(NULL, n, ROWS_AT_ONCE * sizeof(*wide));
	if (!wide)
		return -ENOMEM;
	for (size_t t = 0; t < n_rows; t += ROWS_AT_ONCE) {
		size_t rows = n_rows - t < ROWS_AT_ONCE ? n_rows - t : ROWS_AT_ONCE;

		for (size_t r = 0; r < rows; r++)
			for (size_t i = 0; i < n; i++)
				wide[r * n + i] = x[(t + r) * x_stride + i];
		blas.dsyrk(CBLAS_ROW_MAJOR, CBLAS_UPPER, CBLAS_TRANSPOSED, as_int(n), (int)rows, 1,
			wide, as_int(n), 1, gram, as_int(n));
	}
	return 0;
}

void blas_mirror_upper(double *a, size_t n)
{
	enum { TILE = 32 };

	/* By tiles, or every store of a large matrix would miss the cache. */
	for (size_t i0 = 0; i0 < n; i0 += TILE)
		for (size_t j0 = 0; j0 <= i0; j0 += TILE)
			for (size_t i = i0; i < n && i < i0 + TILE; i++)
				for (size_t j = j0; j < i && j < j0 + TILE; j++)
					a[i * n + j] = a[j * n + i];
}

static const char *lapack_triangle(enum blas_triangle triangle)
{
	return triangle == BLAS_LOWER ? "U" : "L";
}

static bool diagonal_finite(const double *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(a[i * n + i]))
			return false;
	return true;
}

int blas_cholesky(double *a, size_t n, enum blas_triangle triangle)
{
	int order = as_int(n), info;

	if (n == 0)
		return 0;
	blas.dpotrf(lapack_triangle(triangle), &order, a, &order, &info, 1);
	assert(info >= 0);
	/* The library lets a NaN pass as positive; every NaN ends on the diagonal of the factor. */
	return info > 0 || !diagonal_finite(a, n) ? BLAS_E_NOT_POSITIVE : 0;
}

int blas_cholesky_inverse(double *a, size_t n, enum blas_triangle triangle)
{
	int order = as_int(n), info;

	if (n == 0)
		return 0;
	blas.dpotri(lapack_triangle(triangle), &order, a, &order, &info, 1);
	assert(info >= 0);
	return info > 0 ? BLAS_E_SINGULAR : 0;
}

int blas_triangle_inverse(double *a, size_t n, enum blas_triangle triangle)
{
	int order = as_int(n), info;

	if (n == 0)
		return 0;
	blas.dtrtri(lapack_triangle(triangle), "N", &order, a, &order, &info, 1, 1);
	assert(info >= 0);
	return info > 0 ? BLAS_E_SINGULAR : 0;
}

void blas_triangle_solve(const struct blas_solve *s, const double *t, double *b)
{
	size_t order = s->right ? s->n : s->m;

	if (s->m == 0 || s->n == 0)
		return;
	blas.dtrsm(CBLAS_ROW_MAJOR, s->right ? CBLAS_RIGHT : CBLAS_LEFT,
		s->triangle == BLAS_LOWER ? CBLAS_LOWER : CBLAS_UPPER, cblas_op(s->transpose),
		CBLAS_NON_UNIT, as_int(s->m), as_int(s->n), 1, t, stride_or(s->t_stride, order), b,
		stride_or(s->b_stride, s->n));
}

static bool all_finite(const double *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!isfinite(a[i]))
			return false;
	return true;
}

/* What LAPACK asks for in reply to a size of -1, as a count of doubles. */
static int workspace_new(double wanted, double **ret, int *ret_n)
{
	if (!(wanted <= INT_MAX))
		return -EOVERFLOW;
	*ret = reallocarray(NULL, (size_t)wanted + 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	*ret_n = (int)wanted;
	return 0;
}

int blas_svd(double *a, size_t m, size_t n, double *u, double *s, double *vt)
{
	/* The library sees A^T, whose left vectors are our right ones. */
	int rows = as_int(n), cols = as_int(m), k = rows < cols ? rows : cols, n_work = -1, info, r;
	_cleanup_(freep) double *work = NULL;
	_cleanup_(freep) int *integers = NULL;
	double wanted;

	if (k == 0)
		return 0;
	if (!all_finite(a, m * n))
		return BLAS_E_NO_CONVERGENCE;
	integers = reallocarray(NULL, (size_t)k, 8 * sizeof(*integers));
	if (!integers)
		return -ENOMEM;
	blas.dgesdd("S", &rows, &cols, a, &rows, s, vt, &rows, u, &k, &wanted, &n_work, integers,
		&info, 1);
	r = workspace_new(wanted, &work, &n_work);
	if (r < 0)
		return r;
	blas.dgesdd("S", &rows, &cols, a, &rows, s, vt, &rows, u, &k, work, &n_work, integers,
		&info, 1);
	assert(info >= 0);
	return info > 0 ? BLAS_E_NO_CONVERGENCE : 0;
}

static bool upper_finite(const double *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!all_finite(a + i * n + i, n - i))
			return false;
	return true;
}

int blas_eigen(double *a, size_t n, double *values)
{
	int order = as_int(n), n_work = -1, n_integers = -1, integers_wanted, info, r;
	_cleanup_(freep) double *work = NULL;
	_cleanup_(freep) int *integers = NULL;
	double wanted;

	if (n == 0)
		return 0;
	if (!upper_finite(a, n))
		return BLAS_E_NO_CONVERGENCE;
	blas.dsyevd("V", lapack_triangle(BLAS_UPPER), &order, a, &order, values, &wanted, &n_work,
		&integers_wanted, &n_integers, &info, 1, 1);
	r = workspace_new(wanted, &work, &n_work);
	if (r < 0)
		return r;
	n_integers = integers_wanted;
	integers = reallocarray(NULL, (size_t)n_integers, sizeof(*integers));
	if (!integers)
		return -ENOMEM;
	blas.dsyevd("V", lapack_triangle(BLAS_UPPER), &order, a, &order, values, work, &n_work,
		integers, &n_integers, &info, 1, 1);
	assert(info >= 0);
	return info > 0 ? BLAS_E_NO_CONVERGENCE : 0;
}

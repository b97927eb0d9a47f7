#include "compress/moments.h"

#include "kernels/blas.h"

#define STRIP 256u /* columns of the result in one piece */
#define TILE 512u  /* rows of x (or of m) that are widened at a time */

struct moments {
	const float *x;
	size_t stride, n_rows;
	uint32_t n;
	double *h;
	double *scratch; /* TILE x n for each worker */
};

/* Rows [begin, end) of x, columns from `first` on, as doubles without gaps. */
static void widen(const struct moments *m, size_t begin, size_t end, uint32_t first, double *ret)
{
	size_t width = m->n - first;

	for (size_t t = begin; t < end; t++)
		for (size_t c = 0; c < width; c++)
			ret[(t - begin) * width + c] = (double)m->x[t * m->stride + first + c];
}

static void moments_strip(void *arg, size_t piece, size_t worker)
{
	const struct moments *m = arg;
	uint32_t first = (uint32_t)piece * STRIP;
	double *wide = m->scratch + worker * TILE * m->n;
	struct blas_gemm product = {
		.m = min_u64(STRIP, m->n - first),
		.n = m->n - first,
		.transpose_a = true,
		.alpha = 1.0 / (double)m->n_rows,
		.a_stride = m->n - first,
		.c_stride = m->n,
	};

	for (size_t begin = 0; begin < m->n_rows; begin += TILE) {
		size_t end = min_u64(begin + TILE, m->n_rows);

		widen(m, begin, end, first, wide);
		product.k = end - begin;
		product.beta = begin > 0;
		blas_gemm_f64(&product, wide, wide, m->h + (size_t)first * m->n + first);
	}
}

int moments_of(
	struct pool *pool, const float *x, size_t stride, size_t n_rows, uint32_t n, double *ret)
{
	_cleanup_(freep) double *scratch = malloc(pool_threads(pool) * TILE * n * sizeof(*scratch));
	struct moments m = {
		.x = x, .stride = stride, .n_rows = n_rows, .n = n, .h = ret, .scratch = scratch};

	if (!scratch)
		return -ENOMEM;
	pool_run(pool, moments_strip, &m, div_up(n, STRIP));
	blas_mirror_upper(ret, n);
	return 0;
}

struct energy {
	const double *h;
	const float *m;
	uint32_t rows, n;
	double *scratch; /* 2 x TILE x n for each worker */
	double *sums;    /* one a piece */
};

static void energy_tile(void *arg, size_t piece, size_t worker)
{
	const struct energy *e = arg;
	size_t first = piece * TILE;
	size_t n_rows = min_u64(TILE, e->rows - first);
	double *wide = e->scratch + worker * 2 * TILE * e->n;
	double *product = wide + (size_t)TILE * e->n;
	struct blas_gemm gemm = {.m = n_rows, .n = e->n, .k = e->n, .alpha = 1};
	double sum = 0;

	for (size_t i = 0; i < n_rows * e->n; i++)
		wide[i] = (double)e->m[first * e->n + i];
	blas_gemm_f64(&gemm, wide, e->h, product);
	for (size_t i = 0; i < n_rows * e->n; i++)
		sum += wide[i] * product[i];
	e->sums[piece] = sum;
}

int moments_energy(
	struct pool *pool, const double *h, const float *m, uint32_t rows, uint32_t n, double *ret)
{
	size_t n_tiles = div_up(rows, TILE);
	_cleanup_(freep) double *scratch =
		malloc(pool_threads(pool) * 2 * TILE * n * sizeof(*scratch));
	_cleanup_(freep) double *sums = calloc(n_tiles + 1, sizeof(*sums));
	struct energy e = {.h = h, .m = m, .rows = rows, .n = n, .scratch = scratch, .sums = sums};
	double sum = 0;

	if (!scratch || !sums)
		return -ENOMEM;
	pool_run(pool, energy_tile, &e, n_tiles);
	for (size_t i = 0; i < n_tiles; i++)
		sum += sums[i];
	*ret = sum;
	return 0;
}

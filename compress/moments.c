#include "compress/moments.h"

#include "kernels/blas.h"

#include <string.h>

#define STRIP 256u /* columns of the result in one piece */

struct stretch {
	struct moments *moments;
	const float *x;
	const float *y; /* NULL: x, and the upper triangle is all that is wanted */
	size_t n_rows;
	float *products; /* STRIP x n for each worker */
};

static void add_products(
	const struct stretch *s, uint32_t first, uint32_t n_strip, const float *p, bool begins)
{
	struct moments *m = s->moments;
	size_t from = s->y ? 0 : first, width = m->n - from;
	double scale = 1.0 / (double)m->n_rows;

	for (size_t i = 0; i < n_strip; i++) {
		double *h = m->h + (first + i) * m->n + from;

		if (begins)
			memset(h, 0, width * sizeof(*h));
		for (size_t c = s->y ? 0 : i; c < width; c++)
			h[c] += (double)p[i * width + c] * scale;
	}
}

/* Rows [first, first + STRIP) of the result. */
static void moments_strip(void *arg, size_t piece, size_t worker)
{
	const struct stretch *s = arg;
	struct moments *m = s->moments;
	uint32_t first = (uint32_t)piece * STRIP;
	uint32_t from = s->y ? 0 : first; /* column */
	float *products = s->products + worker * STRIP * m->n;
	struct blas_gemm product = {
		.m = min_u64(STRIP, m->n - first),
		.n = m->n - from,
		.transpose_a = true,
		.alpha = 1,
		.a_stride = m->n,
		.b_stride = m->n,
	};

	for (size_t begin = 0; begin < s->n_rows; begin += MOMENTS_TILE) {
		const float *x = s->x + begin * m->n, *y = s->y ? s->y + begin * m->n : x;

		product.k = min_u64(MOMENTS_TILE, s->n_rows - begin);
		blas_gemm_f32(&product, x + first, y + from, products);
		add_products(s, first, (uint32_t)product.m, products, m->n_seen + begin == 0);
	}
}

static int add(struct pool *pool, struct stretch *s)
{
	struct moments *m = s->moments;
	_cleanup_(freep) float *products =
		malloc(pool_threads(pool) * STRIP * m->n * sizeof(*products));

	if (!products)
		return -ENOMEM;
	s->products = products;
	pool_run(pool, moments_strip, s, div_up(m->n, STRIP));
	m->n_seen += s->n_rows;
	return 0;
}

int moments_add(struct pool *pool, struct moments *m, const float *x, size_t n_rows)
{
	return add(pool, &(struct stretch){.moments = m, .x = x, .n_rows = n_rows});
}

int moments_add_cross(
	struct pool *pool, struct moments *m, const float *x, const float *y, size_t n_rows)
{
	return add(pool, &(struct stretch){.moments = m, .x = x, .y = y, .n_rows = n_rows});
}

void moments_finish(struct moments *m)
{
	blas_mirror_upper(m->h, m->n);
}

struct energy {
	const double *h;
	const float *m;
	uint32_t rows, n;
	float *scratch; /* STRIP x (n + TILE) for each worker */
	double *sums;   /* one a piece */
};

/* The columns [first, first + width) of M H, of which the rows of H beyond them are left out: what
 * is above the diagonal counts twice. */
static double energy_strip(const struct energy *e, size_t first_row, uint32_t first, float *h)
{
	size_t n_rows = min_u64(MOMENTS_TILE, e->rows - first_row);
	struct blas_gemm gemm = {
		.m = n_rows,
		.n = min_u64(STRIP, e->n - first),
		.alpha = 1,
		.a_stride = e->n,
	};
	const float *m = e->m + first_row * e->n;
	float *product = h + (size_t)STRIP * e->n;
	double sum = 0;

	gemm.k = first + gemm.n;
	for (size_t i = 0; i < gemm.k; i++) {
		double times = i < first ? 2 : 1;

		for (size_t c = 0; c < gemm.n; c++)
			h[i * gemm.n + c] = (float)(times * e->h[i * e->n + first + c]);
	}
	blas_gemm_f32(&gemm, m, h, product);
	for (size_t r = 0; r < n_rows; r++)
		for (size_t c = 0; c < gemm.n; c++)
			sum += (double)m[r * e->n + first + c] * (double)product[r * gemm.n + c];
	return sum;
}

static void energy_tile(void *arg, size_t piece, size_t worker)
{
	const struct energy *e = arg;
	float *scratch = e->scratch + worker * STRIP * ((size_t)e->n + MOMENTS_TILE);
	double sum = 0;

	for (uint32_t c = 0; c < e->n; c += STRIP)
		sum += energy_strip(e, piece * MOMENTS_TILE, c, scratch);
	e->sums[piece] = sum;
}

int moments_energy(
	struct pool *pool, const double *h, const float *m, uint32_t rows, uint32_t n, double *ret)
{
	size_t n_tiles = div_up(rows, MOMENTS_TILE);
	_cleanup_(freep) float *scratch =
		malloc(pool_threads(pool) * STRIP * ((size_t)n + MOMENTS_TILE) * sizeof(*scratch));
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

#include "compress/dropout_score.h"

#include "kernels/blas.h"

#include <math.h>

#define TILE 128u /* rows in one piece */

struct blocks_job {
	const struct dropout_target *t;
	uint32_t h;
	double *scratch; /* 2 x TILE x h for each worker */
	double *ret;
};

/* Adds the rows' products over one group of columns. */
static void add_group(
	const struct blocks_job *j, size_t first_row, size_t n_rows, uint32_t column, double *wide)
{
	const struct dropout_target *t = j->t;
	double *product = wide + (size_t)TILE * j->h;
	struct blas_gemm gemm = {
		.m = n_rows, .n = j->h, .k = j->h, .alpha = 1, .b_stride = t->cols};

	for (size_t r = 0; r < n_rows; r++)
		for (uint32_t c = 0; c < j->h; c++)
			wide[r * j->h + c] =
				(double)t->delta[(first_row + r) * t->cols + column + c];
	blas_gemm_f64(&gemm, wide, t->moments + (size_t)column * t->cols + column, product);
	for (size_t r = 0; r < n_rows; r++)
		for (uint32_t c = 0; c < j->h; c++)
			j->ret[first_row + r] += wide[r * j->h + c] * product[r * j->h + c];
}

static void blocks_tile(void *arg, size_t piece, size_t worker)
{
	const struct blocks_job *j = arg;
	size_t first = piece * TILE;
	size_t n_rows = min_u64(TILE, j->t->rows - first);

	for (size_t r = 0; r < n_rows; r++)
		j->ret[first + r] = 0;
	for (uint32_t c = 0; c < j->t->cols; c += j->h)
		add_group(j, first, n_rows, c, j->scratch + worker * 2 * TILE * j->h);
}

int dropout_blocks(const struct dropout_target *t, uint32_t h, double *ret)
{
	_cleanup_(freep) double *scratch =
		malloc(pool_threads(t->pool) * 2 * TILE * h * sizeof(*scratch));
	struct blocks_job job = {.t = t, .h = h, .scratch = scratch, .ret = ret};

	if (!scratch)
		return -ENOMEM;
	pool_run(t->pool, blocks_tile, &job, div_up(t->rows, TILE));
	return 0;
}

struct product_job {
	const struct dropout_target *t;
	double *scratch; /* TILE x cols for each worker */
	double *ret;
};

static void product_tile(void *arg, size_t piece, size_t worker)
{
	const struct product_job *j = arg;
	size_t cols = j->t->cols, first = piece * TILE;
	double *wide = j->scratch + worker * TILE * cols;
	struct blas_gemm gemm = {
		.m = min_u64(TILE, j->t->rows - first), .n = cols, .k = cols, .alpha = 1};

	for (size_t i = 0; i < gemm.m * cols; i++)
		wide[i] = (double)j->t->delta[first * cols + i];
	blas_gemm_f64(&gemm, wide, j->t->moments, j->ret + first * cols);
}

int dropout_product(const struct dropout_target *t, double *ret)
{
	_cleanup_(freep) double *scratch =
		malloc(pool_threads(t->pool) * TILE * t->cols * sizeof(*scratch));
	struct product_job job = {.t = t, .scratch = scratch, .ret = ret};

	if (!scratch)
		return -ENOMEM;
	pool_run(t->pool, product_tile, &job, div_up(t->rows, TILE));
	return 0;
}

void dropout_energies_done(struct dropout_energies *e)
{
	free(e->full);
	free(e->diagonal);
	*e = (struct dropout_energies){0};
}

int dropout_energies_of(const struct dropout_target *t, struct dropout_energies *ret)
{
	struct dropout_energies e = {
		.full = calloc(t->rows + 1, sizeof(double)),
		.diagonal = calloc(t->rows + 1, sizeof(double)),
	};
	int r = -ENOMEM;

	if (e.full && e.diagonal)
		r = dropout_blocks(t, t->cols, e.full);
	if (r < 0) {
		dropout_energies_done(&e);
		return r;
	}
	for (size_t row = 0; row < t->rows; row++)
		for (size_t c = 0; c < t->cols; c++) {
			double value = (double)t->delta[row * t->cols + c];

			e.diagonal[row] += value * value * t->moments[c * t->cols + c];
		}
	*ret = e;
	return 0;
}

double dropout_variance(double diagonal, double blocks, uint32_t h, uint32_t n_keep)
{
	if (n_keep == h)
		return 0;
	return ((double)h / n_keep - 1) * h / (h - 1) * (diagonal - blocks / h);
}

struct dropout_outlook dropout_outlook_of(
	const struct dropout_row *row, uint32_t h, uint32_t n_keep)
{
	double a = row->diagonal > 0 ? row->cross / row->diagonal : 0;
	double noise = fmax(0, row->square - a * a * row->diagonal);
	double blocks = a * a * row->blocks + noise;

	return (struct dropout_outlook){
		.full = row->full,
		.cross = a * row->full,
		.energy = a * a * row->full + noise +
			  dropout_variance(row->square, blocks, h, n_keep),
	};
}

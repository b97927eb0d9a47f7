#include "compress/part_values.h"

#include "kernels/blas.h"
#include "kernels/pack.h"
#include "store/codec.h"

#define ROWS_AT_ONCE 256u

/* One band while it is added. */
struct band_sum {
	uint32_t rows, cols, n_ranks;
	const double *u; /* n_ranks x rows */
	const double *v; /* n_ranks x cols, times sigma */
	double *change;  /* ROWS_AT_ONCE x cols for each worker */
	float *weights;
};

static void add_rows(void *arg, size_t piece, size_t worker)
{
	const struct band_sum *s = arg;
	size_t first = piece * ROWS_AT_ONCE;
	size_t n_rows = min_u64(ROWS_AT_ONCE, s->rows - first);
	double *change = s->change + worker * ROWS_AT_ONCE * s->cols;
	float *weights = s->weights + first * s->cols;
	struct blas_gemm gemm = {
		.m = n_rows,
		.n = s->cols,
		.k = s->n_ranks,
		.transpose_a = true,
		.alpha = 1,
		.a_stride = s->rows,
	};

	blas_gemm_f64(&gemm, s->u + first, s->v, change);
	for (size_t i = 0; i < n_rows * s->cols; i++)
		weights[i] = (float)((double)weights[i] + change[i]);
}

static int factor_values(const struct qmat *m, const float *sigma, double *ret)
{
	_cleanup_(freep) float *row = malloc(((size_t)m->cols + 1) * sizeof(*row));

	if (!row)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->rows; i++) {
		double scale = sigma ? (double)sigma[i] : 1;

		qmat_row_values(row, m, i);
		for (uint32_t c = 0; c < m->cols; c++)
			ret[(size_t)i * m->cols + c] = (double)row[c] * scale;
	}
	return 0;
}

static int add_band(struct pool *pool, const struct mixed_svd_view *band, float *weights)
{
	uint32_t n_ranks = band->v.rows, rows = band->u.cols, cols = band->v.cols;
	_cleanup_(freep) double *u = malloc(((size_t)n_ranks * rows + 1) * sizeof(*u));
	_cleanup_(freep) double *v = malloc(((size_t)n_ranks * cols + 1) * sizeof(*v));
	_cleanup_(freep) double *change =
		malloc(pool_threads(pool) * ROWS_AT_ONCE * cols * sizeof(*change));
	struct band_sum sum = {
		.rows = rows,
		.cols = cols,
		.n_ranks = n_ranks,
		.u = u,
		.v = v,
		.change = change,
		.weights = weights,
	};
	int r;

	if (!u || !v || !change)
		return -ENOMEM;
	r = factor_values(&band->u, NULL, u);
	if (r == 0)
		r = factor_values(&band->v, band->sigma, v);
	if (r < 0)
		return r;
	pool_run(pool, add_rows, &sum, div_up(rows, ROWS_AT_ONCE));
	return 0;
}

int part_apply(struct pool *pool, const struct part *part, float *weights, struct reason *reason)
{
	struct tensor_record record = part->record;
	const struct payload payload = {.record = &record, .bytes = part->payload};
	struct mixed_svd svd;
	int r;

	record.bytes = part->n_payload;
	r = codec_mixed_svd(&payload, &svd, reason);
	for (uint32_t i = 0; r == 0 && i < svd.n_bands; i++)
		r = add_band(pool, &svd.bands[i], weights);
	return r;
}

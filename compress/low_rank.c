#include "compress/low_rank.h"

#include "compress/svd.h"
#include "kernels/blas.h"
#include "kernels/convert.h"

#include <math.h>
#include <string.h>

#define ROWS_AT_ONCE 256u

void low_rank_done(struct low_rank *l)
{
	free(l->v);
	free(l->u);
	free(l->sigma);
	*l = (struct low_rank){0};
}

static int low_rank_alloc(uint32_t rows, uint32_t cols, uint32_t n, struct low_rank *ret)
{
	*ret = (struct low_rank){
		.n = n,
		.rows = rows,
		.cols = cols,
		.v = malloc(((size_t)n * cols + 1) * sizeof(float)),
		.u = malloc(((size_t)n * rows + 1) * sizeof(float)),
		.sigma = malloc(((size_t)n + 1) * sizeof(float)),
	};
	return ret->v && ret->u && ret->sigma ? 0 : -ENOMEM;
}

/* One vector, to a root mean square of 1 and fp16; returns the factor that it lost. */
static double keep_vector(const double *vector, uint32_t n, float *ret)
{
	double sum = 0, size;

	for (uint32_t i = 0; i < n; i++)
		sum += vector[i] * vector[i];
	size = sum > 0 ? sqrt(sum / n) : 1;
	for (uint32_t i = 0; i < n; i++)
		ret[i] = f16_to_f32(f16_from_f32((float)(vector[i] / size)));
	return size;
}

static void keep_triplets(const struct svd *s, struct low_rank *ret)
{
	for (uint32_t i = 0; i < ret->n; i++) {
		double v = keep_vector(
			s->v + (size_t)i * s->cols, s->cols, ret->v + (size_t)i * s->cols);
		double u = keep_vector(
			s->u + (size_t)i * s->rows, s->rows, ret->u + (size_t)i * s->rows);

		ret->sigma[i] = (float)(s->sigma[i] * v * u);
	}
}

int low_rank_fit(const struct low_rank_problem *p, struct low_rank *ret, struct reason *reason)
{
	const struct svd_problem problem = {
		.matrix = p->matrix,
		.rows = p->rows,
		.cols = p->cols,
		.n = p->n,
		.route = svd_route(p->rows, p->cols, p->n),
	};
	_cleanup_(low_rank_done) struct low_rank l = {0};
	_cleanup_(svd_freep) struct svd *s = NULL;
	int r;

	r = low_rank_alloc(p->rows, p->cols, p->n, &l);
	if (r < 0)
		return r;
	if (p->moments)
		r = svd_whitened(p->pool, &problem, p->moments, &s, reason);
	else
		r = svd_solve(p->pool, &problem, &s, reason);
	if (r < 0)
		return r;
	l.energy = svd_energy(s, p->n);
	keep_triplets(s, &l);
	*ret = l;
	l = (struct low_rank){0};
	return 0;
}

static double *widened(const float *values, size_t n)
{
	double *ret = malloc((n + 1) * sizeof(*ret));

	for (size_t i = 0; ret && i < n; i++)
		ret[i] = (double)values[i];
	return ret;
}

int low_rank_subtract(const struct low_rank *l, float *matrix)
{
	_cleanup_(freep) double *u = widened(l->u, (size_t)l->n * l->rows);
	_cleanup_(freep) double *v = widened(l->v, (size_t)l->n * l->cols);
	_cleanup_(freep) double *change =
		malloc(((size_t)ROWS_AT_ONCE * l->cols + 1) * sizeof(*change));
	struct blas_gemm gemm = {
		.n = l->cols, .k = l->n, .transpose_a = true, .alpha = 1, .a_stride = l->rows};

	if (!u || !v || !change)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->n; i++)
		for (uint32_t c = 0; c < l->cols; c++)
			v[(size_t)i * l->cols + c] *= (double)l->sigma[i];
	for (uint32_t first = 0; first < l->rows; first += ROWS_AT_ONCE) {
		float *rows = matrix + (size_t)first * l->cols;

		gemm.m = min_u64(ROWS_AT_ONCE, l->rows - first);
		blas_gemm_f64(&gemm, u + first, v, change);
		for (size_t i = 0; i < gemm.m * l->cols; i++)
			rows[i] = (float)((double)rows[i] - change[i]);
	}
	return 0;
}

static uint64_t part_bytes(uint32_t rows, uint32_t cols, uint32_t n)
{
	const struct tensor_record record = {
		.codec = CODEC_FACTORS,
		.n = n,
		.rows = rows,
		.cols = cols,
		.bits = 16,
		.grid = GRID_NONE,
		.step = 1,
	};

	return part_layout(&record).end + METHOD_RECORD_BYTES;
}

uint32_t low_rank_most(uint32_t rows, uint32_t cols, uint64_t bytes)
{
	uint32_t low = 0, high = rows < cols ? rows : cols;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (part_bytes(rows, cols, middle) <= bytes)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

int low_rank_add(const struct low_rank *l, struct method_matrix *m, uint8_t level)
{
	const struct part_place place = method_matrix_place(m, level);
	const struct plain_factors factors = {.n = l->n, .v = l->v, .u = l->u, .sigma = l->sigma};
	struct part part;
	int r;

	r = part_factors_plain(&place, &factors, 16, &part);
	if (r < 0)
		return r;
	part.quality.energy = (float)l->energy;
	return method_matrix_add(m, &part);
}

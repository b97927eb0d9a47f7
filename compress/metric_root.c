#include "compress/metric_root.h"

#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define STRIPE 256u /* rows of one piece */
#define WIDTH 256u  /* columns that are made together */

struct work {
	const struct metric *m;
	const float *x;
	float *ret;
	size_t rows, cols; /* of both */
};

/* R is upper: columns [first, first + n) of X R need no more than as many columns of X. */
static void piece_right(void *arg, size_t piece, size_t worker)
{
	const struct work *w = arg;
	size_t row = piece * STRIPE, m = min_u64(STRIPE, w->rows - row), width = w->cols;
	const float *x = w->x + row * width;
	float *ret = w->ret + row * width;

	(void)worker;
	for (size_t first = 0; w->m->feedback && first < width; first += WIDTH) {
		size_t n = min_u64(WIDTH, width - first);
		const struct blas_gemm gemm = {
			.m = m,
			.n = n,
			.k = first + n,
			.alpha = 1,
			.a_stride = width,
			.b_stride = width,
			.c_stride = width,
		};

		blas_gemm_f32(&gemm, x, w->m->feedback + first, ret + first);
	}
	if (!w->m->feedback)
		memcpy(ret, x, m * width * sizeof(*ret));
	for (size_t i = 0; i < m; i++)
		for (size_t j = 0; j < width; j++)
			ret[i * width + j] *= (float)sqrt(w->m->weights[j]);
}

void metric_root_right(
	struct pool *pool, const struct metric *m, const float *x, size_t rows, float *ret)
{
	struct work w = {.m = m, .x = x, .ret = ret, .rows = rows, .cols = m->n};

	pool_run(pool, piece_right, &w, div_up(rows, STRIPE));
}

/* Likewise rows of R^T X. */
static void piece_left(void *arg, size_t piece, size_t worker)
{
	const struct work *w = arg;
	/* The last are the longest. */
	size_t first = (div_up(w->rows, STRIPE) - 1 - piece) * STRIPE;
	size_t n = min_u64(STRIPE, w->rows - first);
	float *ret = w->ret + first * w->cols;
	const struct blas_gemm gemm = {
		.m = n,
		.n = w->cols,
		.k = first + n,
		.transpose_a = true,
		.alpha = 1,
		.a_stride = w->rows,
	};

	(void)worker;
	if (w->m->feedback)
		blas_gemm_f32(&gemm, w->m->feedback + first, w->x, ret);
	else
		memcpy(ret, w->x + first * w->cols, n * w->cols * sizeof(*ret));
	for (size_t i = 0; i < n; i++) {
		float root = (float)sqrt(w->m->weights[first + i]);

		for (size_t j = 0; j < w->cols; j++)
			ret[i * w->cols + j] *= root;
	}
}

void metric_root_left(
	struct pool *pool, const struct metric *m, const float *x, size_t cols, float *ret)
{
	struct work w = {.m = m, .x = x, .ret = ret, .rows = m->n, .cols = cols};

	pool_run(pool, piece_left, &w, div_up(m->n, STRIPE));
}

/* Within a block of columns, from the left: y_j = x_j - sum_{k < j} y_k U_kj. */
static void solve_block(const struct metric *m, float *x, size_t rows, size_t first, size_t n)
{
	for (size_t i = 0; i < rows; i++) {
		float *row = x + i * m->n + first;

		for (size_t k = 0; k < n; k++) {
			const float *feedback = m->feedback + (first + k) * m->n + first;

			for (size_t j = k + 1; j < n; j++)
				row[j] -= row[k] * feedback[j];
		}
	}
}

static void piece_solve(void *arg, size_t piece, size_t worker)
{
	const struct work *w = arg;
	size_t row = piece * STRIPE, rows = min_u64(STRIPE, w->rows - row), width = w->cols;
	float *x = w->ret + row * width;

	(void)worker;
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < width; j++)
			x[i * width + j] /= (float)sqrt(w->m->weights[j]);
	for (size_t first = 0; w->m->feedback && first < width; first += WIDTH) {
		size_t n = min_u64(WIDTH, width - first);
		const struct blas_gemm gemm = {
			.m = rows,
			.n = n,
			.k = first,
			.alpha = -1,
			.beta = 1,
			.a_stride = width,
			.b_stride = width,
			.c_stride = width,
		};

		if (first)
			blas_gemm_f32(&gemm, x, w->m->feedback + first, x + first);
		solve_block(w->m, x, rows, first, n);
	}
}

void metric_root_solve(struct pool *pool, const struct metric *m, float *x, size_t rows)
{
	struct work w = {.m = m, .ret = x, .rows = rows, .cols = m->n};

	pool_run(pool, piece_solve, &w, div_up(rows, STRIPE));
}

int metric_root_turn(struct pool *pool, const struct metric *g, const struct metric *h,
	const float *error, float *ret)
{
	_cleanup_(freep) float *half = malloc(((size_t)g->n * h->n + 1) * sizeof(*half));

	if (!half)
		return -ENOMEM;
	metric_root_left(pool, g, error, h->n, half);
	metric_root_right(pool, h, half, g->n, ret);
	return 0;
}

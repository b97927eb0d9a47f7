#include "compress/whitened.h"

#include "compress/code_costs.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

struct whitened *whitened_free(struct whitened *w)
{
	if (!w)
		return NULL;
	free(w->u);
	free(w->v);
	free(w->latent_u);
	free(w->latent_v);
	free(w->sigma);
	free(w);
	return NULL;
}

static int whitened_new(const struct whitened_basis *b, uint32_t n, struct whitened **ret)
{
	_cleanup_(whitened_freep) struct whitened *w = calloc(1, sizeof(*w));
	size_t n_u = (size_t)n * b->rows + 1, n_v = (size_t)n * b->cols + 1;

	if (!w)
		return -ENOMEM;
	*w = (struct whitened){.rows = b->rows, .cols = b->cols, .n = n};
	w->u = malloc(n_u);
	w->v = malloc(n_v);
	w->latent_u = malloc(n_u * sizeof(float));
	w->latent_v = malloc(n_v * sizeof(float));
	w->sigma = malloc(((size_t)n + 1) * sizeof(float));
	if (!w->u || !w->v || !w->latent_u || !w->latent_v || !w->sigma)
		return -ENOMEM;
	*ret = take_ptr(w);
	return 0;
}

/* Latent numbers are s u sqrt(g) / grid and s v sqrt(h) / grid, with g and h the mean diagonals. */
struct grid {
	double g, h, grid;
};

static struct grid grid_of(const struct whitened_basis *b, const struct whitened_settings *s)
{
	return (struct grid){
		.g = b->g->mean,
		.h = b->h->mean,
		.grid = s->coarseness * sqrt(6 * s->lambda / M_LN2),
	};
}

static double mean_square(const double *x, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	return sum / n;
}

/* Root mean square of the latent numbers of component i, both sides alike. */
static double prominence(const struct whitened_basis *b, const struct grid *g, uint32_t i)
{
	double u = g->g * mean_square(b->u + (size_t)i * b->rows, b->rows);
	double v = g->h * mean_square(b->v + (size_t)i * b->cols, b->cols);

	return b->sigma[i] / g->grid * sqrt((u + v) / 2);
}

static void round_row(const double *x, double factor, uint32_t n, float *latent, int8_t *codes)
{
	for (uint32_t i = 0; i < n; i++) {
		latent[i] = (float)fmin(fmax(factor * x[i], -CODE_LIMIT), CODE_LIMIT);
		codes[i] = (int8_t)lrintf(latent[i]);
	}
}

static bool all_zero(const int8_t *codes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (codes[i] != 0)
			return false;
	return true;
}

/* Components that stand out of the grid, strongest first, all on one grid. */
static void round_components(
	const struct whitened_basis *b, const struct grid *g, struct whitened *w)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < w->n; i++) {
		size_t u = (size_t)kept * b->rows, v = (size_t)kept * b->cols;
		double s = b->sigma[i] / g->grid;

		round_row(b->u + (size_t)i * b->rows, s * sqrt(g->g), b->rows, w->latent_u + u,
			w->u + u);
		round_row(b->v + (size_t)i * b->cols, s * sqrt(g->h), b->cols, w->latent_v + v,
			w->v + v);
		if (all_zero(w->u + u, b->rows) || all_zero(w->v + v, b->cols))
			continue;
		w->sigma[kept++] = (float)(g->grid * g->grid / (b->sigma[i] * sqrt(g->g * g->h)));
	}
	w->n = kept;
}

int whitened_quantise(const struct whitened_basis *basis, const struct whitened_settings *settings,
	struct whitened **ret)
{
	const struct grid grid = grid_of(basis, settings);
	_cleanup_(whitened_freep) struct whitened *w = NULL;
	uint32_t n = 0;
	int r;

	while (n < basis->rank && prominence(basis, &grid, n) >= settings->least)
		n++;
	r = whitened_new(basis, n, &w);
	if (r < 0)
		return r;
	round_components(basis, &grid, w);
	*ret = take_ptr(w);
	return 0;
}

int whitened_values(const struct whitened *w, float *ret)
{
	_cleanup_(freep) float *u = malloc(((size_t)w->n * w->rows + 1) * sizeof(*u));
	_cleanup_(freep) float *v = malloc(((size_t)w->n * w->cols + 1) * sizeof(*v));
	const struct blas_gemm gemm = {
		.m = w->rows, .n = w->cols, .k = w->n, .transpose_a = true, .alpha = 1};

	if (!u || !v)
		return -ENOMEM;
	if (w->n == 0) {
		memset(ret, 0, (size_t)w->rows * w->cols * sizeof(*ret));
		return 0;
	}
	for (uint32_t i = 0; i < w->n; i++) {
		for (uint32_t k = 0; k < w->rows; k++)
			u[(size_t)i * w->rows + k] = w->sigma[i] * w->u[(size_t)i * w->rows + k];
		for (uint32_t k = 0; k < w->cols; k++)
			v[(size_t)i * w->cols + k] = w->v[(size_t)i * w->cols + k];
	}
	blas_gemm_f32(&gemm, u, v, ret);
	return 0;
}

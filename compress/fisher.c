#include "compress/fisher.h"

#include "kernels/blas.h"
#include "store/base.h"

#include <string.h>

#define STRIP 256u /* rows of a factor in one piece */
#define N_FACTORS (N_FISHER_INPUTS + DENSE_N_PROJECTIONS)

static const enum fisher_input inputs[DENSE_N_PROJECTIONS] = {FISHER_ATTENTION_INPUT,
	FISHER_ATTENTION_INPUT, FISHER_ATTENTION_INPUT, FISHER_ATTENTION, FISHER_FFN_INPUT,
	FISHER_FFN_INPUT, FISHER_FFN};

enum fisher_input fisher_input_of(size_t projection)
{
	return inputs[projection];
}

uint32_t fisher_input_width(const struct model_config *c, enum fisher_input input)
{
	switch (input) {
	case FISHER_ATTENTION_INPUT:
	case FISHER_FFN_INPUT:
		return c->hidden;
	case FISHER_ATTENTION:
		return c->n_heads * c->head_dim;
	case FISHER_FFN:
		return c->ffn;
	case N_FISHER_INPUTS:
		break;
	}
	return 0;
}

void fisher_block_done(struct fisher_block *b)
{
	for (size_t i = 0; i < N_FISHER_INPUTS; i++)
		free(b->h[i]);
	for (size_t i = 0; i < DENSE_N_PROJECTIONS; i++)
		free(b->g[i]);
	*b = (struct fisher_block){0};
}

struct fisher {
	const struct fisher_settings *settings;
	fisher_fn *fn;
	void *user;
	double n_read, n_judged;
	struct fisher_block block;
};

struct fisher *fisher_free(struct fisher *f)
{
	if (!f)
		return NULL;
	fisher_block_done(&f->block);
	free(f);
	return NULL;
}

int fisher_new(
	const struct fisher_settings *settings, fisher_fn *fn, void *user, struct fisher **ret)
{
	const struct batch batch = {.sequences = settings->sequences, .n = settings->sequences->n};
	struct fisher *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	*f = (struct fisher){
		.settings = settings,
		.fn = fn,
		.user = user,
		.n_read = (double)batch_read(&batch),
		.n_judged = (double)batch_judged(&batch),
	};
	*ret = f;
	return 0;
}

struct loss fisher_loss(const struct fisher_settings *settings)
{
	return (struct loss){
		.kind = LOSS_SAMPLED,
		.weight = 1,
		.temperature =
			settings->temperature > 0 ? settings->temperature : FISHER_TEMPERATURE,
		.seed = settings->seed,
	};
}

/* One H or G: the upper triangle of factor += rows^T rows. */
struct gram {
	float **factor;
	const float *rows;
	uint32_t width;
	double share; /* of a token */
	double *energy;
};

static void list_grams(struct fisher *f, const struct backward_taps *taps, struct gram *ret)
{
	struct fisher_block *b = &f->block;

	for (size_t i = 0; i < DENSE_N_PROJECTIONS; i++) {
		enum fisher_input input = inputs[i];

		ret[input] = (struct gram){&b->h[input], taps->of[i].x, taps->of[i].cols,
			1 / f->n_read, &b->input_energy[input]};
		ret[N_FISHER_INPUTS + i] = (struct gram){&b->g[i], taps->of[i].g, taps->of[i].rows,
			1 / f->n_judged, &b->gradient_energy[i]};
	}
}

struct gram_work {
	struct gram grams[N_FACTORS];
	size_t first_piece[N_FACTORS + 1];
	size_t n; /* tokens */
};

static void piece_gram(void *arg, size_t piece, size_t worker)
{
	const struct gram_work *w = arg;
	const struct gram *g = w->grams;
	size_t i = 0, first;
	struct blas_gemm gemm = {.k = w->n, .transpose_a = true, .alpha = 1, .beta = 1};

	(void)worker;
	while (piece >= w->first_piece[i + 1])
		i++;
	g += i;
	first = (piece - w->first_piece[i]) * STRIP;
	gemm.m = min_u64(STRIP, g->width - first);
	gemm.n = g->width - first;
	gemm.a_stride = gemm.b_stride = gemm.c_stride = g->width;
	blas_gemm_f32(
		&gemm, g->rows + first, g->rows + first, *g->factor + first * g->width + first);
}

/* Zeros, in new memory where somebody kept the old. */
static int reset_factors(struct gram *grams)
{
	for (size_t i = 0; i < N_FACTORS; i++) {
		struct gram *g = &grams[i];
		size_t n = (size_t)g->width * g->width;

		if (!*g->factor)
			*g->factor = calloc(n, sizeof(float));
		else
			memset(*g->factor, 0, n * sizeof(float));
		if (!*g->factor)
			return -ENOMEM;
	}
	return 0;
}

/* Sums to means, both triangles, and the trace. */
static void piece_finish(void *arg, size_t piece, size_t worker)
{
	const struct gram *g = (const struct gram *)arg + piece;
	float *a = *g->factor;
	size_t n = g->width;
	double trace = 0;

	(void)worker;
	for (size_t i = 0; i < n; i++) {
		for (size_t j = i; j < n; j++)
			a[j * n + i] = a[i * n + j] = (float)((double)a[i * n + j] * g->share);
		trace += (double)a[i * n + i];
	}
	*g->energy = trace;
}

static int finish_layer(
	struct fisher *f, struct gram_work *w, uint32_t layer, struct reason *reason)
{
	const struct fisher_settings *s = f->settings;
	uint32_t n_layers = s->model->config.n_layers;
	int r;

	pool_run(s->pool, piece_finish, w->grams, N_FACTORS);
	f->block.layer = layer;
	r = f->fn(f->user, &f->block, reason);
	progress_update(s->progress, "sensing", n_layers - layer, n_layers);
	return r;
}

int fisher_visit(void *fisher, const struct backward_taps *taps, struct reason *reason)
{
	struct fisher *f = fisher;
	struct gram_work w = {.n = taps->n};

	list_grams(f, taps, w.grams);
	if (taps->first) {
		int r = reset_factors(w.grams);

		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < N_FACTORS; i++)
		w.first_piece[i + 1] = w.first_piece[i] + div_up(w.grams[i].width, STRIP);
	pool_run(f->settings->pool, piece_gram, &w, w.first_piece[N_FACTORS]);
	return taps->last ? finish_layer(f, &w, taps->layer, reason) : 0;
}

int fisher_run(
	const struct fisher_settings *settings, fisher_fn *fn, void *user, struct reason *reason)
{
	const struct sequences *s = settings->sequences;
	const struct batch batch = {.sequences = s, .n = s->n};
	const struct loss loss = fisher_loss(settings);
	_cleanup_(fisherp) struct fisher *f = NULL;
	_cleanup_(backwardp) struct backward *b = NULL;
	struct loss_sums sums;
	int r;

	if (s->n == 0)
		return reason_set(reason, -EINVAL, "there are no sequences to learn from");
	progress_update(settings->progress, "sensing", 0, settings->model->config.n_layers);
	r = fisher_new(settings, fn, user, &f);
	if (r == 0)
		r = backward_new(
			&settings->model->config, settings->pool, sequences_longest(s), &b, reason);
	if (r < 0)
		return r;
	return backward_visit(b, settings->model, &batch, &loss, fisher_visit, f, &sums, reason);
}

static int keep(void *user, struct fisher_block *block, struct reason *reason)
{
	struct fisher_block *all = user;

	(void)reason;
	all[block->layer] = *block;
	*block = (struct fisher_block){0};
	return 0;
}

int fisher_all(
	const struct fisher_settings *settings, struct fisher_block *ret, struct reason *reason)
{
	uint32_t n = settings->model->config.n_layers;
	int r;

	memset(ret, 0, n * sizeof(*ret));
	r = fisher_run(settings, keep, ret, reason);
	for (uint32_t layer = 0; r < 0 && layer < n; layer++)
		fisher_block_done(&ret[layer]);
	return r;
}

static double trace(const float *f, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)f[(size_t)i * n + i];
	return sum;
}

static void blend(float *f, const float *other, uint32_t n, double share)
{
	double t = trace(other, n), scale = t > 0 ? share * trace(f, n) / t : 0;

	if (scale == 0)
		return;
	for (size_t i = 0; i < (size_t)n * n; i++)
		f[i] = (float)((1 - share) * (double)f[i] + scale * (double)other[i]);
}

void fisher_blend(struct fisher_block *block, const struct fisher_block *other,
	const struct model_config *config, double share)
{
	uint32_t rows, cols;

	for (size_t i = 0; i < N_FISHER_INPUTS; i++)
		blend(block->h[i], other->h[i], fisher_input_width(config, (enum fisher_input)i),
			share);
	for (size_t p = 0; p < DENSE_N_PROJECTIONS; p++)
		if (model_config_shape(config, dense_projections[p], block->layer, &rows, &cols))
			blend(block->g[p], other->g[p], rows, share);
}

struct cost {
	const float *g, *h, *error;
	size_t rows, cols;
	float *scratch; /* 2 x STRIP x cols for each worker */
	double *sums;   /* one a piece */
};

/* Some rows of G E, then of G E H, against those of E. */
static void piece_cost(void *arg, size_t piece, size_t worker)
{
	const struct cost *c = arg;
	size_t first = piece * STRIP, n = min_u64(STRIP, c->rows - first);
	float *ge = c->scratch + worker * 2 * STRIP * c->cols, *geh = ge + STRIP * c->cols;
	struct blas_gemm outer = {.m = n, .n = c->cols, .k = c->rows, .alpha = 1};
	struct blas_gemm inner = {.m = n, .n = c->cols, .k = c->cols, .alpha = 1};
	double sum = 0;

	blas_gemm_f32(&outer, c->g + first * c->rows, c->error, ge);
	blas_gemm_f32(&inner, ge, c->h, geh);
	for (size_t i = 0; i < n * c->cols; i++)
		sum += (double)geh[i] * (double)c->error[first * c->cols + i];
	c->sums[piece] = sum;
}

int fisher_kl(struct pool *pool, const struct fisher_block *block, size_t projection,
	const float *error, uint32_t rows, uint32_t cols, double *ret)
{
	size_t n_pieces = div_up(rows, STRIP);
	_cleanup_(freep) float *scratch =
		calloc(pool_threads(pool) * 2 * STRIP * cols, sizeof(*scratch));
	_cleanup_(freep) double *sums = calloc(n_pieces, sizeof(*sums));
	struct cost c = {
		.g = block->g[projection],
		.h = block->h[inputs[projection]],
		.error = error,
		.rows = rows,
		.cols = cols,
		.scratch = scratch,
		.sums = sums,
	};
	double sum = 0;

	if (!scratch || !sums)
		return -ENOMEM;
	pool_run(pool, piece_cost, &c, n_pieces);
	for (size_t i = 0; i < n_pieces; i++)
		sum += sums[i];
	*ret = sum / 2;
	return 0;
}

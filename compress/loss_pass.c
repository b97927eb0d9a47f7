#include "compress/loss_pass.h"

#include "compress/block_math.h"
#include "compress/exponential.h"
#include "common/random.h"
#include "kernels/blas.h"

#include <math.h>
#include <string.h>

#define VOCAB_STRIP 512u /* tokens of the vocabulary in one piece */
#define STATE_TILE 64u   /* rows of one piece where all the vocabulary is needed */

/* LOSS_ROWS judged tokens at a time. */
struct head {
	const struct loss_pass *pass;
	const struct judged *judged; /* the first of them */
	size_t first, n;
	size_t hidden, vocab;
	const float *weights, *norm;
	float *states;  /* LOSS_ROWS x hidden: after the final norm */
	float *dstates; /* likewise */
	float *z;       /* LOSS_ROWS x vocab: logits, then their gradient */
	float *teacher; /* likewise, where there is one */
	float *powers;  /* 2 x vocab for each worker */
	double *losses; /* LOSS_ROWS */
	double *dnorms; /* hidden for each tile of states */
};

static void head_done(struct head *h)
{
	free(h->states);
	free(h->dstates);
	free(h->z);
	free(h->teacher);
	free(h->powers);
	free(h->losses);
	free(h->dnorms);
}

static int head_init(struct head *h, const struct loss_pass *p)
{
	size_t rows = min_u64(LOSS_ROWS, p->n_judged);

	h->pass = p;
	h->hidden = p->model->config.hidden;
	h->vocab = p->model->config.vocab;
	h->weights = dense_head(p->model);
	h->norm = dense_final_norm(p->model);
	h->states = calloc(rows * h->hidden, sizeof(float));
	h->dstates = calloc(rows * h->hidden, sizeof(float));
	h->z = calloc(rows * h->vocab, sizeof(float));
	h->powers = calloc(pool_threads(p->pool) * 2 * h->vocab, sizeof(float));
	h->losses = calloc(rows, sizeof(double));
	h->dnorms = calloc(div_up(LOSS_ROWS, STATE_TILE) * h->hidden, sizeof(double));
	if (!h->states || !h->dstates || !h->z || !h->powers || !h->losses || !h->dnorms)
		return -ENOMEM;
	if (p->loss->kind != LOSS_TEACHER)
		return 0;
	h->teacher = calloc(rows * h->vocab, sizeof(float));
	return h->teacher ? 0 : -ENOMEM;
}

static const float *x_of(const struct loss_pass *p, const struct judged *j)
{
	return p->x + j->row * p->model->config.hidden;
}

static void piece_states(void *arg, size_t i, size_t worker)
{
	const struct head *h = arg;

	(void)worker;
	rms_norm(h->states + i * h->hidden, x_of(h->pass, &h->judged[i]), h->norm, h->hidden,
		h->pass->model->config.norm_eps);
}

/* Some columns of the logits. */
static void strip_of_logits(
	const struct head *h, size_t piece, const float *states, const float *weights, float *z)
{
	size_t first = piece * VOCAB_STRIP;
	struct blas_gemm gemm = {
		.m = h->n,
		.n = min_u64(VOCAB_STRIP, h->vocab - first),
		.k = h->hidden,
		.transpose_b = true,
		.alpha = 1,
		.c_stride = h->vocab,
	};

	blas_gemm_f32(&gemm, states, weights + first * h->hidden, z + first);
}

static void piece_logits(void *arg, size_t piece, size_t worker)
{
	const struct head *h = arg;
	const struct loss *loss = h->pass->loss;

	(void)worker;
	strip_of_logits(h, piece, h->states, h->weights, h->z);
	if (h->teacher)
		strip_of_logits(h, piece, loss->teacher_states + h->first * h->hidden,
			loss->teacher_head, h->teacher);
}

/* A row of logits as probabilities: powers[i] / sum, with log p_i = scale z_i - log_sum. */
struct softened {
	float *powers;
	double sum, log_sum;
};

static void soften(const float *z, size_t n, float scale, struct softened *ret)
{
	float top = exponential_top(z, scale, n);

	ret->sum = exponential_sum(ret->powers, z, scale, top, n);
	ret->log_sum = (double)top + log(ret->sum);
}

/* z -> weight * (p - onehot(token)); returns -log p(token). */
static double blame(
	const struct softened *p, double weight, float scale, uint32_t token, float *z, size_t n)
{
	double loss = p->log_sum - (double)(z[token] * scale);
	float factor = (float)(weight / p->sum);

	for (size_t i = 0; i < n; i++)
		z[i] = p->powers[i] * factor;
	z[token] -= (float)weight;
	return loss;
}

static uint32_t draw(const struct softened *p, size_t n, double share)
{
	double left = share * p->sum;

	for (size_t i = 0; i < n; i++) {
		left -= (double)p->powers[i];
		if (left < 0)
			return (uint32_t)i;
	}
	return (uint32_t)(n - 1);
}

static double row_of_tokens(const struct head *h, size_t i, struct softened *p)
{
	float *z = h->z + i * h->vocab;

	soften(z, h->vocab, 1, p);
	return blame(p, h->pass->loss->weight, 1, h->judged[i].token, z, h->vocab);
}

static double row_of_sampled(const struct head *h, size_t i, struct softened *p)
{
	const struct judged *j = &h->judged[i];
	const struct loss *loss = h->pass->loss;
	float scale = (float)(1 / loss->temperature);
	float *z = h->z + i * h->vocab;
	double share = random_share(random_at(random_at(loss->seed, j->sequence), j->place));

	soften(z, h->vocab, scale, p);
	return blame(
		p, loss->weight / loss->temperature, scale, draw(p, h->vocab, share), z, h->vocab);
}

static double row_of_teacher(const struct head *h, size_t i, struct softened *p)
{
	struct softened q = {.powers = p->powers + h->vocab};
	float *z = h->z + i * h->vocab;
	const float *teacher = h->teacher + i * h->vocab;
	double weight = h->pass->loss->weight, kl = 0;

	soften(z, h->vocab, 1, p);
	soften(teacher, h->vocab, 1, &q);
	for (size_t v = 0; v < h->vocab; v++) {
		double share = (double)q.powers[v] / q.sum;

		kl += share * ((double)teacher[v] - q.log_sum - ((double)z[v] - p->log_sum));
		z[v] = (float)(weight * ((double)p->powers[v] / p->sum - share));
	}
	return fmax(kl, 0);
}

static void piece_losses(void *arg, size_t i, size_t worker)
{
	const struct head *h = arg;
	struct softened p = {.powers = h->powers + worker * 2 * h->vocab};

	switch (h->pass->loss->kind) {
	case LOSS_TOKENS:
		h->losses[i] = row_of_tokens(h, i, &p);
		break;
	case LOSS_TEACHER:
		h->losses[i] = row_of_teacher(h, i, &p);
		break;
	case LOSS_SAMPLED:
		h->losses[i] = row_of_sampled(h, i, &p);
		break;
	}
}

static void piece_dstates(void *arg, size_t piece, size_t worker)
{
	const struct head *h = arg;
	size_t first = piece * STATE_TILE, n = min_u64(STATE_TILE, h->n - first);
	struct blas_gemm gemm = {.m = n, .n = h->hidden, .k = h->vocab, .alpha = 1};
	double *dnorm = h->dnorms + piece * h->hidden;

	(void)worker;
	blas_gemm_f32(&gemm, h->z + first * h->vocab, h->weights, h->dstates + first * h->hidden);
	memset(dnorm, 0, h->hidden * sizeof(*dnorm));
	for (size_t i = first; i < first + n; i++) {
		struct rms_norm_back norm = {
			.x = x_of(h->pass, &h->judged[i]),
			.weight = h->norm,
			.dy = h->dstates + i * h->hidden,
			.n = h->hidden,
			.eps = h->pass->model->config.norm_eps,
			.dweight = dnorm,
		};

		rms_norm_back(&norm, false, h->pass->dx + h->judged[i].row * h->hidden);
	}
}

static void piece_dhead(void *arg, size_t piece, size_t worker)
{
	const struct head *h = arg;
	size_t first = piece * VOCAB_STRIP;
	struct blas_gemm gemm = {
		.m = min_u64(VOCAB_STRIP, h->vocab - first),
		.n = h->hidden,
		.k = h->n,
		.transpose_a = true,
		.alpha = 1,
		.beta = 1,
		.a_stride = h->vocab,
	};

	(void)worker;
	blas_gemm_f32(&gemm, h->z + first, h->states, h->pass->dhead + first * h->hidden);
}

static void add_dnorms(const struct head *h)
{
	for (size_t piece = 0; piece < div_up(h->n, STATE_TILE); piece++)
		for (size_t i = 0; i < h->hidden; i++)
			h->pass->dfinal_norm[i] += (float)h->dnorms[piece * h->hidden + i];
}

static void run_rows(struct head *h, struct loss_sums *sums)
{
	struct pool *pool = h->pass->pool;

	pool_run(pool, piece_states, h, h->n);
	pool_run(pool, piece_logits, h, div_up(h->vocab, VOCAB_STRIP));
	pool_run(pool, piece_losses, h, h->n);
	for (size_t i = 0; i < h->n; i++)
		sums->sum += h->losses[i];
	if (h->pass->loss->each)
		memcpy(h->pass->loss->each + h->first, h->losses, h->n * sizeof(*h->losses));
	sums->n += h->n;
	if (!h->pass->dx)
		return;
	pool_run(pool, piece_dstates, h, div_up(h->n, STATE_TILE));
	if (h->pass->dfinal_norm)
		add_dnorms(h);
	if (h->pass->dhead)
		pool_run(pool, piece_dhead, h, div_up(h->vocab, VOCAB_STRIP));
}

int loss_pass_run(const struct loss_pass *p, struct loss_sums *ret)
{
	_cleanup_(head_done) struct head h = {0};
	struct loss_sums sums = {0};
	int r = head_init(&h, p);

	if (r < 0)
		return r;
	for (h.first = 0; h.first < p->n_judged; h.first += LOSS_ROWS) {
		h.judged = p->judged + h.first;
		h.n = min_u64(LOSS_ROWS, p->n_judged - h.first);
		run_rows(&h, &sums);
	}
	*ret = sums;
	return 0;
}

void loss_pass_states(const struct loss_pass *p, float *ret)
{
	const struct dense_model *m = p->model;
	size_t hidden = m->config.hidden;

	for (size_t i = 0; i < p->n_judged; i++)
		rms_norm(ret + i * hidden, x_of(p, &p->judged[i]), dense_final_norm(m), hidden,
			m->config.norm_eps);
}

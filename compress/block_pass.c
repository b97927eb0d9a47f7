#include "compress/block_pass.h"

#include "compress/block_attention.h"
#include "compress/block_math.h"
#include "kernels/blas.h"

#include <string.h>

#define TILE 256u /* rows of one piece */

static size_t q_width(const struct block_pass *p)
{
	return (size_t)p->config.n_heads * p->config.head_dim;
}

static size_t kv_width(const struct block_pass *p)
{
	return (size_t)p->config.n_kv_heads * p->config.head_dim;
}

/* Numbers of dnorms. */
static size_t norms_width(const struct block_pass *p)
{
	return 2 * (size_t)p->config.hidden + 2 * (size_t)p->config.head_dim;
}

/* What is kept of a row on its way forward. */
struct tape_rows {
	float **rows;
	size_t width;
};

#define TAPE_ROWS 13u

static void list_tape(struct block_pass *p, struct tape_rows ret[static TAPE_ROWS])
{
	size_t hidden = p->config.hidden, ffn = p->config.ffn, q = q_width(p), kv = kv_width(p);
	bool normed = p->config.flags & MODEL_QK_NORM;
	const struct tape_rows all[TAPE_ROWS] = {
		{&p->h, hidden},
		{&p->q, q},
		{&p->k, kv},
		{&p->v, kv},
		{&p->q_raw, normed ? q : 0},
		{&p->k_raw, normed ? kv : 0},
		{&p->a, q},
		{&p->x2, hidden},
		{&p->f, hidden},
		{&p->gate, ffn},
		{&p->up, ffn},
		{&p->sig, ffn},
		{&p->g, ffn},
	};

	memcpy(ret, all, sizeof(all));
}

size_t block_pass_tape(const struct block_pass *p)
{
	struct block_pass copy = *p;
	struct tape_rows all[TAPE_ROWS];
	size_t sum = 0;

	list_tape(&copy, all);
	for (size_t i = 0; i < TAPE_ROWS; i++)
		sum += all[i].width;
	return sum;
}

void block_pass_use_tape(struct block_pass *p, float *tape, size_t n)
{
	struct tape_rows all[TAPE_ROWS];

	if (!tape) {
		tape = p->tape;
		n = p->room;
	}
	list_tape(p, all);
	for (size_t i = 0; i < TAPE_ROWS; i++) {
		*all[i].rows = tape;
		tape += n * all[i].width;
	}
}

static int allocate_rows(struct block_pass *p)
{
	size_t hidden = p->config.hidden, ffn = p->config.ffn, q = q_width(p), kv = kv_width(p);
	const struct {
		float **rows;
		size_t width;
	} all[] = {
		{&p->tape, block_pass_tape(p)},
		{&p->dq, q},
		{&p->dk, kv},
		{&p->dv, kv},
		{&p->da, q},
		{&p->dx2, hidden},
		{&p->dx, hidden},
		{&p->work, hidden},
		{&p->dg, ffn},
	};

	for (size_t i = 0; i < array_len(all); i++) {
		*all[i].rows = reallocarray(NULL, p->room * all[i].width, sizeof(float));
		if (!*all[i].rows)
			return -ENOMEM;
	}
	block_pass_use_tape(p, NULL, 0);
	return 0;
}

int block_pass_init(struct block_pass *p, const struct model_config *config,
	const struct block_shape *shape, struct pool *pool, size_t room, uint32_t longest)
{
	int r;

	*p = (struct block_pass){.shape = shape, .config = *config, .pool = pool, .room = room};
	r = allocate_rows(p);
	if (r < 0)
		return r;
	p->n_scores = block_attention_scratch(longest);
	p->positions = calloc(room, sizeof(*p->positions));
	p->scores = calloc(pool_threads(pool) * p->n_scores, sizeof(*p->scores));
	p->dnorms = calloc(norms_width(p), sizeof(*p->dnorms));
	p->norm_parts = calloc(div_up(room, TILE) * norms_width(p), sizeof(*p->norm_parts));
	return p->positions && p->scores && p->dnorms && p->norm_parts ? 0 : -ENOMEM;
}

void block_pass_done(struct block_pass *p)
{
	float *const rows[] = {p->tape, p->dq, p->dk, p->dv, p->da, p->dx2, p->dx, p->work, p->dg};

	for (size_t i = 0; i < array_len(rows); i++)
		free(rows[i]);
	free(p->positions);
	free(p->scores);
	free(p->dnorms);
	free(p->norm_parts);
	*p = (struct block_pass){0};
}

/* The rows of one piece. */
struct tile {
	size_t first, n;
};

static struct tile tile_of(const struct block_pass *p, size_t piece)
{
	size_t first = piece * TILE;

	return (struct tile){first, min_u64(TILE, p->n - first)};
}

/* A matrix, outputs x inputs, and its bias or NULL. */
struct map {
	const float *w, *bias;
	size_t outputs, inputs;
};

/* y = W x + bias for the rows of a tile; `add`: y += ... */
static void apply(const struct map *m, const struct tile *tile, const float *x, float *y, bool add)
{
	struct blas_gemm gemm = {
		.m = tile->n,
		.n = m->outputs,
		.k = m->inputs,
		.transpose_b = true,
		.alpha = 1,
		.beta = add,
	};

	y += tile->first * m->outputs;
	blas_gemm_f32(&gemm, x + tile->first * m->inputs, m->w, y);
	for (size_t t = 0; m->bias && t < tile->n; t++)
		for (size_t o = 0; o < m->outputs; o++)
			y[t * m->outputs + o] += m->bias[o];
}

/* dx = W^T dy; `add`: dx += ... */
static void apply_back(
	const struct map *m, const struct tile *tile, const float *dy, float *dx, bool add)
{
	struct blas_gemm gemm = {
		.m = tile->n,
		.n = m->inputs,
		.k = m->outputs,
		.alpha = 1,
		.beta = add,
	};

	blas_gemm_f32(&gemm, dy + tile->first * m->outputs, m->w, dx + tile->first * m->inputs);
}

static struct map map_q(const struct block_pass *p)
{
	return (struct map){p->weights.q, p->weights.q_bias, q_width(p), p->config.hidden};
}

static struct map map_k(const struct block_pass *p)
{
	return (struct map){p->weights.k, p->weights.k_bias, kv_width(p), p->config.hidden};
}

static struct map map_v(const struct block_pass *p)
{
	return (struct map){p->weights.v, p->weights.v_bias, kv_width(p), p->config.hidden};
}

static struct map map_o(const struct block_pass *p)
{
	return (struct map){p->weights.o, p->weights.o_bias, p->config.hidden, q_width(p)};
}

static struct map map_gate(const struct block_pass *p)
{
	return (struct map){p->weights.gate, p->weights.gate_bias, p->config.ffn, p->config.hidden};
}

static struct map map_up(const struct block_pass *p)
{
	return (struct map){p->weights.up, p->weights.up_bias, p->config.ffn, p->config.hidden};
}

static struct map map_down(const struct block_pass *p)
{
	return (struct map){p->weights.down, p->weights.down_bias, p->config.hidden, p->config.ffn};
}

static void norm_tile(const struct block_pass *p, const struct tile *tile, const float *weight,
	const float *x, float *y)
{
	size_t hidden = p->config.hidden;

	for (size_t t = tile->first; t < tile->first + tile->n; t++)
		rms_norm(y + t * hidden, x + t * hidden, weight, hidden, p->config.norm_eps);
}

/* The heads of q or of k. */
struct heads {
	size_t n;
	const float *norm; /* or NULL */
	float *raw;        /* where `norm` */
};

static struct heads heads_q(const struct block_pass *p)
{
	return (struct heads){p->config.n_heads, p->weights.q_norm, p->q_raw};
}

static struct heads heads_k(const struct block_pass *p)
{
	return (struct heads){p->config.n_kv_heads, p->weights.k_norm, p->k_raw};
}

static void place_heads(const struct block_pass *p, const struct tile *tile,
	const struct heads *heads, float *values)
{
	size_t d = p->config.head_dim, width = heads->n * d;

	if (heads->norm)
		memcpy(heads->raw + tile->first * width, values + tile->first * width,
			tile->n * width * sizeof(*values));
	for (size_t t = tile->first; t < tile->first + tile->n; t++) {
		struct block_angles angles = block_angles(p->shape, p->positions[t]);

		for (size_t i = 0; i < heads->n; i++) {
			float *head = values + t * width + i * d;

			if (heads->norm)
				rms_norm(head, head, heads->norm, d, p->config.norm_eps);
			rotate(head, angles.cosines, angles.sines, d);
		}
	}
}

static void tile_to_heads(void *arg, size_t piece, size_t worker)
{
	struct block_pass *p = arg;
	struct tile tile = tile_of(p, piece);
	struct map q = map_q(p), k = map_k(p), v = map_v(p);
	struct heads q_heads = heads_q(p), k_heads = heads_k(p);

	(void)worker;
	norm_tile(p, &tile, p->weights.attn_norm, p->x, p->h);
	apply(&q, &tile, p->h, p->q, false);
	apply(&k, &tile, p->h, p->k, false);
	apply(&v, &tile, p->h, p->v, false);
	place_heads(p, &tile, &q_heads, p->q);
	place_heads(p, &tile, &k_heads, p->k);
}

static void activate(const struct block_pass *p, const struct tile *tile)
{
	size_t ffn = p->config.ffn;

	sigmoid(p->sig + tile->first * ffn, p->gate + tile->first * ffn, tile->n * ffn);
	for (size_t i = tile->first * ffn; i < (tile->first + tile->n) * ffn; i++)
		p->g[i] = p->gate[i] * p->sig[i] * p->up[i];
}

static void tile_to_outputs(void *arg, size_t piece, size_t worker)
{
	struct block_pass *p = arg;
	struct tile tile = tile_of(p, piece);
	size_t at = tile.first * p->config.hidden;
	size_t bytes = tile.n * p->config.hidden * sizeof(float);
	struct map o = map_o(p), gate = map_gate(p), up = map_up(p), down = map_down(p);

	(void)worker;
	memcpy(p->x2 + at, p->x + at, bytes);
	apply(&o, &tile, p->a, p->x2, true);
	norm_tile(p, &tile, p->weights.ffn_norm, p->x2, p->f);
	apply(&gate, &tile, p->f, p->gate, false);
	apply(&up, &tile, p->f, p->up, false);
	activate(p, &tile);
	if (!p->y)
		return;
	memcpy(p->y + at, p->x2 + at, bytes);
	apply(&down, &tile, p->g, p->y, true);
}

static void set_positions(struct block_pass *p)
{
	for (size_t s = 0; s < p->n_spans; s++)
		for (uint32_t t = 0; t < p->spans[s].n; t++)
			p->positions[p->spans[s].first + t] = t;
}

void block_pass_forward(struct block_pass *p)
{
	set_positions(p);
	pool_run(p->pool, tile_to_heads, p, div_up(p->n, TILE));
	block_attention_forward(p);
	pool_run(p->pool, tile_to_outputs, p, div_up(p->n, TILE));
}

/* Where the gradients of the norms of a tile begin; NULL if nobody wants them. */
static double *norm_part(const struct block_pass *p, size_t piece)
{
	return p->want_norms ? p->norm_parts + piece * norms_width(p) : NULL;
}

/* dx += the gradient that `dy` at a norm's outputs means for its inputs x. */
static void norm_tile_back(const struct block_pass *p, const struct tile *tile,
	const struct rms_norm_back *norm, float *dx)
{
	size_t hidden = p->config.hidden;
	struct rms_norm_back row = *norm;

	row.n = hidden;
	row.eps = p->config.norm_eps;
	for (size_t t = tile->first; t < tile->first + tile->n; t++) {
		row.x = norm->x + t * hidden;
		row.dy = norm->dy + t * hidden;
		rms_norm_back(&row, true, dx + t * hidden);
	}
}

/* dg -> gradients at gate and up, in their places. */
static void activate_back(struct block_pass *p, const struct tile *tile)
{
	size_t ffn = p->config.ffn;

	for (size_t i = tile->first * ffn; i < (tile->first + tile->n) * ffn; i++) {
		float gate = p->gate[i], sig = p->sig[i];

		p->gate[i] = p->dg[i] * p->up[i] * sig * (1 + gate * (1 - sig));
		p->up[i] = p->dg[i] * gate * sig;
	}
}

static void tile_from_outputs(void *arg, size_t piece, size_t worker)
{
	struct block_pass *p = arg;
	struct tile tile = tile_of(p, piece);
	size_t hidden = p->config.hidden, at = tile.first * hidden;
	struct map o = map_o(p), gate = map_gate(p), up = map_up(p), down = map_down(p);
	double *sums = norm_part(p, piece);
	struct rms_norm_back norm = {
		.x = p->x2,
		.weight = p->weights.ffn_norm,
		.dy = p->work,
		.dweight = sums ? sums + hidden : NULL,
	};

	(void)worker;
	if (sums)
		memset(sums, 0, norms_width(p) * sizeof(*sums));
	apply_back(&down, &tile, p->dy, p->dg, false);
	activate_back(p, &tile);
	apply_back(&gate, &tile, p->gate, p->work, false);
	apply_back(&up, &tile, p->up, p->work, true);
	memcpy(p->dx2 + at, p->dy + at, tile.n * hidden * sizeof(float));
	norm_tile_back(p, &tile, &norm, p->dx2);
	apply_back(&o, &tile, p->dx2, p->da, false);
}

/* Gradients at placed heads -> at the outputs of the projection. */
static void place_heads_back(const struct block_pass *p, const struct tile *tile,
	const struct heads *heads, float *gradient, double *dnorm)
{
	size_t d = p->config.head_dim, width = heads->n * d;
	struct rms_norm_back norm = {
		.weight = heads->norm, .n = d, .eps = p->config.norm_eps, .dweight = dnorm};

	for (size_t t = tile->first; t < tile->first + tile->n; t++) {
		struct block_angles angles = block_angles(p->shape, p->positions[t]);

		for (size_t i = 0; i < heads->n; i++) {
			float *head = gradient + t * width + i * d;

			rotate_back(head, angles.cosines, angles.sines, d);
			if (!heads->norm)
				continue;
			norm.x = heads->raw + t * width + i * d;
			norm.dy = head;
			rms_norm_back(&norm, false, head);
		}
	}
}

static void tile_from_heads(void *arg, size_t piece, size_t worker)
{
	struct block_pass *p = arg;
	struct tile tile = tile_of(p, piece);
	size_t hidden = p->config.hidden, at = tile.first * hidden;
	struct map q = map_q(p), k = map_k(p), v = map_v(p);
	struct heads q_heads = heads_q(p), k_heads = heads_k(p);
	double *sums = norm_part(p, piece);
	struct rms_norm_back norm = {
		.x = p->x, .weight = p->weights.attn_norm, .dy = p->work, .dweight = sums};

	(void)worker;
	place_heads_back(p, &tile, &q_heads, p->dq, sums ? sums + 2 * hidden : NULL);
	place_heads_back(
		p, &tile, &k_heads, p->dk, sums ? sums + 2 * hidden + p->config.head_dim : NULL);
	apply_back(&q, &tile, p->dq, p->work, false);
	apply_back(&k, &tile, p->dk, p->work, true);
	apply_back(&v, &tile, p->dv, p->work, true);
	memcpy(p->dx + at, p->dx2 + at, tile.n * hidden * sizeof(float));
	norm_tile_back(p, &tile, &norm, p->dx);
}

static void sum_norms(struct block_pass *p)
{
	size_t width = norms_width(p);

	memset(p->dnorms, 0, width * sizeof(*p->dnorms));
	for (size_t piece = 0; piece < div_up(p->n, TILE); piece++)
		for (size_t i = 0; i < width; i++)
			p->dnorms[i] += p->norm_parts[piece * width + i];
}

void block_pass_backward(struct block_pass *p)
{
	pool_run(p->pool, tile_from_outputs, p, div_up(p->n, TILE));
	block_attention_backward(p);
	pool_run(p->pool, tile_from_heads, p, div_up(p->n, TILE));
	if (p->want_norms)
		sum_norms(p);
}

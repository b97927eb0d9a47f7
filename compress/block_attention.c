#include "compress/block_attention.h"

#include "compress/block_math.h"
#include "kernels/blas.h"

#include <math.h>

#define STRIP 64u /* queries at a time */

size_t block_attention_scratch(uint32_t longest)
{
	return 2 * (size_t)STRIP * longest;
}

/* Queries [first, first + n) of one head in one sequence and the keys that any of them sees. */
struct strip {
	const struct block_pass *p;
	size_t head, kv_head;
	size_t row; /* of the sequence's position 0 */
	uint32_t first, n;
	uint32_t first_key, n_keys;
	size_t q_width, kv_width;
	float *scores, *dscores; /* n x n_keys */
};

static uint32_t window_of(const struct block_pass *p)
{
	return p->layer >= p->config.first_window_layer ? p->config.sliding_window : 0;
}

/* The first key that position t sees. */
static uint32_t first_seen(const struct block_pass *p, uint32_t t)
{
	uint32_t window = window_of(p);

	return window && t + 1 > window ? t + 1 - window : 0;
}

static struct softmax_range range_of(const struct strip *s, uint32_t i)
{
	uint32_t t = s->first + i;

	return (struct softmax_range){
		.n = s->n_keys,
		.first = first_seen(s->p, t) - s->first_key,
		.end = t + 1 - s->first_key,
		.scale = 1 / sqrtf((float)s->p->config.head_dim),
	};
}

/* Where the strip's queries, or its keys, stand among the rows of a tensor of heads. */
static size_t at_queries(const struct strip *s)
{
	return (s->row + s->first) * s->q_width + s->head * s->p->config.head_dim;
}

static size_t at_keys(const struct strip *s)
{
	return (s->row + s->first_key) * s->kv_width + s->kv_head * s->p->config.head_dim;
}

/* ret = rows of queries times rows of keys, transposed: n x n_keys. */
static void multiply_heads(
	const struct strip *s, const float *queries, const float *keys, float *ret)
{
	struct blas_gemm gemm = {
		.m = s->n,
		.n = s->n_keys,
		.k = s->p->config.head_dim,
		.transpose_b = true,
		.alpha = 1,
		.a_stride = s->q_width,
		.b_stride = s->kv_width,
	};

	blas_gemm_f32(&gemm, queries + at_queries(s), keys + at_keys(s), ret);
}

/* queries = weights times keys */
static void gather(const struct strip *s, const float *weights, const float *keys, float *queries)
{
	struct blas_gemm gemm = {
		.m = s->n,
		.n = s->p->config.head_dim,
		.k = s->n_keys,
		.alpha = 1,
		.b_stride = s->kv_width,
		.c_stride = s->q_width,
	};

	blas_gemm_f32(&gemm, weights, keys + at_keys(s), queries + at_queries(s));
}

/* keys += weights transposed times queries */
static void scatter(const struct strip *s, const float *weights, const float *queries, float *keys)
{
	struct blas_gemm gemm = {
		.m = s->n_keys,
		.n = s->p->config.head_dim,
		.k = s->n,
		.transpose_a = true,
		.alpha = 1,
		.beta = 1,
		.b_stride = s->q_width,
		.c_stride = s->kv_width,
	};

	blas_gemm_f32(&gemm, weights, queries + at_queries(s), keys + at_keys(s));
}

static void attend(const struct strip *s)
{
	multiply_heads(s, s->p->q, s->p->k, s->scores);
	for (uint32_t i = 0; i < s->n; i++) {
		struct softmax_range range = range_of(s, i);

		softmax(&range, s->scores + (size_t)i * s->n_keys);
	}
}

static void strip_forward(const struct strip *s)
{
	attend(s);
	gather(s, s->scores, s->p->v, s->p->a);
}

static void strip_backward(const struct strip *s)
{
	const struct block_pass *p = s->p;

	attend(s);
	scatter(s, s->scores, p->da, p->dv);
	multiply_heads(s, p->da, p->v, s->dscores);
	for (uint32_t i = 0; i < s->n; i++) {
		struct softmax_range range = range_of(s, i);
		size_t at = (size_t)i * s->n_keys;

		softmax_back(&range, s->scores + at, s->dscores + at);
	}
	gather(s, s->dscores, p->k, p->dq);
	scatter(s, s->dscores, p->q, p->dk);
}

/* All strips of a sequence and a head of keys, in order. */
static void walk_strips(
	const struct block_pass *p, size_t piece, size_t worker, void (*of)(const struct strip *s))
{
	const struct model_config *c = &p->config;
	const struct block_span *span = &p->spans[piece / c->n_kv_heads];
	size_t group = c->n_heads / c->n_kv_heads, kv_head = piece % c->n_kv_heads;
	struct strip s = {
		.p = p,
		.kv_head = kv_head,
		.row = span->first,
		.q_width = (size_t)c->n_heads * c->head_dim,
		.kv_width = (size_t)c->n_kv_heads * c->head_dim,
		.scores = p->scores + worker * p->n_scores,
		.dscores = p->scores + worker * p->n_scores + p->n_scores / 2,
	};

	for (s.first = 0; s.first < span->n; s.first += STRIP) {
		s.n = (uint32_t)min_u64(STRIP, span->n - s.first);
		s.first_key = first_seen(p, s.first);
		s.n_keys = s.first + s.n - s.first_key;
		for (s.head = kv_head * group; s.head < (kv_head + 1) * group; s.head++)
			of(&s);
	}
}

static void piece_forward(void *arg, size_t piece, size_t worker)
{
	walk_strips(arg, piece, worker, strip_forward);
}

/* Strips add to the gradients of keys and values. */
static void clear_keys(const struct block_pass *p, size_t piece)
{
	const struct model_config *c = &p->config;
	const struct block_span *span = &p->spans[piece / c->n_kv_heads];
	size_t d = c->head_dim, width = c->n_kv_heads * d;

	for (size_t t = span->first; t < span->first + span->n; t++)
		for (size_t i = 0; i < d; i++) {
			size_t at = t * width + piece % c->n_kv_heads * d + i;

			p->dk[at] = p->dv[at] = 0;
		}
}

static void piece_backward(void *arg, size_t piece, size_t worker)
{
	clear_keys(arg, piece);
	walk_strips(arg, piece, worker, strip_backward);
}

void block_attention_forward(struct block_pass *p)
{
	pool_run(p->pool, piece_forward, p, p->n_spans * p->config.n_kv_heads);
}

void block_attention_backward(struct block_pass *p)
{
	pool_run(p->pool, piece_backward, p, p->n_spans * p->config.n_kv_heads);
}

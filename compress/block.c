#include "compress/block.h"

#include "compress/block_math.h"
#include "engine/model.h"
#include "engine/variant.h"
#include "kernels/blas.h"

#include <math.h>

struct block_shape {
	struct model_config config;
	uint32_t max_tokens;
	size_t q_width, kv_width;
	float *cosines, *sines; /* max_tokens x head_dim / 2 */
};

struct block_scratch {
	float *q, *k, *v; /* max_tokens rows of q_width, kv_width, kv_width */
	float *scores;    /* max_tokens x max_tokens */
	float *gate, *up; /* max_tokens x ffn */
};

struct block_shape *block_shape_free(struct block_shape *b)
{
	if (!b)
		return NULL;
	free(b->cosines);
	free(b->sines);
	free(b);
	return NULL;
}

/* The engine's own angles, so that the two cannot differ. */
static int set_rotations(struct block_shape *b, struct reason *reason)
{
	_cleanup_(modelp) struct model *model = NULL;
	struct base shape_only = {.config = b->config};
	struct kernels none = {0};
	size_t half = b->config.head_dim / 2;
	int r;

	r = model_new(&shape_only, &none, &model, reason);
	if (r < 0)
		return r;
	for (uint32_t t = 0; t < b->max_tokens; t++)
		model_rotation(model, t, b->cosines + t * half, b->sines + t * half);
	return 0;
}

int block_shape_new(const struct model_config *config, uint32_t max_tokens,
	struct block_shape **ret, struct reason *reason)
{
	_cleanup_(block_shape_freep) struct block_shape *b = calloc(1, sizeof(*b));
	size_t n_angles = (size_t)max_tokens * (config->head_dim / 2);
	int r;

	if (!b)
		return -ENOMEM;
	b->config = *config;
	b->max_tokens = max_tokens;
	b->q_width = (size_t)config->n_heads * config->head_dim;
	b->kv_width = (size_t)config->n_kv_heads * config->head_dim;
	b->cosines = malloc((n_angles + 1) * sizeof(float));
	b->sines = malloc((n_angles + 1) * sizeof(float));
	if (!b->cosines || !b->sines)
		return -ENOMEM;
	r = set_rotations(b, reason);
	if (r < 0)
		return r;
	*ret = take_ptr(b);
	return 0;
}

struct block_scratch *block_scratch_free(struct block_scratch *s)
{
	if (!s)
		return NULL;
	free(s->q);
	free(s->k);
	free(s->v);
	free(s->scores);
	free(s->gate);
	free(s->up);
	free(s);
	return NULL;
}

int block_scratch_new(const struct block_shape *b, struct block_scratch **ret)
{
	_cleanup_(block_scratch_freep) struct block_scratch *s = calloc(1, sizeof(*s));
	size_t n = b->max_tokens;

	if (!s)
		return -ENOMEM;
	s->q = malloc(n * b->q_width * sizeof(float));
	s->k = malloc(n * b->kv_width * sizeof(float));
	s->v = malloc(n * b->kv_width * sizeof(float));
	s->scores = malloc(n * n * sizeof(float));
	s->gate = malloc(n * b->config.ffn * sizeof(float));
	s->up = malloc(n * b->config.ffn * sizeof(float));
	if (!s->q || !s->k || !s->v || !s->scores || !s->gate || !s->up)
		return -ENOMEM;
	*ret = take_ptr(s);
	return 0;
}

struct block_angles block_angles(const struct block_shape *b, uint32_t position)
{
	size_t at = (size_t)position * (b->config.head_dim / 2);

	return (struct block_angles){b->cosines + at, b->sines + at};
}

size_t block_tap_width(const struct model_config *config)
{
	uint64_t width = max_u64(config->hidden, (uint64_t)config->n_heads * config->head_dim);

	return (size_t)max_u64(width, config->ffn);
}

/* y[t] = W x[t] + bias, or y[t] += ... ; W is outputs x inputs. */
struct product {
	size_t n, outputs, inputs;
	size_t x_stride, y_stride;
	bool add;
};

static void apply(
	const struct product *p, const float *w, const float *bias, const float *x, float *y)
{
	struct blas_gemm gemm = {
		.m = p->n,
		.n = p->outputs,
		.k = p->inputs,
		.transpose_b = true,
		.alpha = 1,
		.beta = p->add,
		.a_stride = p->x_stride,
		.c_stride = p->y_stride,
	};

	blas_gemm_f32(&gemm, x, w, y);
	if (!bias)
		return;
	for (size_t t = 0; t < p->n; t++)
		for (size_t o = 0; o < p->outputs; o++)
			y[t * p->y_stride + o] += bias[o];
}

void block_attention_input(
	const struct block_shape *b, const struct block_weights *w, const struct block_rows *rows)
{
	for (uint32_t t = 0; t < rows->n; t++)
		rms_norm(rows->tap + t * rows->tap_stride, rows->x + t * rows->x_stride,
			w->attn_norm, b->config.hidden, b->config.norm_eps);
}

void block_ffn_input(
	const struct block_shape *b, const struct block_weights *w, const struct block_rows *rows)
{
	for (uint32_t t = 0; t < rows->n; t++)
		rms_norm(rows->tap + t * rows->tap_stride, rows->x + t * rows->x_stride,
			w->ffn_norm, b->config.hidden, b->config.norm_eps);
}

/* Norm of each head where the model has one, then rotation by position. */
static void place_heads(
	const struct block_shape *b, const float *norm, uint32_t n, uint32_t n_heads, float *x)
{
	size_t d = b->config.head_dim;

	for (uint32_t t = 0; t < n; t++)
		for (uint32_t h = 0; h < n_heads; h++) {
			float *head = x + ((size_t)t * n_heads + h) * d;

			if (norm)
				rms_norm(head, head, norm, d, b->config.norm_eps);
			rotate(head, b->cosines + t * (d / 2), b->sines + t * (d / 2), d);
		}
}

/* Softmax over the positions that row t sees; zero elsewhere. */
static void weigh(float *scores, uint32_t n, uint32_t t, uint32_t window, float scale)
{
	struct softmax_range range = {
		.n = n,
		.first = window && t + 1 > window ? t + 1 - window : 0,
		.end = t + 1,
		.scale = scale,
	};

	softmax(&range, scores);
}

static void attend_head(const struct block_shape *b, struct block_scratch *s,
	const struct block_rows *rows, uint32_t head)
{
	const struct model_config *c = &b->config;
	size_t d = c->head_dim;
	size_t group = head / (c->n_heads / c->n_kv_heads);
	uint32_t window = rows->layer >= c->first_window_layer ? c->sliding_window : 0;
	struct blas_gemm score = {
		.m = rows->n,
		.n = rows->n,
		.k = d,
		.transpose_b = true,
		.alpha = 1,
		.a_stride = b->q_width,
		.b_stride = b->kv_width,
	};
	struct blas_gemm mix = {
		.m = rows->n,
		.n = d,
		.k = rows->n,
		.alpha = 1,
		.b_stride = b->kv_width,
		.c_stride = rows->tap_stride,
	};

	blas_gemm_f32(&score, s->q + head * d, s->k + group * d, s->scores);
	for (uint32_t t = 0; t < rows->n; t++)
		weigh(s->scores + (size_t)t * rows->n, rows->n, t, window, 1 / sqrtf((float)d));
	blas_gemm_f32(&mix, s->scores, s->v + group * d, rows->tap + head * d);
}

void block_attention(const struct block_shape *b, const struct block_weights *w,
	struct block_scratch *s, const struct block_rows *rows)
{
	const struct model_config *c = &b->config;
	struct product p = {.n = rows->n, .inputs = c->hidden, .x_stride = rows->tap_stride};

	p.outputs = p.y_stride = b->q_width;
	apply(&p, w->q, w->q_bias, rows->tap, s->q);
	p.outputs = p.y_stride = b->kv_width;
	apply(&p, w->k, w->k_bias, rows->tap, s->k);
	apply(&p, w->v, w->v_bias, rows->tap, s->v);
	place_heads(b, w->q_norm, rows->n, c->n_heads, s->q);
	place_heads(b, w->k_norm, rows->n, c->n_kv_heads, s->k);
	for (uint32_t head = 0; head < c->n_heads; head++)
		attend_head(b, s, rows, head);
}

void block_attention_output(
	const struct block_shape *b, const struct block_weights *w, const struct block_rows *rows)
{
	struct product p = {
		.n = rows->n,
		.outputs = b->config.hidden,
		.inputs = b->q_width,
		.x_stride = rows->tap_stride,
		.y_stride = rows->x_stride,
		.add = true,
	};

	apply(&p, w->o, w->o_bias, rows->tap, rows->x);
}

void block_ffn(const struct block_shape *b, const struct block_weights *w, struct block_scratch *s,
	const struct block_rows *rows)
{
	size_t ffn = b->config.ffn;
	struct product p = {
		.n = rows->n,
		.outputs = ffn,
		.inputs = b->config.hidden,
		.x_stride = rows->tap_stride,
		.y_stride = ffn,
	};

	apply(&p, w->gate, w->gate_bias, rows->tap, s->gate);
	apply(&p, w->up, w->up_bias, rows->tap, s->up);
	for (uint32_t t = 0; t < rows->n; t++)
		for (size_t i = 0; i < ffn; i++) {
			float gate = s->gate[t * ffn + i];

			rows->tap[t * rows->tap_stride + i] =
				gate / (1 + expf(-gate)) * s->up[t * ffn + i];
		}
}

void block_ffn_output(
	const struct block_shape *b, const struct block_weights *w, const struct block_rows *rows)
{
	struct product p = {
		.n = rows->n,
		.outputs = b->config.hidden,
		.inputs = b->config.ffn,
		.x_stride = rows->tap_stride,
		.y_stride = rows->x_stride,
		.add = true,
	};

	apply(&p, w->down, w->down_bias, rows->tap, rows->x);
}

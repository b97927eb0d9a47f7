/*
 * One step. Each line of store_layer() and finish_layer() is a parallel region or two; what is
 * cheap is done for a few rows at a time, so that a batch of one row passes it without waking
 * anybody.
 */
#include "engine/forward.h"
#include "engine/attention.h"
#include "engine/linear.h"
#include "engine/scratch.h"

#include <assert.h>
#include <string.h>

/* Rows of one piece of the cheap steps. */
#define ROWS_PER_PIECE 4

#define NO_LOGITS UINT32_MAX

struct forward {
	const struct model *model;
	const struct kernels *kernels;
	const struct model_config *config;
	struct pool *pool;
	size_t max_rows;
	uint64_t bytes; /* of all that follows */

	/* Per row. */
	float *residual;     /* hidden */
	float *normed;       /* hidden */
	float *branch;       /* hidden: what attention or the feed-forward part adds */
	float *q, *attended; /* n_heads * head_dim */
	float *k, *v;        /* n_kv_heads * head_dim */
	float *gate, *up;    /* ffn */
	float *z;            /* scratch of linear_apply */
	size_t z_stride;
	struct act_group *rounded; /* likewise, n_rounded */
	size_t n_rounded;
	void *panel;            /* scratch of linear_apply */
	float *cosines, *sines; /* head_dim / 2 */
	float *logits;          /* logits_stride; of the rows that want them, without gaps */
	size_t logits_stride;
	uint32_t *logits_at;         /* index into `logits` */
	struct batch_row *wanted;    /* the rows that want logits */
	struct linear_run *all_runs; /* of the batch */
	struct linear_run *wanted_runs;

	struct attention *attention;

	/* The step at hand; the caller's rows are borrowed for its length only. First all rows go
	 * through it, in the end those that want logits. */
	const struct batch_row *rows;
	const struct linear_run *runs;
	size_t n, n_runs;
	size_t n_all, n_wanted, n_wanted_runs;
	uint32_t layer;
};

static const struct variant_layer *layer_of(const struct forward *f, size_t row)
{
	return &f->rows[row].variant->layers[f->layer];
}

static void run_rows(struct forward *f, pool_fn *fn)
{
	pool_run(f->pool, fn, f, div_up(f->n, ROWS_PER_PIECE));
}

#define for_rows_of_piece(f, row, piece)                                                           \
	for (size_t row = (piece)*ROWS_PER_PIECE;                                                  \
		row < min_u64((f)->n, ((piece) + 1) * ROWS_PER_PIECE); row++)

static void norm_row(struct forward *f, size_t row, const float *weight)
{
	size_t hidden = f->config->hidden;

	f->kernels->rms_norm(f->normed + row * hidden, f->residual + row * hidden, weight, hidden,
		f->config->norm_eps);
}

/* residual += branch (+ bias) */
static void add_branch(struct forward *f, size_t row, const float *bias)
{
	size_t hidden = f->config->hidden;
	float *residual = f->residual + row * hidden;

	f->kernels->add(residual, f->branch + row * hidden, hidden);
	if (bias)
		f->kernels->add(residual, bias, hidden);
}

static void embed_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;
	size_t hidden = f->config->hidden, pairs = f->config->head_dim / 2;

	(void)worker;
	for_rows_of_piece(f, row, piece)
	{
		variant_embed(f->rows[row].variant, f->rows[row].token, f->residual + row * hidden);
		model_rotation(f->model, f->rows[row].position, f->cosines + row * pairs,
			f->sines + row * pairs);
	}
}

static void attention_norm_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;

	(void)worker;
	for_rows_of_piece(f, row, piece) norm_row(f, row, layer_of(f, row)->vectors.attn_norm);
}

/* Bias, norm and rotation of n_heads heads of queries or keys, in place. */
static void finish_heads(struct forward *f, size_t row, float *heads, uint32_t n_heads,
	const float *bias, const float *norm)
{
	size_t head_dim = f->config->head_dim, pairs = head_dim / 2;

	if (bias)
		f->kernels->add(heads, bias, n_heads * head_dim);
	for (uint32_t h = 0; h < n_heads; h++) {
		float *head = heads + h * head_dim;

		if (norm)
			f->kernels->rms_norm(head, head, norm, head_dim, f->config->norm_eps);
		f->kernels->rope(head, f->cosines + row * pairs, f->sines + row * pairs, head_dim);
	}
}

static void store_kv(struct forward *f, size_t row, const float *k, const float *v)
{
	const struct batch_row *r = &f->rows[row];
	size_t head_dim = f->config->head_dim;
	enum kv_type type = kv_seq_type(r->seq);

	for (uint32_t h = 0; h < f->config->n_kv_heads; h++) {
		f->kernels->kv_store(kv_seq_key(r->seq, f->layer, h, r->position), k + h * head_dim,
			head_dim, type);
		f->kernels->kv_store(kv_seq_value(r->seq, f->layer, h, r->position),
			v + h * head_dim, head_dim, type);
	}
}

static void rotate_and_store_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;
	const struct model_config *c = f->config;
	size_t n_q = (size_t)c->n_heads * c->head_dim, n_kv = (size_t)c->n_kv_heads * c->head_dim;

	(void)worker;
	for_rows_of_piece(f, row, piece)
	{
		const struct variant_layer *l = layer_of(f, row);
		float *k = f->k + row * n_kv, *v = f->v + row * n_kv;

		finish_heads(
			f, row, f->q + row * n_q, c->n_heads, l->vectors.q_bias, l->vectors.q_norm);
		finish_heads(f, row, k, c->n_kv_heads, l->vectors.k_bias, l->vectors.k_norm);
		if (l->vectors.v_bias)
			f->kernels->add(v, l->vectors.v_bias, n_kv);
		store_kv(f, row, k, v);
	}
}

static void add_attention_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;

	(void)worker;
	for_rows_of_piece(f, row, piece)
	{
		add_branch(f, row, layer_of(f, row)->vectors.o_bias);
		norm_row(f, row, layer_of(f, row)->vectors.ffn_norm);
	}
}

static void gate_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;
	size_t ffn = f->config->ffn;

	(void)worker;
	for_rows_of_piece(f, row, piece)
	{
		const struct variant_layer *l = layer_of(f, row);
		float *gate = f->gate + row * ffn, *up = f->up + row * ffn;

		if (l->vectors.gate_bias)
			f->kernels->add(gate, l->vectors.gate_bias, ffn);
		if (l->vectors.up_bias)
			f->kernels->add(up, l->vectors.up_bias, ffn);
		f->kernels->silu_mul(gate, gate, up, ffn);
	}
}

static void add_ffn_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;

	(void)worker;
	for_rows_of_piece(f, row, piece) add_branch(f, row, layer_of(f, row)->vectors.down_bias);
}

static struct linear_call linear_call_of(struct forward *f, const float *x, size_t x_stride)
{
	return (struct linear_call){
		.kernels = f->kernels,
		.pool = f->pool,
		.x = x,
		.x_stride = x_stride,
		.n_rows = f->n,
		.runs = f->runs,
		.n_runs = f->n_runs,
		.layer = f->layer,
		.z = f->z,
		.z_stride = f->z_stride,
		.rounded = f->rounded,
		.panel = f->panel,
	};
}

static void add_part(struct linear_call *call, const struct base_matrix *base,
	enum projection projection, float *y)
{
	call->parts[call->n_parts++] = (struct linear_part){
		.base = base,
		.y = y,
		.y_stride = base->rows,
		.projection = projection,
	};
}

static void project_qkv(struct forward *f, const struct base_layer *l)
{
	struct linear_call call = linear_call_of(f, f->normed, f->config->hidden);

	add_part(&call, &l->q, PROJECTION_Q, f->q);
	add_part(&call, &l->k, PROJECTION_K, f->k);
	add_part(&call, &l->v, PROJECTION_V, f->v);
	linear_apply(&call);
}

static void project_o(struct forward *f, const struct base_layer *l)
{
	struct linear_call call = linear_call_of(f, f->attended, l->o.cols);

	add_part(&call, &l->o, PROJECTION_O, f->branch);
	linear_apply(&call);
}

static void project_gate_up(struct forward *f, const struct base_layer *l)
{
	struct linear_call call = linear_call_of(f, f->normed, f->config->hidden);

	add_part(&call, &l->gate, PROJECTION_GATE, f->gate);
	add_part(&call, &l->up, PROJECTION_UP, f->up);
	linear_apply(&call);
}

static void project_down(struct forward *f, const struct base_layer *l)
{
	struct linear_call call = linear_call_of(f, f->gate, f->config->ffn);

	add_part(&call, &l->down, PROJECTION_DOWN, f->branch);
	linear_apply(&call);
}

static void final_norm_rows(void *arg, size_t piece, size_t worker)
{
	struct forward *f = arg;

	(void)worker;
	for_rows_of_piece(f, row, piece) norm_row(f, row, f->rows[row].variant->final_norm);
}

static void project_head(struct forward *f)
{
	struct linear_call call = linear_call_of(f, f->normed, f->config->hidden);

	add_part(&call, &f->model->base->head, PROJECTION_HEAD, f->logits);
	call.parts[0].y_stride = f->logits_stride;
	linear_apply(&call);
}

static void extend_runs(
	struct linear_run *runs, size_t *n_runs, const struct variant *variant, size_t row)
{
	if (*n_runs == 0 || runs[*n_runs - 1].variant != variant)
		runs[(*n_runs)++] = (struct linear_run){.variant = variant, .first = row};
	runs[*n_runs - 1].n++;
}

static void begin_step(struct forward *f, const struct batch_row *rows, size_t n)
{
	assert(n <= f->max_rows);
	f->rows = rows;
	f->runs = f->all_runs;
	f->n = f->n_all = n;
	attention_begin(f->attention, rows, n);
	f->n_runs = 0;
	f->n_wanted = 0;
	f->n_wanted_runs = 0;
	for (size_t i = 0; i < n; i++) {
		assert(rows[i].token < rows[i].variant->config.vocab);
		assert(rows[i].position < kv_seq_capacity(rows[i].seq));
		extend_runs(f->all_runs, &f->n_runs, rows[i].variant, i);
		f->logits_at[i] = NO_LOGITS;
		if (!rows[i].want_logits)
			continue;
		extend_runs(f->wanted_runs, &f->n_wanted_runs, rows[i].variant, f->n_wanted);
		f->logits_at[i] = (uint32_t)f->n_wanted;
		f->wanted[f->n_wanted++] = rows[i];
	}
}

/* When the keys and values of the last layer are stored, nobody asks for the other rows any more.
 */
static void keep_wanted(struct forward *f)
{
	size_t hidden = f->config->hidden, n_q = (size_t)f->config->n_heads * f->config->head_dim;

	for (size_t i = 0; i < f->n_all; i++) {
		size_t at = f->logits_at[i];

		if (at == NO_LOGITS || at == i)
			continue;
		memcpy(f->residual + at * hidden, f->residual + i * hidden, hidden * sizeof(float));
		memcpy(f->q + at * n_q, f->q + i * n_q, n_q * sizeof(float));
	}
	f->rows = f->wanted;
	f->n = f->n_wanted;
	f->runs = f->wanted_runs;
	f->n_runs = f->n_wanted_runs;
	attention_begin(f->attention, f->rows, f->n);
}

static void store_layer(struct forward *f, const struct base_layer *l)
{
	run_rows(f, attention_norm_rows);
	project_qkv(f, l);
	run_rows(f, rotate_and_store_rows);
}

static void finish_layer(struct forward *f, const struct base_layer *l)
{
	attention_run(f->attention, f->layer, f->q, f->attended);
	project_o(f, l);
	run_rows(f, add_attention_rows);
	project_gate_up(f, l);
	run_rows(f, gate_rows);
	project_down(f, l);
	run_rows(f, add_ffn_rows);
}

void forward_step(struct forward *f, const struct batch_row *rows, size_t n)
{
	const struct base_layer *layers = f->model->base->layers;
	uint32_t last = f->config->n_layers - 1;

	begin_step(f, rows, n);
	run_rows(f, embed_rows);
	for (f->layer = 0; f->layer < last; f->layer++) {
		store_layer(f, &layers[f->layer]);
		finish_layer(f, &layers[f->layer]);
	}
	store_layer(f, &layers[last]);
	keep_wanted(f);
	if (f->n == 0)
		return;
	finish_layer(f, &layers[last]);
	run_rows(f, final_norm_rows);
	project_head(f);
}

const float *forward_logits(const struct forward *f, size_t i)
{
	assert(i < f->n_all && f->logits_at[i] != NO_LOGITS);
	return f->logits + f->logits_at[i] * f->logits_stride;
}

uint64_t forward_bytes(const struct forward *f)
{
	return f->bytes;
}

static void *scratch(struct forward *f, size_t count, size_t n, size_t size)
{
	return scratch_new(&f->bytes, count, n, size);
}

static size_t largest_scratch(const struct base *base)
{
	const struct base_layer *l = &base->layers[0];
	const struct base_matrix *const qkv[] = {&l->q, &l->k, &l->v}, *const o[] = {&l->o},
					*const gate_up[] = {&l->gate, &l->up},
					*const down[] = {&l->down}, *const head[] = {&base->head};
	size_t most = linear_scratch(qkv, 3);

	most = max_u64(most, linear_scratch(o, 1));
	most = max_u64(most, linear_scratch(gate_up, 2));
	most = max_u64(most, linear_scratch(down, 1));
	return max_u64(most, linear_scratch(head, 1));
}

/* Any layer may have integers, and any of its matrices. */
static size_t largest_rounded(const struct base *base)
{
	const struct base_matrix *head = &base->head;
	size_t most = linear_rounded(&head, 1);

	for (uint32_t i = 0; i < base->config.n_layers; i++) {
		const struct base_layer *l = &base->layers[i];
		const struct base_matrix *const all[] = {
			&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};

		for (size_t m = 0; m < array_len(all); m++)
			most = max_u64(most, linear_rounded(&all[m], 1));
	}
	return most;
}

static bool allocate_rows(struct forward *f)
{
	const struct model_config *c = f->config;
	size_t n = f->max_rows, n_q = (size_t)c->n_heads * c->head_dim;
	size_t n_kv = (size_t)c->n_kv_heads * c->head_dim, real = sizeof(float);
	uint32_t widest = (uint32_t)max_u64(max_u64(c->hidden, c->ffn), n_q);

	f->residual = scratch(f, n, c->hidden, real);
	f->normed = scratch(f, n, c->hidden, real);
	f->branch = scratch(f, n, c->hidden, real);
	f->q = scratch(f, n, n_q, real);
	f->attended = scratch(f, n, n_q, real);
	f->k = scratch(f, n, n_kv, real);
	f->v = scratch(f, n, n_kv, real);
	f->gate = scratch(f, n, c->ffn, real);
	f->up = scratch(f, n, c->ffn, real);
	f->z = scratch(f, n, f->z_stride, real);
	f->rounded = scratch(f, n, f->n_rounded, sizeof(*f->rounded));
	f->panel = scratch(f, linear_panel_bytes(f->kernels, n, widest), 1, 1);
	f->cosines = scratch(f, n, c->head_dim / 2, real);
	f->sines = scratch(f, n, c->head_dim / 2, real);
	f->logits = scratch(f, n, f->logits_stride, real);
	f->logits_at = scratch(f, n, 1, sizeof(*f->logits_at));
	f->wanted = scratch(f, n, 1, sizeof(*f->wanted));
	f->all_runs = scratch(f, n, 1, sizeof(*f->all_runs));
	f->wanted_runs = scratch(f, n, 1, sizeof(*f->wanted_runs));
	return f->residual && f->normed && f->branch && f->q && f->attended && f->k && f->v &&
	       f->gate && f->up && f->z && f->rounded && f->panel && f->cosines && f->sines &&
	       f->logits && f->logits_at && f->wanted && f->all_runs && f->wanted_runs;
}

static inline void forwardp(struct forward **f)
{
	forward_free(*f);
}

int forward_new(const struct model *model, struct pool *pool, uint32_t max_rows,
	struct forward **ret, struct reason *reason)
{
	_cleanup_(forwardp) struct forward *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return reason_set(reason, -ENOMEM, "no memory for a step");
	f->model = model;
	f->kernels = model->kernels;
	f->config = model_config(model);
	f->pool = pool;
	f->max_rows = max_rows;
	f->z_stride = largest_scratch(model->base);
	f->n_rounded = largest_rounded(model->base);
	f->logits_stride = model_logits_stride(model);
	if (!allocate_rows(f))
		return reason_set(reason, -ENOMEM, "no memory for a step of %u rows", max_rows);
	r = attention_new(model, pool, max_rows, &f->attention);
	if (r < 0)
		return reason_set(reason, r, "no memory for the attention of %u rows", max_rows);
	f->bytes += attention_bytes(f->attention);
	*ret = take_ptr(f);
	return 0;
}

struct forward *forward_free(struct forward *f)
{
	if (!f)
		return NULL;
	free(f->residual);
	free(f->normed);
	free(f->branch);
	free(f->q);
	free(f->attended);
	free(f->k);
	free(f->v);
	free(f->gate);
	free(f->up);
	free(f->z);
	free(f->rounded);
	free(f->panel);
	free(f->cosines);
	free(f->sines);
	free(f->logits);
	free(f->logits_at);
	free(f->wanted);
	free(f->all_runs);
	free(f->wanted_runs);
	attention_free(f->attention);
	free(f);
	return NULL;
}

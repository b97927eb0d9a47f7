#include "compress/delta_come.h"

#include "compress/block.h"
#include "compress/exact.h"
#include "compress/moments.h"
#include "compress/projection.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <string.h>

enum {
	AT_Q,
	AT_K,
	AT_V,
	AT_O,
	AT_GATE,
	AT_UP,
	AT_DOWN,
	N_PROJECTIONS_OF_BLOCK,
};

static const enum tensor_role projection_roles[N_PROJECTIONS_OF_BLOCK] = {
	ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_GATE, ROLE_UP, ROLE_DOWN};

static const enum tensor_role vector_roles[] = {ROLE_ATTN_NORM, ROLE_Q_BIAS, ROLE_K_BIAS,
	ROLE_V_BIAS, ROLE_Q_NORM, ROLE_K_NORM, ROLE_O_BIAS, ROLE_FFN_NORM, ROLE_GATE_BIAS,
	ROLE_UP_BIAS, ROLE_DOWN_BIAS};

#define N_VECTORS array_len(vector_roles)

/* One block of both models in memory. */
struct loaded_block {
	uint32_t layer;
	struct projection projections[N_PROJECTIONS_OF_BLOCK];
	float *vectors[N_VECTORS]; /* of the fine-tune; NULL where there is none */
};

struct run {
	const struct delta_come_settings *settings;
	const struct model_config *config;
	struct block_shape *shape;
	struct block_scratch **scratch; /* one a worker */
	size_t n_scratch;
	float *x;         /* all tokens x hidden */
	float *tap;       /* all tokens x tap_width */
	size_t tap_width; /* of the widest inputs */
	double *hessian;  /* tap_width squared */
	struct loaded_block block;
	struct delta_file *file;
	struct delta_come_report report;
};

static void loaded_block_done(struct loaded_block *b)
{
	for (size_t i = 0; i < N_PROJECTIONS_OF_BLOCK; i++)
		projection_done(&b->projections[i]);
	for (size_t i = 0; i < N_VECTORS; i++)
		free(b->vectors[i]);
	*b = (struct loaded_block){0};
}

static void run_done(struct run *r)
{
	for (size_t i = 0; r->scratch && i < r->n_scratch; i++)
		block_scratch_free(r->scratch[i]);
	free(r->scratch);
	block_shape_free(r->shape);
	free(r->x);
	free(r->tap);
	free(r->hessian);
	loaded_block_done(&r->block);
}

static int run_scratch(struct run *run)
{
	int r = 0;

	run->n_scratch = pool_threads(run->settings->pool);
	run->scratch = calloc(run->n_scratch, sizeof(*run->scratch));
	if (!run->scratch)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < run->n_scratch; i++)
		r = block_scratch_new(run->shape, &run->scratch[i]);
	return r;
}

static size_t n_tokens(const struct run *run)
{
	const struct calibration *c = run->settings->calibration;

	return (size_t)c->n_windows * c->window;
}

static int run_init(struct run *run, struct reason *reason)
{
	const struct delta_come_settings *s = run->settings;
	size_t hidden = run->config->hidden;
	int r;

	run->tap_width = block_tap_width(run->config);
	run->x = malloc(n_tokens(run) * hidden * sizeof(*run->x));
	run->tap = malloc(n_tokens(run) * run->tap_width * sizeof(*run->tap));
	run->hessian = malloc(run->tap_width * run->tap_width * sizeof(*run->hessian));
	if (!run->x || !run->tap || !run->hessian)
		return -ENOMEM;
	r = block_shape_new(run->config, s->calibration->window, &run->shape, reason);
	if (r == 0)
		r = run_scratch(run);
	if (r < 0)
		return r;
	for (size_t t = 0; t < n_tokens(run); t++)
		for (size_t i = 0; i < hidden; i++)
			run->x[t * hidden + i] = bf16_to_f32(
				s->embedding[(size_t)s->calibration->ids[t] * hidden + i]);
	return 0;
}

static int load_projection(struct run *run, size_t at, struct reason *reason)
{
	struct projection *p = &run->block.projections[at];
	struct pair_matrix m;
	int r;

	r = pair_read_matrix(
		run->settings->pair, projection_roles[at], run->block.layer, &m, reason);
	if (r < 0)
		return r;
	*p = (struct projection){
		.role = projection_roles[at],
		.rows = m.rows,
		.cols = m.cols,
		.weights = m.base,
		.delta = m.delta,
	};
	if (p->delta)
		run->report.original_bytes += (uint64_t)m.rows * m.cols * sizeof(uint16_t);
	else
		run->report.n_unchanged++;
	return 0;
}

static int load_vector(struct run *run, size_t at, struct reason *reason)
{
	enum tensor_role role = vector_roles[at];
	uint32_t layer = run->block.layer, rows, cols;
	bool changed;
	int r;

	r = pair_read_vector(
		run->settings->pair, role, layer, &run->block.vectors[at], &changed, reason);
	if (r < 0 || !changed)
		return r;
	if (!model_config_shape(run->config, role, layer, &rows, &cols))
		return -EINVAL;
	return exact_vector(run->file, role, layer, run->block.vectors[at], rows);
}

static int load_block(struct run *run, uint32_t layer, struct reason *reason)
{
	int r = 0;

	run->block.layer = layer;
	for (size_t i = 0; r == 0 && i < N_PROJECTIONS_OF_BLOCK; i++)
		r = load_projection(run, i, reason);
	for (size_t i = 0; r == 0 && i < N_VECTORS; i++)
		r = load_vector(run, i, reason);
	return r;
}

static struct block_weights weights_of(const struct loaded_block *b)
{
	struct block_weights w = {
		.q = b->projections[AT_Q].weights,
		.k = b->projections[AT_K].weights,
		.v = b->projections[AT_V].weights,
		.o = b->projections[AT_O].weights,
		.gate = b->projections[AT_GATE].weights,
		.up = b->projections[AT_UP].weights,
		.down = b->projections[AT_DOWN].weights,
	};
	const float **const vectors[N_VECTORS] = {&w.attn_norm, &w.q_bias, &w.k_bias, &w.v_bias,
		&w.q_norm, &w.k_norm, &w.o_bias, &w.ffn_norm, &w.gate_bias, &w.up_bias,
		&w.down_bias};

	for (size_t i = 0; i < N_VECTORS; i++)
		*vectors[i] = b->vectors[i];
	return w;
}

struct decomposition {
	struct run *run;
	int errors[N_PROJECTIONS_OF_BLOCK];
	struct reason reasons[N_PROJECTIONS_OF_BLOCK];
};

static void decompose_one(void *arg, size_t piece, size_t worker)
{
	struct decomposition *d = arg;

	(void)worker;
	d->errors[piece] = projection_decompose(
		&d->run->block.projections[piece], d->run->settings->ratio, &d->reasons[piece]);
}

static int decompose(struct run *run, struct reason *reason)
{
	struct decomposition d = {.run = run};

	pool_run(run->settings->pool, decompose_one, &d, N_PROJECTIONS_OF_BLOCK);
	for (size_t i = 0; i < N_PROJECTIONS_OF_BLOCK; i++)
		if (d.errors[i] < 0)
			return reason_set(reason, d.errors[i], "layer %u %s: %s", run->block.layer,
				tensor_role_name(projection_roles[i]), d.reasons[i].text);
	return 0;
}

/* A step of the block over all windows. */
struct step {
	struct run *run;
	const struct block_weights *weights;
	void (*of)(const struct step *s, const struct block_rows *rows, size_t worker);
};

static void step_window(void *arg, size_t piece, size_t worker)
{
	const struct step *s = arg;
	struct run *run = s->run;
	size_t first = piece * run->settings->calibration->window;
	struct block_rows rows = {
		.n = run->settings->calibration->window,
		.layer = run->block.layer,
		.x = run->x + first * run->config->hidden,
		.x_stride = run->config->hidden,
		.tap = run->tap + first * run->tap_width,
		.tap_stride = run->tap_width,
	};

	s->of(s, &rows, worker);
}

static void to_qkv(const struct step *s, const struct block_rows *rows, size_t worker)
{
	(void)worker;
	block_attention_input(s->run->shape, s->weights, rows);
}

static void to_o(const struct step *s, const struct block_rows *rows, size_t worker)
{
	block_attention(s->run->shape, s->weights, s->run->scratch[worker], rows);
}

static void to_gate_up(const struct step *s, const struct block_rows *rows, size_t worker)
{
	(void)worker;
	block_attention_output(s->run->shape, s->weights, rows);
	block_ffn_input(s->run->shape, s->weights, rows);
}

static void to_down(const struct step *s, const struct block_rows *rows, size_t worker)
{
	block_ffn(s->run->shape, s->weights, s->run->scratch[worker], rows);
}

static void to_next_block(const struct step *s, const struct block_rows *rows, size_t worker)
{
	(void)worker;
	block_ffn_output(s->run->shape, s->weights, rows);
}

static void advance(struct run *run,
	void (*of)(const struct step *s, const struct block_rows *rows, size_t worker))
{
	struct block_weights weights = weights_of(&run->block);
	struct step step = {.run = run, .weights = &weights, .of = of};

	pool_run(run->settings->pool, step_window, &step, run->settings->calibration->n_windows);
}

/* Projections [first, last) of the block, whose inputs stand in the tap. */
static int quantise_group(struct run *run, size_t first, size_t last, struct reason *reason)
{
	struct projection *members[N_PROJECTIONS_OF_BLOCK];
	struct pool *pool = run->settings->pool;
	size_t n = 0;
	int r;

	for (size_t i = first; i < last; i++)
		if (run->block.projections[i].plan.n_bands > 0)
			members[n++] = &run->block.projections[i];
	if (n == 0)
		return 0;
	r = moments_of(
		pool, run->tap, run->tap_width, n_tokens(run), members[0]->cols, run->hessian);
	if (r == 0)
		r = projections_quantise(pool, members, n, run->hessian, reason);
	if (r < 0)
		return reason_prefix(reason, r, "layer %u %s", run->block.layer,
			tensor_role_name(members[0]->role));
	return 0;
}

static int quantise_block(struct run *run, struct reason *reason)
{
	int r;

	advance(run, to_qkv);
	r = quantise_group(run, AT_Q, AT_O, reason);
	if (r < 0)
		return r;
	advance(run, to_o);
	r = quantise_group(run, AT_O, AT_GATE, reason);
	if (r < 0)
		return r;
	advance(run, to_gate_up);
	r = quantise_group(run, AT_GATE, AT_DOWN, reason);
	if (r < 0)
		return r;
	advance(run, to_down);
	r = quantise_group(run, AT_DOWN, N_PROJECTIONS_OF_BLOCK, reason);
	if (r < 0)
		return r;
	advance(run, to_next_block);
	return 0;
}

static int store_projection(struct run *run, const struct projection *p)
{
	struct tensor_record record = {
		.role = p->role,
		.layer = run->block.layer,
		.codec = CODEC_MIXED_SVD,
		.n_parts = p->plan.n_bands,
		.rows = p->rows,
		.cols = p->cols,
	};
	uint8_t *payload;
	int r;

	r = projection_payload(p, &payload);
	if (r < 0)
		return r;
	run->report.n_stored++;
	run->report.sum_weight_error += (double)p->quality.weight_error;
	run->report.sum_activation_error += (double)p->quality.activation_error;
	return delta_file_add(run->file, &record, &p->quality, payload, p->plan.bytes);
}

static int store_block(struct run *run)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_PROJECTIONS_OF_BLOCK; i++) {
		const struct projection *p = &run->block.projections[i];

		if (p->plan.n_bands > 0)
			r = store_projection(run, p);
		else if (p->delta)
			run->report.n_too_small++;
	}
	return r;
}

static int compress_block(struct run *run, uint32_t layer, struct reason *reason)
{
	int r;

	r = load_block(run, layer, reason);
	if (r == 0)
		r = decompose(run, reason);
	if (r == 0)
		r = quantise_block(run, reason);
	if (r == 0)
		r = store_block(run);
	loaded_block_done(&run->block);
	return r;
}

int delta_come_run(const struct delta_come_settings *settings, struct delta_file *f,
	struct delta_come_report *ret, struct reason *reason)
{
	_cleanup_(run_done) struct run run = {
		.settings = settings, .config = &settings->pair->base_config, .file = f};
	int r;

	r = run_init(&run, reason);
	if (r < 0)
		return r;
	for (uint32_t layer = 0; layer < run.config->n_layers; layer++) {
		progress_update(settings->progress, "compressing", layer, run.config->n_layers);
		r = compress_block(&run, layer, reason);
		if (r < 0)
			return r;
	}
	progress_update(
		settings->progress, "compressing", run.config->n_layers, run.config->n_layers);
	*ret = run.report;
	return 0;
}

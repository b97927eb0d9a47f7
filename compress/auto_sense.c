#include "compress/auto_run.h"

#include "compress/fisher.h"
#include "compress/layer.h"
#include "kernels/convert.h"

#include <string.h>

/*
 * Of the factors, where there are tasks. These are few, and of one kind: at 16x half of general
 * text took KL on tasks that nobody had seen from .00065 to .00048 for word problems, and from
 * .0029 to .0020 for calls of tools, where general text alone gives .0013 and .0018.
 */
#define GENERAL_SHARE .5

static int add_metric(struct auto_run *a, const float *moments, uint32_t n, double damping,
	const struct metric **ret, struct reason *reason)
{
	struct metric *m;
	int r = metric_new(moments, n, damping, &m, reason);

	if (r < 0)
		return r;
	a->metrics[a->n_metrics++] = m;
	*ret = m;
	return 0;
}

/* Metrics of inputs, for direct codes and for components. */
struct input_metrics {
	const struct metric *codes, *factors;
};

static int add_trial(struct auto_run *a, const struct fisher_block *block, size_t projection,
	const struct input_metrics *inputs, struct reason *reason)
{
	enum tensor_role role = dense_projections[projection];
	struct trial_settings s = {
		.place = {.role = role, .layer = block->layer},
		.codes = {.h = inputs->codes},
		.factors = {.h = inputs->factors},
	};
	struct pair_matrix m;
	int r = pair_read_matrix(a->model->pair, role, block->layer, &m, reason);

	if (r < 0)
		return r;
	memcpy(a->base->layers[block->layer].at[role], m.base,
		(size_t)m.rows * m.cols * sizeof(float));
	free(m.base);
	if (!m.delta)
		return 0;
	a->deltas[a->n_trials] = m.delta;
	s.delta = m.delta;
	s.place.rows = m.rows;
	s.place.cols = m.cols;
	a->n_weights += (double)m.rows * m.cols;
	r = add_metric(a, block->g[projection], m.rows, 1, &s.codes.g, reason);
	if (r == 0)
		r = add_metric(a, block->g[projection], m.rows, .3, &s.factors.g, reason);
	if (r == 0)
		r = trial_new(&s, &a->trials[a->n_trials]);
	if (r < 0) {
		free(m.delta);
		return r;
	}
	a->tensors[a->n_trials] =
		(struct allocate_tensor){.encode = trial_encode, .self = a->trials[a->n_trials]};
	a->n_trials++;
	return 0;
}

static int take_block(void *user, struct fisher_block *block, struct reason *reason)
{
	struct auto_run *a = user;
	struct input_metrics inputs[N_FISHER_INPUTS];
	int r = 0;

	if (a->general)
		fisher_blend(block, &a->general[block->layer], &a->tuned->config, GENERAL_SHARE);
	for (size_t i = 0; r == 0 && i < N_FISHER_INPUTS; i++) {
		uint32_t n = fisher_input_width(&a->tuned->config, (enum fisher_input)i);

		r = add_metric(a, block->h[i], n, .3, &inputs[i].codes, reason);
		if (r == 0)
			r = add_metric(a, block->h[i], n, .1, &inputs[i].factors, reason);
	}
	for (size_t p = 0; r == 0 && p < DENSE_N_PROJECTIONS; p++)
		r = add_trial(a, block, p, &inputs[fisher_input_of(p)], reason);
	return r;
}

static int read_models(struct auto_run *a, struct reason *reason)
{
	const struct pair *pair = a->model->pair;
	int r;

	r = dense_model_read(pair->tuned, &a->tuned, reason);
	if (r == 0)
		r = dense_model_read(pair->tuned, &a->weights, reason);
	if (r == 0)
		r = dense_model_new(&pair->base_config, &a->base);
	if (r == 0)
		r = dense_model_fill(a->base, DENSE_PROJECTIONS);
	return r;
}

/* As a reader will have it, so that training makes up for its error too. */
static void take_embedding(struct auto_run *a)
{
	float *embedding = dense_embedding(a->weights);
	size_t n = dense_count(a->weights, ROLE_EMBED, 0);

	for (size_t i = 0; i < n; i++)
		embedding[i] = bf16_to_f32(a->model->embedding[i]);
}

static int make_room(struct auto_run *a)
{
	size_t n_layers = a->model->pair->base_config.n_layers;
	size_t n = n_layers * DENSE_N_PROJECTIONS + 1;

	a->metrics = calloc(n_layers * 2 * N_FISHER_INPUTS + 2 * n, sizeof(struct metric *));
	a->trials = calloc(n, sizeof(struct trial *));
	a->tensors = calloc(n, sizeof(*a->tensors));
	a->deltas = calloc(n, sizeof(float *));
	return a->metrics && a->trials && a->tensors && a->deltas ? 0 : -ENOMEM;
}

static void forget_general(struct auto_run *a)
{
	for (uint32_t i = 0; a->general && i < a->tuned->config.n_layers; i++)
		fisher_block_done(&a->general[i]);
	free(a->general);
	a->general = NULL;
}

static int sense_general(
	struct auto_run *a, const struct fisher_settings *settings, struct reason *reason)
{
	struct fisher_settings general = *settings;
	struct fisher_block *blocks;
	int r;

	if (a->text.general.n == 0)
		return 0;
	blocks = calloc(a->tuned->config.n_layers, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	general.sequences = &a->text.general;
	r = fisher_all(&general, blocks, reason);
	if (r < 0)
		free(blocks);
	else
		a->general = blocks;
	return r;
}

int auto_sense(struct auto_run *a, struct reason *reason)
{
	_cleanup_(sequences_done) struct sequences sample = {0};
	struct fisher_settings settings = {
		.pool = a->model->pool,
		.sequences = &sample,
		.seed = 1,
		.progress = a->model->progress,
	};
	struct exam_settings exam = {.pool = a->model->pool, .sequences = &a->text.kept_back};
	int r = auto_text_sample(&a->text, &sample);

	if (r == 0)
		r = read_models(a, reason);
	if (r == 0)
		r = make_room(a);
	if (r < 0)
		return r;
	take_embedding(a);
	exam.teacher = a->tuned;
	r = exam_new(&exam, &a->exam, reason);
	if (r < 0)
		return r;
	settings.model = a->tuned;
	r = sense_general(a, &settings, reason);
	if (r == 0)
		r = fisher_run(&settings, take_block, a, reason);
	forget_general(a);
	return r;
}

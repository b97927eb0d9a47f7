/*
 * Method "auto": the smallest delta that keeps what the fine-tune does.
 *
 *   text        words of the fine-tune's own task (compress/auto_text.h)
 *   Fisher      what an error of each matrix costs in KL on them (compress/fisher.h)
 *   coding      direct codes with feedback along both axes (compress/ldlq.h) or components of a
 *               whitened SVD (compress/whitened.h), one lambda for all (compress/allocate.h)
 *   training    of the numbers behind the codes, scales and norms (compress/tune.h)
 *   size        real bytes; what training added is taken back from the smallest codes
 *
 * At half a bit and less components win on every fine-tune that was tried, from 1.6 bits on direct
 * codes; between, text that was kept back decides, with a lead for what training improves more.
 *
 * Both models and all gradients are in memory as f32. Every step but the training goes matrix by
 * matrix: larger models need another loop around the same pieces, blocks in turn.
 */
#include "compress/auto_text.h"
#include "compress/fisher.h"
#include "compress/layer.h"
#include "compress/methods.h"
#include "compress/outer.h"
#include "compress/tune.h"
#include "kernels/convert.h"
#include "store/base.h"

#include <math.h>
#include <string.h>

#define COMPONENTS_BITS 0.5
#define DIRECT_BITS 1.6
#define COMPONENTS_LEAD 0.6
#define SLACK 0.01
#define FIRST_LAMBDA 1e-7
#define DEFAULT_STEPS 60u

struct auto_run {
	const struct method_model *model;
	struct auto_text text;
	struct dense_model *base, *tuned, *weights;
	struct metric **metrics; /* all of them, owned */
	size_t n_metrics;
	struct trial **trials; /* of the projections that changed */
	struct allocate_tensor *tensors;
	float **deltas;
	size_t n_trials;
	double n_weights;       /* numbers in them */
	double budget;          /* bytes; 0: by quality */
	bool shared;            /* budget and lambda, with embedding and head */
	struct rate_loss outer; /* of embedding and head, where they are ours to choose */
	struct allocation allocation;
	struct rate_point points[METHOD_MAX_POINTS]; /* the last is what stands */
	size_t n_points;
	struct tune_report tuned_report;
	bool is_tuned;
};

static void run_free(struct auto_run *a)
{
	if (!a)
		return;
	auto_text_done(&a->text);
	dense_model_free(a->base);
	dense_model_free(a->tuned);
	dense_model_free(a->weights);
	for (size_t i = 0; i < a->n_metrics; i++)
		metric_free(a->metrics[i]);
	for (size_t i = 0; i < a->n_trials; i++) {
		trial_free(a->trials[i]);
		free(a->deltas[i]);
	}
	free(a->metrics);
	free(a->trials);
	free(a->tensors);
	free(a->deltas);
	free(a);
}

static void run_freep(struct auto_run **a)
{
	run_free(*a);
}

static int check(const struct method_options *o, struct reason *reason)
{
	bool sized = o->ratio != 0 || o->bits != 0;

	if (o->max_kl != 0 && (sized || o->file_ratio != 0))
		return reason_set(
			reason, -EINVAL, "a size and max-kl are both given, expected one of them");
	if (o->file_ratio != 0 && sized)
		return reason_set(reason, -EINVAL,
			"a size of the file and one of the projections are both given, expected "
			"one of them");
	if (o->file_ratio != 0 && !(o->file_ratio >= 1 && o->file_ratio <= 100000))
		return reason_set(
			reason, -EINVAL, "file-ratio is %g, expected 1 to 100000", o->file_ratio);
	if (o->max_kl != 0 && !(o->max_kl > 0 && o->max_kl < 100))
		return reason_set(reason, -EINVAL, "max-kl is %g, expected 0 to 100", o->max_kl);
	return method_check_ratio(o, reason);
}

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

static uint32_t input_width(const struct model_config *c, enum fisher_input input)
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

static int take_block(void *user, struct fisher_block *block, struct reason *reason)
{
	struct auto_run *a = user;
	struct input_metrics inputs[N_FISHER_INPUTS];
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_FISHER_INPUTS; i++) {
		uint32_t n = input_width(&a->tuned->config, (enum fisher_input)i);

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

static int sense(struct auto_run *a, struct reason *reason)
{
	_cleanup_(sequences_done) struct sequences sample = {0};
	struct fisher_settings settings = {
		.pool = a->model->pool,
		.sequences = &sample,
		.seed = 1,
		.progress = a->model->progress,
	};
	int r = auto_text_sample(&a->text, &sample);

	if (r == 0)
		r = read_models(a, reason);
	if (r == 0)
		r = make_room(a);
	if (r < 0)
		return r;
	take_embedding(a);
	settings.model = a->tuned;
	return fisher_run(&settings, take_block, a, reason);
}

/* As a reader will have embedding and head. */
static int take_outer(struct auto_run *a)
{
	if (!a->model->outer)
		return 0;
	return outer_install(a->model->outer, dense_embedding(a->weights), dense_head(a->weights));
}

/* Of what stands coded. */
static double projection_bytes(const struct auto_run *a)
{
	double sum = 0;

	for (size_t i = 0; i < a->n_trials; i++)
		sum += a->trials[i]->point.bytes;
	return sum;
}

static struct tune_settings tune_settings_of(const struct auto_run *a)
{
	return (struct tune_settings){
		.trials = a->trials,
		.n_trials = a->n_trials,
		.base = a->base,
		.weights = a->weights,
		.teacher = a->tuned,
		.sequences = &a->text.learn,
		.kept_back = &a->text.kept_back,
		.pool = a->model->pool,
		.progress = a->model->progress,
		.bits = 8 * projection_bytes(a) / a->n_weights,
		.seed = 1,
	};
}

/* KL of what stands coded, on the text that was kept back. */
static int measure(void *user, double *ret, struct reason *reason)
{
	struct auto_run *a = user;
	const struct tune_settings settings = tune_settings_of(a);
	int r = tune_install(&settings);

	if (r == 0)
		r = take_outer(a);
	return r < 0 ? r : tune_measure(&settings, &a->text.kept_back, ret, reason);
}

static struct allocate_settings allocate_settings_of(const struct auto_run *a)
{
	return (struct allocate_settings){
		.tensors = a->tensors,
		.n = a->n_trials + a->shared,
		.pool = a->model->pool,
		.progress = a->model->progress,
		.stage = "allocating",
		.first = a->allocation.lambda > 0 ? a->allocation.lambda : FIRST_LAMBDA,
		.slack = SLACK,
	};
}

/* All trials with one codec, and with nothing where that is better. */
static int code_with(
	struct auto_run *a, enum trial_codec codec, double *ret_kl, struct reason *reason)
{
	const struct allocate_settings settings = allocate_settings_of(a);
	int r;

	for (size_t i = 0; i < a->n_trials; i++)
		trial_allow(a->trials[i], 1u << TRIAL_NOTHING | 1u << codec);
	if (a->budget > 0)
		r = allocate_bytes(&settings, a->budget, &a->allocation, reason);
	else
		r = allocate_quality(
			&settings, measure, a, a->model->options->max_kl, &a->allocation, reason);
	if (r == 0 && a->model->outer)
		r = outer_encode(a->model->outer, a->allocation.lambda, &a->outer, reason);
	return r < 0 ? r : measure(a, ret_kl, reason);
}

static int code_best(struct auto_run *a, struct reason *reason)
{
	double bits = a->budget > 0 ? 8 * a->budget / a->n_weights : 0, direct, components;
	bool by_size = a->budget > 0, known = by_size && !a->shared, wins;
	struct allocation other;
	int r;

	if (known && bits <= COMPONENTS_BITS)
		return code_with(a, TRIAL_FACTORS, &components, reason);
	if (known && bits >= DIRECT_BITS)
		return code_with(a, TRIAL_CODES, &direct, reason);
	r = code_with(a, TRIAL_CODES, &direct, reason);
	if (r < 0)
		return r;
	other = a->allocation;
	r = code_with(a, TRIAL_FACTORS, &components, reason);
	if (r < 0)
		return r;
	wins = by_size ? components < COMPONENTS_LEAD * direct
		       : a->allocation.sum.bytes < other.sum.bytes;
	if (wins)
		return 0;
	a->allocation = other;
	return code_with(a, TRIAL_CODES, &direct, reason);
}

/* Coarser and finer ones of what stands, which stands again at the end. */
static int draw_curve(struct auto_run *a, struct reason *reason)
{
	static const double factors[] = {16, 4, 1. / 4, 1. / 16, 1};
	const struct allocate_settings settings = allocate_settings_of(a);
	double kl;
	int r = 0;

	for (size_t i = 0; r == 0 && i < array_len(factors); i++) {
		struct rate_loss sum;

		r = allocate_at(&settings, factors[i] * a->allocation.lambda, &sum, reason);
		if (r == 0)
			r = measure(a, &kl, reason);
		if (r == 0)
			a->points[a->n_points++] = (struct rate_point){
				.bits = 8 * projection_bytes(a) / a->n_weights, .kl = kl};
	}
	return r;
}

static uint32_t n_steps(const struct auto_run *a)
{
	const struct method_options *o = a->model->options;

	if (o->train_steps_given)
		return o->train_steps;
	return a->text.kind == AUTO_TEXT_TASKS ? DEFAULT_STEPS : 0;
}

static int weigh_all(const struct auto_run *a, double *ret)
{
	for (size_t i = 0; i < a->n_trials; i++) {
		int r = trial_weigh(a->trials[i]);

		if (r < 0)
			return r;
	}
	*ret = projection_bytes(a) + (a->shared ? a->outer.bytes : 0);
	return 0;
}

/* Zeros that training made into ones go back, the nearest first, until the budget is kept. */
static int keep_budget(struct auto_run *a)
{
	double bytes = 0, threshold = .5;
	int r = weigh_all(a, &bytes);

	while (r == 0 && a->budget > 0 && bytes > a->budget && threshold < 1.5) {
		threshold += .02;
		for (size_t i = 0; i < a->n_trials; i++)
			trial_round(a->trials[i], (float)threshold);
		r = weigh_all(a, &bytes);
	}
	a->allocation.sum.bytes = bytes;
	return r;
}

static int train(struct auto_run *a, struct reason *reason)
{
	struct tune_settings settings = tune_settings_of(a);
	int r;

	settings.n_steps = n_steps(a);
	if (settings.n_steps == 0 || a->n_trials == 0)
		return 0;
	r = tune_install(&settings);
	if (r == 0)
		r = tune_run(&settings, &a->tuned_report, reason);
	if (r < 0)
		return r;
	a->is_tuned = !a->tuned_report.reverted;
	r = keep_budget(a);
	if (a->is_tuned)
		a->points[a->n_points - 1] = (struct rate_point){
			.bits = 8 * projection_bytes(a) / a->n_weights,
			.kl = a->tuned_report.kl_after,
		};
	return r;
}

/*
 * What an error of embedding and head costs is a guess (compress/embedding.h) until the KL has been
 * measured once, with everything else exact and about as many bits as the rest will have.
 */
static int sense_outer(struct auto_run *a, struct reason *reason)
{
	const struct method_options *o = a->model->options;
	struct outer *outer = a->model->outer;
	double ratio = o->file_ratio > 0 ? o->file_ratio : method_ratio(&method_auto, o), kl;
	const struct tune_settings settings = tune_settings_of(a);
	struct rate_loss guess;
	int r;

	r = outer_weigh(outer, a->text.learn.ids, a->text.learn.n_ids);
	if (r == 0)
		r = outer_choose_size(outer, 16 / ratio, &guess);
	if (r == 0)
		r = take_outer(a);
	if (r == 0)
		r = tune_measure(&settings, &a->text.kept_back, &kl, reason);
	if (r == 0 && guess.loss > 0 && kl > 0)
		outer_rescale(outer, kl / guess.loss);
	return r;
}

/* What is there to be coded, and in how many bytes. */
static int set_budget(struct auto_run *a, struct reason *reason)
{
	const struct method_model *model = a->model;
	const struct method_options *o = model->options;

	a->shared = model->outer && (o->file_ratio > 0 || o->max_kl > 0);
	if (o->file_ratio > 0)
		a->budget = model->room;
	else if (!(o->max_kl > 0))
		a->budget = 2 * a->n_weights / method_ratio(&method_auto, o);
	if (a->shared)
		a->tensors[a->n_trials] =
			(struct allocate_tensor){.encode = outer_encode, .self = model->outer};
	return model->outer ? sense_outer(a, reason) : 0;
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	_cleanup_(run_freep) struct auto_run *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->model = model;
	r = auto_text_make(model, &a->text, reason);
	if (r == 0)
		r = sense(a, reason);
	if (r == 0)
		r = set_budget(a, reason);
	if (r == 0 && a->n_trials + a->shared > 0)
		r = code_best(a, reason);
	if (r == 0 && a->n_trials > 0)
		r = draw_curve(a, reason);
	if (r == 0)
		r = train(a, reason);
	if (r < 0)
		return r;
	a->model = NULL;
	*ret_state = take_ptr(a);
	return 0;
}

static const struct trial *find_trial(
	const struct auto_run *a, enum tensor_role role, uint32_t layer)
{
	for (size_t i = 0; i < a->n_trials; i++) {
		const struct part_place *p = &a->trials[i]->settings.place;

		if (p->role == role && p->layer == layer)
			return a->trials[i];
	}
	return NULL;
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	const struct auto_run *a = state;

	for (size_t i = 0; i < group->n_matrices; i++) {
		struct method_matrix *m = &group->matrices[i];
		const struct trial *t = find_trial(a, m->role, m->layer);
		struct part part;
		int r;

		if (!t)
			return reason_set(reason, -EINVAL, "%s of layer %u was not prepared",
				tensor_role_name(m->role), m->layer);
		r = trial_part(t, &part);
		if (r < 0)
			return r;
		if (!part.payload)
			continue;
		part.quality.loss = (float)t->point.loss;
		part.quality.why = WHY_LOWEST_COST;
		r = method_matrix_add(m, &part);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Norms of blocks that were trained along. */
static const float *vector(const void *state, enum tensor_role role, uint32_t layer)
{
	const struct auto_run *a = state;

	if (!a->is_tuned || (role != ROLE_ATTN_NORM && role != ROLE_FFN_NORM))
		return NULL;
	return a->weights->layers[layer].at[role];
}

static size_t report(const void *state, struct method_figure *ret)
{
	const struct auto_run *a = state;
	size_t n_factors = 0, n = 0;

	for (size_t i = 0; i < a->n_trials; i++)
		n_factors += a->trials[i]->winner.codec == TRIAL_FACTORS;
	ret[n++] = (struct method_figure){"task_text", a->text.kind};
	ret[n++] = (struct method_figure){"text_tokens", (double)sequences_read(&a->text.learn)};
	ret[n++] = (struct method_figure){"in_components", (double)n_factors};
	ret[n++] = (struct method_figure){"lambda", a->allocation.lambda};
	if (a->tuned_report.seconds > 0) {
		ret[n++] =
			(struct method_figure){"kept_back_kl_untrained", a->tuned_report.kl_before};
		ret[n++] = (struct method_figure){"kept_back_kl_trained", a->tuned_report.kl_after};
		ret[n++] = (struct method_figure){"training_seconds", a->tuned_report.seconds};
	}
	return n;
}

static size_t points(const void *state, struct rate_point *ret)
{
	const struct auto_run *a = state;

	memcpy(ret, a->points, sizeof(a->points));
	return a->n_points;
}

static void done(void *state)
{
	run_free(state);
}

const struct method method_auto = {
	.name = "auto",
	.summary = "codes or components by the fine-tune's own task, trained",
	.needs = METHOD_NEEDS_CALIBRATION | METHOD_NEEDS_GRADIENTS,
	.default_ratio = 16,
	.check = check,
	.prepare = prepare,
	.quantise = quantise,
	.vector = vector,
	.report = report,
	.points = points,
	.done = done,
};

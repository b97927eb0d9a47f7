#include "compress/auto_run.h"

#include "compress/methods.h"

#define COMPONENTS_BITS 0.5
#define DIRECT_BITS 1.6
#define COMPONENTS_LEAD 0.6
#define SLACK 0.01
#define FIRST_LAMBDA 1e-7

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
		r = allocate_quality(&settings, auto_measure, a, a->model->options->max_kl,
			&a->allocation, reason);
	if (r == 0 && a->model->outer)
		r = outer_encode(a->model->outer, a->allocation.lambda, &a->outer, reason);
	return r < 0 ? r : auto_measure(a, ret_kl, reason);
}

/* The codec that wins by KL, or by bytes where KL is given. */
int auto_code(struct auto_run *a, struct reason *reason)
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
int auto_draw_curve(struct auto_run *a, struct reason *reason)
{
	static const double factors[] = {16, 4, 1. / 4, 1. / 16, 1};
	const struct allocate_settings settings = allocate_settings_of(a);
	double kl;
	int r = 0;

	for (size_t i = 0; r == 0 && i < array_len(factors); i++) {
		struct rate_loss sum;

		r = allocate_at(&settings, factors[i] * a->allocation.lambda, &sum, reason);
		if (r == 0)
			r = auto_measure(a, &kl, reason);
		if (r == 0)
			a->points[a->n_points++] = (struct rate_point){
				.bits = 8 * auto_projection_bytes(a) / a->n_weights, .kl = kl};
	}
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
	const struct tune_settings settings = auto_tune_settings(a);
	struct rate_loss guess;
	int r;

	r = outer_weigh(outer, a->text.learn.ids, a->text.learn.n_ids);
	if (r == 0)
		r = outer_choose_size(outer, 16 / ratio, &guess);
	if (r == 0)
		r = auto_take_outer(a);
	if (r == 0)
		r = tune_measure(&settings, &a->text.kept_back, &kl, reason);
	if (r == 0 && guess.loss > 0 && kl > 0)
		outer_rescale(outer, kl / guess.loss);
	return r;
}

/* What is there to be coded, and in how many bytes. */
int auto_set_budget(struct auto_run *a, struct reason *reason)
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

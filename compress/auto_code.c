#include "compress/auto_keep.h"
#include "compress/auto_run.h"

#include "compress/methods.h"

#define COMPONENTS_BITS 0.5
#define DIRECT_BITS 1.6
#define COMPONENTS_LEAD 0.6
#define SLACK 0.01
#define FIRST_LAMBDA 1e-7
#define KEEP_NEAREST 1.1 /* a score has steps: sizes nearer than 3 % cannot be told apart */

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
		.nearest = a->keep ? KEEP_NEAREST : 0,
	};
}

/* All trials coded in one way. */
struct attempt {
	struct allocation allocation;
	struct outer_worth outer;
	double kl;
};

static int allocate(struct auto_run *a, const struct allocate_settings *settings,
	struct allocation *ret, struct reason *reason)
{
	if (a->budget > 0)
		return allocate_bytes(settings, a->budget, ret, reason);
	if (a->keep)
		return allocate_quality(settings, auto_keep_loss, a->keep,
			1 - a->model->options->keep, ret, reason);
	return allocate_quality(settings, auto_measure, a, a->model->options->max_kl, ret, reason);
}

/* Near what was found with another price. */
static int allocate_again(struct auto_run *a, struct attempt *attempt, struct reason *reason)
{
	struct allocate_settings settings = allocate_settings_of(a);
	double lambda = attempt->allocation.lambda;
	int r = auto_price_outer(a, &settings, lambda, &attempt->outer, reason);

	settings.first = lambda;
	return r < 0 ? r : allocate(a, &settings, &attempt->allocation, reason);
}

static int code_with(
	struct auto_run *a, uint32_t codecs, struct attempt *ret, struct reason *reason)
{
	const struct allocate_settings settings = allocate_settings_of(a);
	struct attempt attempt = {0};
	struct rate_loss outer;
	int r;

	for (size_t i = 0; i < a->n_trials; i++)
		trial_allow(a->trials[i], 1u << TRIAL_NOTHING | codecs);
	r = allocate(a, &settings, &attempt.allocation, reason);
	if (r == 0 && a->shared)
		r = allocate_again(a, &attempt, reason);
	a->allocation = attempt.allocation;
	if (r == 0 && a->model->outer)
		r = outer_encode(a->model->outer, a->allocation.lambda, &outer, reason);
	if (r == 0)
		r = auto_measure(a, &attempt.kl, reason);
	if (r == 0)
		*ret = attempt;
	return r;
}

static void swap_all(struct auto_run *a)
{
	for (size_t i = 0; i < a->n_trials; i++)
		trial_swap(a->trials[i]);
}

/* Stands from now on. */
static int take_attempt(struct auto_run *a, const struct attempt *attempt, struct reason *reason)
{
	a->allocation = attempt->allocation;
	if (!a->model->outer)
		return 0;
	if (a->shared)
		outer_learn(a->model->outer, &attempt->outer);
	return outer_encode(a->model->outer, a->allocation.lambda, &a->outer, reason);
}

int auto_code(struct auto_run *a, struct reason *reason)
{
	double bits = a->budget > 0 ? 8 * a->budget / a->n_weights : 0;
	bool by_size = a->budget > 0, known = by_size && !a->shared;
	struct attempt direct = {0}, components = {0};
	bool wins = known && bits <= COMPONENTS_BITS;
	int r = 0;

	if (!wins)
		r = code_with(a, 1u << TRIAL_CODES, &direct, reason);
	if (r < 0 || (known && bits >= DIRECT_BITS))
		return r < 0 ? r : take_attempt(a, &direct, reason);
	swap_all(a);
	r = code_with(a, 1u << TRIAL_FACTORS, &components, reason);
	/* What they cannot reach, codes have. */
	if (r < 0 && (r != -ENOSPC || wins))
		return r;
	if (r == 0 && !wins)
		wins = by_size ? components.kl < COMPONENTS_LEAD * direct.kl
			       : components.allocation.sum.bytes < direct.allocation.sum.bytes;
	if (!wins)
		swap_all(a);
	return take_attempt(a, wins ? &components : &direct, reason);
}

static int add_point(struct auto_run *a, struct reason *reason)
{
	double kl;
	int r = auto_measure(a, &kl, reason);

	if (r == 0)
		a->points[a->n_points++] = (struct rate_point){
			.bits = 8 * auto_projection_bytes(a) / a->n_weights, .kl = kl};
	return r;
}

/* Coarser and finer ones of what stands, in the ways that won; it stands again at the end. */
int auto_draw_curve(struct auto_run *a, struct reason *reason)
{
	static const double factors[] = {16, 4, 1. / 4, 1. / 16, 1};
	const struct allocate_settings settings = allocate_settings_of(a);
	int r = 0;

	for (size_t i = 0; i < a->n_trials; i++)
		a->trials[i]->settled = true;
	for (size_t i = 0; r == 0 && i < array_len(factors); i++) {
		struct rate_loss sum;

		r = allocate_at(&settings, factors[i] * a->allocation.lambda, &sum, reason);
		if (r == 0)
			r = add_point(a, reason);
	}
	return r;
}

/* What is there to be coded, and in how many bytes. */
int auto_set_budget(struct auto_run *a, struct reason *reason)
{
	const struct method_model *model = a->model;
	const struct method_options *o = model->options;

	a->shared = model->outer && (o->file_ratio > 0 || o->max_kl > 0 || o->keep > 0);
	if (o->file_ratio > 0)
		a->budget = model->room;
	else if (!(o->max_kl > 0) && !(o->keep > 0))
		a->budget = 2 * a->n_weights / method_ratio(&method_auto, o);
	if (a->shared)
		a->tensors[a->n_trials] =
			(struct allocate_tensor){.encode = outer_encode, .self = model->outer};
	return model->outer ? auto_sense_outer(a, reason) : 0;
}

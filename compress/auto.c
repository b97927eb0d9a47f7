/*
 * Method "auto": the smallest delta that keeps what the fine-tune does.
 *
 *   text        words of the fine-tune's own task (compress/auto_text.h)
 *   sensing     what an error of each matrix costs in KL on them (compress/fisher.h)
 *   coding      direct codes with feedback along both axes (compress/ldlq.h) or components of a
 *               whitened SVD (compress/whitened.h), one lambda for all (compress/allocate.h)
 *   training    of the numbers behind the codes, scales and norms (compress/tune.h)
 *   size        real bytes; what training added is taken back from the smallest codes
 *   levels      what is worth most a byte comes first (compress/auto_levels.h)
 *
 * At half a bit and less components win on every fine-tune that was tried, from 1.6 bits on direct
 * codes; between, each projection takes what is better for it (compress/trial.h). KL at 1.0 bit on
 * unseen tasks before training, with codes alone, components alone, and either: tools fine-tune
 * 0.0053, 0.0036, 0.0034 (60 tasks); chat fine-tune 0.031, 0.037, 0.029 (16 tasks).
 *
 * Both models and all gradients are in memory as f32; models that are too large for that go another
 * way, compress/auto_stream.h.
 */
#include "compress/auto_memory.h"
#include "compress/auto_keep.h"
#include "compress/auto_levels.h"
#include "compress/auto_run.h"
#include "compress/methods.h"
#include "store/base.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int check(const struct method_options *o, struct reason *reason)
{
	bool sized = o->ratio != 0 || o->bits != 0;

	if (o->max_kl != 0 && (sized || o->file_ratio != 0))
		return reason_set(
			reason, -EINVAL, "a size and max-kl are both given, expected one of them");
	if (o->keep != 0 && (sized || o->file_ratio != 0 || o->max_kl != 0))
		return reason_set(reason, -EINVAL,
			"keep and a size or max-kl are both given, expected one of them");
	if (o->keep != 0 && !(o->keep > 0 && o->keep <= 1))
		return reason_set(
			reason, -EINVAL, "keep is %g, expected more than 0, up to 1", o->keep);
	if (o->file_ratio != 0 && sized)
		return reason_set(reason, -EINVAL,
			"a size of the file and one of the projections are both given, expected "
			"one of them");
	if (o->file_ratio != 0 && !(o->file_ratio >= 1 && o->file_ratio <= 100000))
		return reason_set(
			reason, -EINVAL, "file-ratio is %g, expected 1 to 100000", o->file_ratio);
	if (o->max_kl != 0 && !(o->max_kl > 0 && o->max_kl < 100))
		return reason_set(reason, -EINVAL, "max-kl is %g, expected 0 to 100", o->max_kl);
	if (o->tasks && o->text != METHOD_TEXT_BEST)
		return reason_set(reason, -EINVAL,
			"tasks and a kind of text are both given, expected one of them");
	return method_check_ratio(o, reason);
}

static int read_trial(
	const void *user, size_t i, struct part *ret, double *ret_benefit, struct reason *reason)
{
	const struct auto_run *a = user;
	struct trial *t = a->trials[i];
	int r = trial_benefit(t, ret_benefit);

	(void)reason;
	if (r == 0)
		r = trial_part(t, ret);
	if (r < 0)
		return r;
	ret->quality.loss = (float)t->at.point.loss;
	ret->quality.why = WHY_LOWEST_COST;
	return 0;
}

static struct auto_levels_source source_of(const struct auto_run *a)
{
	return (struct auto_levels_source){.n = a->n_trials, .read = read_trial, .user = a};
}

/* Of what stands coded, in what is left of the budget. */
static int make_levels(struct auto_run *a, struct reason *reason)
{
	const struct auto_levels_source source = source_of(a);
	double bytes = auto_projection_bytes(a), outer = a->shared ? a->outer.bytes : 0;
	double spare = a->budget > 0 ? a->budget + a->reserve - bytes - outer
				     : auto_levels_reserve(bytes, a->n_trials);
	int r = auto_levels_new(&source, spare, &a->levels, reason);

	if (r == 0 && a->n_points > 0)
		a->points[a->n_points - 1].bits += 8 * auto_levels_added(a->levels) / a->n_weights;
	return r;
}

static int prepare(const struct method_model *model, void **ret_state, struct reason *reason)
{
	_cleanup_(auto_runp) struct auto_run *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->model = model;
	r = auto_text_make(model, &a->text, reason);
	if (r == 0)
		r = auto_sense(a, reason);
	if (r == 0 && model->options->keep > 0)
		r = auto_keep_new(a, &a->keep, reason);
	if (r == 0)
		r = auto_set_budget(a, reason);
	if (r == 0 && a->n_trials + a->shared > 0)
		r = auto_code(a, reason);
	if (r == 0 && a->n_trials > 0)
		r = auto_draw_curve(a, reason);
	if (r == 0)
		r = auto_train(a, reason);
	if (r == 0 && a->keep)
		r = auto_keep_measure(a->keep, &a->kept, reason);
	if (r == 0)
		r = make_levels(a, reason);
	if (r < 0)
		return r;
	a->keep = auto_keep_free(a->keep);
	a->model = NULL;
	*ret_state = take_ptr(a);
	return 0;
}

/* n_trials if there is none. */
static size_t find_trial(const struct auto_run *a, enum tensor_role role, uint32_t layer)
{
	size_t i = 0;

	for (; i < a->n_trials; i++) {
		const struct part_place *p = &a->trials[i]->settings.place;

		if (p->role == role && p->layer == layer)
			break;
	}
	return i;
}

static int quantise(void *state, struct method_group *group, struct reason *reason)
{
	const struct auto_run *a = state;
	const struct auto_levels_source source = source_of(a);

	for (size_t i = 0; i < group->n_matrices; i++) {
		struct method_matrix *m = &group->matrices[i];
		size_t trial = find_trial(a, m->role, m->layer);
		int r;

		if (trial == a->n_trials)
			return reason_set(reason, -EINVAL, "%s of layer %u was not prepared",
				tensor_role_name(m->role), m->layer);
		r = auto_levels_give(a->levels, &source, trial, m, reason);
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

static void add_figure(struct method_figure *figures, size_t *n, const char *name, double value)
{
	struct method_figure *f = &figures[(*n)++];

	*f = (struct method_figure){.value = value};
	snprintf(f->name, sizeof(f->name), "%s", name);
}

static size_t report(const void *state, struct method_figure *ret)
{
	const struct auto_run *a = state;
	size_t n_factors = 0, n = 0;

	for (size_t i = 0; i < a->n_trials; i++)
		n_factors += a->trials[i]->at.winner.codec == TRIAL_FACTORS;
	ret[n] = (struct method_figure){.name = METHOD_FIGURE_TEXT};
	snprintf(ret[n].word, sizeof(ret[n].word), "%s", auto_text_name(a->text.kind));
	n++;
	add_figure(ret, &n, "text_tokens", (double)sequences_read(&a->text.learn));
	add_figure(ret, &n, "in_components", (double)n_factors);
	add_figure(ret, &n, "lambda", a->allocation.lambda);
	if (a->kept.n > 0) {
		add_figure(ret, &n, "kept_share", a->kept.share);
		if (isfinite(a->kept.error))
			add_figure(ret, &n, "kept_share_error", a->kept.error);
		add_figure(ret, &n, a->kept.of_tasks ? "kept_back_tasks" : "kept_back_tokens",
			(double)a->kept.n);
	}
	if (a->tuned_report.seconds > 0) {
		add_figure(ret, &n, "kept_back_kl_untrained", a->tuned_report.kl_before);
		add_figure(ret, &n, "kept_back_kl_trained", a->tuned_report.kl_after);
		add_figure(ret, &n, "training_seconds", a->tuned_report.seconds);
	}
	return n;
}

static size_t points(const void *state, struct rate_point *ret)
{
	const struct auto_run *a = state;

	memcpy(ret, a->points, sizeof(a->points));
	return a->n_points;
}

static struct method_tokens text(const void *state)
{
	const struct auto_run *a = state;

	return auto_text_told(&a->text.learn, &a->text.general);
}

static void done(void *state)
{
	auto_run_free(state);
}

const struct method method_auto = {
	.name = "auto",
	.summary = "codes or components by the fine-tune's own task, trained",
	.needs = METHOD_NEEDS_GRADIENTS,
	.takes = METHOD_TAKES_TASKS | METHOD_TAKES_GOALS | METHOD_TAKES_OUTER,
	.default_ratio = 16,
	.check = check,
	.prepare = prepare,
	.quantise = quantise,
	.vector = vector,
	.report = report,
	.points = points,
	.text = text,
	.done = done,
	.memory = auto_memory,
	.streamed = &method_auto_stream,
};

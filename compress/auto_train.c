#include "compress/auto_run.h"

#define MOST_BITS 2.5 /* finer ones have little left to gain */
#define STEPS 40u
/* Coarse codes have more to learn: at half a bit, KL on unseen calls of tools .0096 after 40 steps,
 * .0075 after 120. */
#define COARSE_BITS 0.75
#define COARSE_STEPS 120u

uint32_t auto_train_steps(enum auto_text_kind kind, double bits)
{
	if (kind != AUTO_TEXT_TASKS || bits > MOST_BITS)
		return 0;
	return bits > COARSE_BITS ? STEPS : COARSE_STEPS;
}

static uint32_t n_steps(const struct auto_run *a)
{
	const struct method_options *o = a->model->options;

	if (o->train_steps_given)
		return o->train_steps;
	return auto_train_steps(a->text.kind, 8 * auto_projection_bytes(a) / a->n_weights);
}

struct trial_work {
	struct trial *const *trials;
	float threshold;
	int *errors;
};

static void piece_count(void *arg, size_t piece, size_t worker)
{
	const struct trial_work *w = arg;

	(void)worker;
	trial_round(w->trials[piece], w->threshold);
	w->errors[piece] = trial_count(w->trials[piece]);
}

static void piece_weigh(void *arg, size_t piece, size_t worker)
{
	const struct trial_work *w = arg;

	(void)worker;
	w->errors[piece] = trial_weigh(w->trials[piece]);
}

static int for_all(const struct auto_run *a, pool_fn *fn, struct trial_work *w)
{
	pool_run(a->model->pool, fn, w, a->n_trials);
	for (size_t i = 0; i < a->n_trials; i++)
		if (w->errors[i] < 0)
			return w->errors[i];
	return 0;
}

/* Zeros that training made into ones go back, the nearest first, until the budget is kept. */
static int keep_budget(struct auto_run *a)
{
	_cleanup_(freep) int *errors = calloc(a->n_trials + 1, sizeof(*errors));
	struct trial_work w = {.trials = a->trials, .threshold = .5f, .errors = errors};
	double outer = a->shared ? a->outer.bytes : 0;
	int r = errors ? for_all(a, piece_count, &w) : -ENOMEM;

	while (r == 0 && a->budget > 0 && w.threshold < 1.5f &&
		auto_projection_bytes(a) + outer > a->budget) {
		w.threshold += .02f;
		r = for_all(a, piece_count, &w);
	}
	if (r == 0)
		r = for_all(a, piece_weigh, &w);
	a->allocation.sum.bytes = auto_projection_bytes(a) + outer;
	return r;
}

int auto_train(struct auto_run *a, struct reason *reason)
{
	struct tune_settings settings = auto_tune_settings(a);
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
			.bits = 8 * auto_projection_bytes(a) / a->n_weights,
			.kl = a->tuned_report.kl_after,
		};
	return r;
}

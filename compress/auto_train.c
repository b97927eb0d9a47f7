#include "compress/auto_run.h"

#define DEFAULT_STEPS 60u

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
	*ret = auto_projection_bytes(a) + (a->shared ? a->outer.bytes : 0);
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

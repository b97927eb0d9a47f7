#include "compress/auto_run.h"

#include "compress/auto_keep.h"
#include "compress/auto_levels.h"

struct auto_run *auto_run_free(struct auto_run *a)
{
	if (!a)
		return NULL;
	exam_free(a->exam);
	auto_keep_free(a->keep);
	auto_levels_free(a->levels);
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
	return NULL;
}

double auto_projection_bytes(const struct auto_run *a)
{
	double sum = 0;

	for (size_t i = 0; i < a->n_trials; i++)
		sum += a->trials[i]->at.point.bytes;
	return sum;
}

struct tune_settings auto_tune_settings(const struct auto_run *a)
{
	return (struct tune_settings){
		.trials = a->trials,
		.n_trials = a->n_trials,
		.base = a->base,
		.weights = a->weights,
		.teacher = a->tuned,
		.sequences = &a->text.learn,
		.exam = a->exam,
		.pool = a->model->pool,
		.progress = a->model->progress,
		.bits = 8 * auto_projection_bytes(a) / a->n_weights,
		.seed = 1,
	};
}

int auto_take_outer(struct auto_run *a)
{
	if (!a->model->outer)
		return 0;
	return outer_install(a->model->outer, dense_embedding(a->weights), dense_head(a->weights));
}

int auto_measure(void *user, double *ret, struct reason *reason)
{
	struct auto_run *a = user;
	const struct tune_settings settings = auto_tune_settings(a);
	int r = tune_install(&settings);

	if (r == 0)
		r = auto_take_outer(a);
	return r < 0 ? r : exam_kl(a->exam, a->weights, ret, reason);
}

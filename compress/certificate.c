#include "compress/certificate.h"

static int compare_windows(const struct certificate_settings *s, struct compare *compare,
	struct comparison *sums, struct reason *reason)
{
	const struct calibration *c = s->calibration;

	for (uint32_t i = 0; i < c->n_held_out; i++) {
		int r;

		progress_update(s->progress, "measuring", i, c->n_held_out);
		r = compare_sequence(
			compare, c->held_out + (size_t)i * c->window, c->window, 0, sums, reason);
		if (r < 0)
			return r;
	}
	progress_update(s->progress, "measuring", c->n_held_out, c->n_held_out);
	return 0;
}

int certificate_measure(
	const struct certificate_settings *s, struct certificate *ret, struct reason *reason)
{
	const struct compare_settings settings = {
		.pool = s->pool,
		.tuned_model = s->tuned->model,
		.model = s->base->model,
		.tuned = s->tuned->variant,
		.delta = s->base->with_delta,
		.base = s->base->variant,
		.max_positions = s->calibration->window,
	};
	_cleanup_(compare_freep) struct compare *compare = NULL;
	struct comparison sums = {0};
	int r;

	r = compare_new(&settings, &compare, reason);
	if (r == 0)
		r = compare_windows(s, compare, &sums, reason);
	if (r < 0)
		return r;
	ret->n_eval_tokens = sums.n;
	ret->kl = comparison_kl(&sums);
	ret->agreement = comparison_agreement(&sums);
	ret->perplexity_base = comparison_perplexity(&sums, sums.sum_nll_base);
	ret->perplexity_tuned = comparison_perplexity(&sums, sums.sum_nll_tuned);
	ret->perplexity_delta = comparison_perplexity(&sums, sums.sum_nll_delta);
	return 0;
}

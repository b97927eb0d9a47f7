#include "compress/certificate.h"

const char *certificate_text_name(uint32_t text)
{
	switch ((enum certificate_text)text) {
	case CERTIFICATE_GENERAL:
		return "general text";
	case CERTIFICATE_TASKS:
		return "tasks";
	case CERTIFICATE_RANDOM:
		return "random tokens";
	}
	return "unknown text";
}

static int compare_windows(const struct certificate_settings *s, struct compare *compare,
	struct comparison *sums, struct reason *reason)
{
	const struct calibration *c = s->calibration;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < c->n_held_out; i++) {
		progress_update(s->progress, "measuring", i, c->n_held_out);
		r = compare_sequence(
			compare, c->held_out + (size_t)i * c->window, c->window, 0, sums, reason);
	}
	progress_update(s->progress, "measuring", c->n_held_out, c->n_held_out);
	return r;
}

static int compare_answers(const struct certificate_settings *s, const struct sequences *sequences,
	struct compare *compare, struct comparison *sums, struct reason *reason)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < sequences->n; i++) {
		const struct sequence *q = &sequences->items[i];

		progress_update(s->progress, "measuring", i, sequences->n);
		r = compare_sequence(
			compare, sequence_ids(sequences, i), q->n, q->answer - 1, sums, reason);
	}
	progress_update(s->progress, "measuring", sequences->n, sequences->n);
	return r;
}

void certificate_set(struct certificate *certificate, const struct comparison *sums)
{
	certificate->n_eval_tokens = sums->n;
	certificate->kl = comparison_kl(sums);
	certificate->agreement = comparison_agreement(sums);
	certificate->perplexity_base = comparison_perplexity(sums, sums->sum_nll_base);
	certificate->perplexity_tuned = comparison_perplexity(sums, sums->sum_nll_tuned);
	certificate->perplexity_delta = comparison_perplexity(sums, sums->sum_nll_delta);
}

/* Without the base where it lacks tokens of the text. */
static int open_compare(const struct certificate_settings *s, const uint32_t *ids, size_t n_ids,
	uint32_t max_positions, struct compare **ret, struct reason *reason)
{
	uint32_t base_vocab = variant_config(s->base->variant)->vocab;
	const struct compare_settings settings = {
		.pool = s->pool,
		.tuned_model = s->tuned->model,
		.model = s->base->model,
		.tuned = s->tuned->variant,
		.delta = s->base->with_delta,
		.base = compare_reads(ids, n_ids, base_vocab) ? s->base->variant : NULL,
		.max_positions = max_positions,
	};

	return compare_new(&settings, ret, reason);
}

int certificate_measure_tasks(const struct certificate_settings *s,
	const struct sequences *sequences, struct certificate_tasks *ret, struct reason *reason)
{
	_cleanup_(compare_freep) struct compare *compare = NULL;
	struct comparison sums = {0};
	int r = open_compare(s, sequences->ids, sequences->n_ids, sequences_longest(sequences),
		&compare, reason);

	if (r == 0)
		r = compare_answers(s, sequences, compare, &sums, reason);
	if (r < 0)
		return r;
	ret->n_tasks = sequences->n;
	ret->n_tokens = sums.n;
	ret->kl = comparison_kl(&sums);
	ret->agreement = comparison_agreement(&sums);
	ret->perplexity_base = comparison_perplexity(&sums, sums.sum_nll_base);
	ret->perplexity_tuned = comparison_perplexity(&sums, sums.sum_nll_tuned);
	ret->perplexity_delta = comparison_perplexity(&sums, sums.sum_nll_delta);
	return 0;
}

int certificate_measure(
	const struct certificate_settings *s, struct certificate *ret, struct reason *reason)
{
	_cleanup_(compare_freep) struct compare *compare = NULL;
	struct comparison sums = {0};
	const struct calibration *c = s->calibration;
	int r = open_compare(
		s, c->held_out, (size_t)c->n_held_out * c->window, c->window, &compare, reason);

	if (r == 0)
		r = compare_windows(s, compare, &sums, reason);
	if (r < 0)
		return r;
	certificate_set(ret, &sums);
	return 0;
}

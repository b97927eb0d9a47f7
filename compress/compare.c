#include "compress/compare.h"

#include "compress/sequences.h"
#include "engine/score.h"

#include <math.h>
#include <string.h>

struct place {
	double kl;
	bool agrees;
	double nll_tuned, nll_delta, nll_base;
};

struct compare {
	struct compare_settings settings;
	struct scorer *tuned, *delta, *base; /* base NULL where not asked for */
	uint32_t vocab;                      /* of tuned and delta */
	uint32_t base_vocab;
	/* The chunk in work: targets[i] follows chunk position i. */
	const uint32_t *targets;
	struct place places[SCORE_CHUNK];
};

struct compare *compare_free(struct compare *c)
{
	if (!c)
		return NULL;
	scorer_free(c->tuned);
	scorer_free(c->delta);
	scorer_free(c->base);
	free(c);
	return NULL;
}

/* Of the model that is compared. */
static int new_scorer(
	const struct compare_settings *settings, struct scorer **ret, struct reason *reason)
{
	int r = scorer_new(settings->model, settings->pool, settings->max_positions, ret, reason);

	return r < 0 ? r : scorer_set_kv(*ret, settings->kv_type, reason);
}

int compare_new(
	const struct compare_settings *settings, struct compare **ret, struct reason *reason)
{
	_cleanup_(compare_freep) struct compare *c = calloc(1, sizeof(*c));
	uint32_t n = settings->max_positions;
	int r;

	if (!c)
		return -ENOMEM;
	c->settings = *settings;
	c->vocab = variant_config(settings->delta)->vocab;
	if (variant_config(settings->tuned)->vocab != c->vocab)
		return reason_set(reason, -EMEDIUMTYPE,
			"the fine-tune has a vocabulary of %u tokens, the delta one of %u",
			variant_config(settings->tuned)->vocab, c->vocab);
	r = scorer_new(settings->tuned_model, settings->pool, n, &c->tuned, reason);
	if (r == 0)
		r = new_scorer(settings, &c->delta, reason);
	if (r == 0 && settings->base) {
		c->base_vocab = variant_config(settings->base)->vocab;
		r = new_scorer(settings, &c->base, reason);
	}
	if (r < 0)
		return r;
	*ret = take_ptr(c);
	return 0;
}

/* max + log sum exp(x - max), in double. */
static double log_sum(const float *logits, uint32_t n)
{
	double top = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		top = fmax(top, (double)logits[i]);
	for (uint32_t i = 0; i < n; i++)
		sum += exp((double)logits[i] - top);
	return top + log(sum);
}

static double divergence(const float *p, double p_sum, const float *q, double q_sum, uint32_t n)
{
	double kl = 0;

	for (uint32_t i = 0; i < n; i++) {
		double log_p = (double)p[i] - p_sum;

		kl += exp(log_p) * (log_p - ((double)q[i] - q_sum));
	}
	return kl < 0 ? 0 : kl; /* NaN stays */
}

static void compare_place(void *arg, size_t i, size_t worker)
{
	struct compare *c = arg;
	const float *tuned = scorer_logits(c->tuned, i), *delta = scorer_logits(c->delta, i);
	double tuned_sum = log_sum(tuned, c->vocab), delta_sum = log_sum(delta, c->vocab);
	uint32_t target = c->targets[i];

	(void)worker;
	c->places[i] = (struct place){
		.kl = divergence(tuned, tuned_sum, delta, delta_sum, c->vocab),
		.agrees = logits_argmax(tuned, c->vocab) == logits_argmax(delta, c->vocab),
		.nll_tuned = tuned_sum - (double)tuned[target],
		.nll_delta = delta_sum - (double)delta[target],
		.nll_base = NAN, /* of a token that the base does not have */
	};
	if (c->base && target < c->base_vocab)
		c->places[i].nll_base =
			-logits_logprob(scorer_logits(c->base, i), c->base_vocab, target);
}

static int push(struct compare *c, const uint32_t *ids, size_t n, struct reason *reason)
{
	int r;

	r = scorer_push(c->tuned, ids, n, reason);
	if (r == 0)
		r = scorer_push(c->delta, ids, n, reason);
	if (r == 0 && c->base)
		r = scorer_push(c->base, ids, n, reason);
	return r;
}

static void add_places(const struct compare *c, size_t first, size_t n, struct comparison *sums)
{
	for (size_t i = first; i < n; i++) {
		const struct place *p = &c->places[i];

		sums->n++;
		sums->sum_kl += p->kl;
		sums->sum_kl_squared += p->kl * p->kl;
		sums->n_agreements += p->agrees;
		sums->sum_nll_tuned += p->nll_tuned;
		sums->sum_nll_delta += p->nll_delta;
		sums->sum_nll_base += p->nll_base;
	}
}

bool compare_reads(const uint32_t *ids, size_t n, uint32_t vocab)
{
	return ids_first_beyond(ids, n, vocab) == n;
}

int compare_sequence(struct compare *c, const uint32_t *ids, size_t n, size_t first,
	struct comparison *sums, struct reason *reason)
{
	scorer_begin(c->tuned, c->settings.tuned);
	scorer_begin(c->delta, c->settings.delta);
	if (c->base)
		scorer_begin(c->base, c->settings.base);
	for (size_t at = 0; at + 1 < n; at += SCORE_CHUNK) {
		size_t n_chunk = min_u64(SCORE_CHUNK, n - 1 - at);
		size_t skipped = first > at ? min_u64(first - at, n_chunk) : 0;
		int r;

		r = push(c, ids + at, n_chunk, reason);
		if (r < 0)
			return r;
		if (skipped == n_chunk)
			continue;
		c->targets = ids + at + 1;
		pool_run(c->settings.pool, compare_place, c, n_chunk);
		add_places(c, skipped, n_chunk, sums);
	}
	return 0;
}

double comparison_kl(const struct comparison *c)
{
	return c->sum_kl / (double)c->n;
}

double comparison_kl_error(const struct comparison *c)
{
	double n = (double)c->n, mean = c->sum_kl / n;

	return sqrt(fmax(0, c->sum_kl_squared / n - mean * mean) / n);
}

double comparison_agreement(const struct comparison *c)
{
	return (double)c->n_agreements / (double)c->n;
}

double comparison_perplexity(const struct comparison *c, double sum_nll)
{
	return exp(sum_nll / (double)c->n);
}

/*
 * Two or three models on the same tokens, position by position: how far the second is from the
 * first (KL divergence, agreement) and what each thinks of the text (perplexity).
 *
 * Sums are in double and in the order of the positions, so results do not depend on threads.
 */
#pragma once

#include "engine/model.h"

struct compare_settings {
	struct pool *pool;
	/* The fine-tune as a model of its own, and what is to be like it. */
	const struct model *tuned_model, *model;
	const struct variant *tuned, *delta;
	const struct variant *base; /* variant of `model`, or NULL */
	uint32_t max_positions;     /* of one sequence */
	enum kv_type kv_type;       /* of `model`; the fine-tune's keys and values are f32 */
};

struct comparison {
	uint64_t n; /* positions */
	double sum_kl, sum_kl_squared;
	uint64_t n_agreements;
	double sum_nll_tuned, sum_nll_delta, sum_nll_base; /* of the next tokens */
};

struct compare;

int compare_new(const struct compare_settings *settings, struct compare **ret,
	struct reason *reason) _must_check_;
struct compare *compare_free(struct compare *c);

static inline void compare_freep(struct compare **c)
{
	compare_free(*c);
}

/* Are all ids words of a model with so large a vocabulary? A base may lack those of a fine-tune. */
bool compare_reads(const uint32_t *ids, size_t n, uint32_t vocab) _must_check_;

/* Adds one sequence: positions first .. n - 2, each judged on the token after it. */
int compare_sequence(struct compare *c, const uint32_t *ids, size_t n, size_t first,
	struct comparison *sums, struct reason *reason) _must_check_;

double comparison_kl(const struct comparison *c);       /* mean, nats; NaN where n is 0 */
double comparison_kl_error(const struct comparison *c); /* standard error of the mean */
double comparison_agreement(const struct comparison *c);
/* exp of the mean of one of the sums. */
double comparison_perplexity(const struct comparison *c, double sum_nll);

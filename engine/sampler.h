/*
 * Picks the next token from logits. All state is in the struct; the same settings, seed, history
 * and logits give the same token everywhere.
 */
#pragma once

#include "common/reason.h"

#define SAMPLER_MAX_LOGIT_BIAS 256
#define SAMPLER_MAX_LOGPROBS 20

struct logit_bias {
	uint32_t token;
	float bias; /* added to the logit; -INFINITY forbids */
};

/* Applied in this order: bias, repetition, presence and frequency penalties, temperature, top-k,
 * top-p, min-p, draw. */
struct sampler_settings {
	float temperature;        /* 0: greedy, the first of the largest logits */
	uint32_t top_k;           /* 0: off */
	float top_p;              /* 1: off */
	float min_p;              /* 0: off; share of the largest probability */
	float repetition_penalty; /* 1: off; divides positive and multiplies negative logits of seen
				     tokens */
	float presence_penalty;   /* 0: off; over generated tokens */
	float frequency_penalty;  /* 0: off; over generated tokens */
	uint64_t seed;
	uint32_t n_logprobs; /* 0 .. SAMPLER_MAX_LOGPROBS most probable tokens to report */
	uint32_t n_logit_bias;
	struct logit_bias logit_bias[SAMPLER_MAX_LOGIT_BIAS];
};

struct token_logprob {
	uint32_t token;
	float logprob; /* natural logarithm, of the unmodified distribution */
};

struct sampled {
	uint32_t token;
	float logprob;
	uint32_t n_top;
	struct token_logprob top[SAMPLER_MAX_LOGPROBS];
};

extern const struct sampler_settings sampler_defaults; /* greedy */

/* -EBADMSG names the setting that is out of range. */
int sampler_settings_check(const struct sampler_settings *s, struct reason *reason) _must_check_;

struct sampler;

/* `prompt` tokens count for the repetition penalty. */
int sampler_new(const struct sampler_settings *settings, uint32_t vocab, const uint32_t *prompt,
	size_t n_prompt, struct sampler **ret) _must_check_;
struct sampler *sampler_free(struct sampler *s);
/* Also records the token as generated. Allocates nothing. */
void sampler_pick(struct sampler *s, const float *logits, struct sampled *ret);

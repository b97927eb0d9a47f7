/*
 * Answers, greedy or sampled, to many prompts at once: sequences share the steps of the forward
 * pass, and the next prompt takes the place of an answer that has ended. What a prompt is answered
 * does not depend on its company (kernels/kernels.h), so neither does it on the order.
 */
#pragma once

#include "common/progress.h"
#include "engine/model.h"
#include "engine/sampler.h"

struct decode_settings {
	const struct model *model;
	const struct variant *variant;
	struct pool *pool;
	const struct progress *progress;
	const char *stage; /* for progress */
	/* Ids that end an answer. */
	const int32_t *stops;
	size_t n_stops;
	uint32_t max_tokens; /* of an answer */
	enum kv_type kv_type;
};

struct decode_request {
	const uint32_t *prompt; /* 1 or more ids, below the variant's vocabulary */
	uint32_t n_prompt;
	uint32_t *ids; /* room for max_tokens; the caller's */
	uint32_t n;    /* the end itself is not counted */
	int32_t stop;  /* the id that ended it; -1: max_tokens did */
	uint64_t seed; /* of decode_sampled() */
};

/* Fills ids, n and stop of each. n_prompt + max_tokens must be at most max_positions. */
int decode_greedy(const struct decode_settings *settings, struct decode_request *requests, size_t n,
	struct reason *reason) _must_check_;

/* The same, drawn by these settings with the seed of each request. */
int decode_sampled(const struct decode_settings *settings, const struct sampler_settings *sampling,
	struct decode_request *requests, size_t n, struct reason *reason) _must_check_;

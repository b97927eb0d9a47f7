/*
 * One generation: its tokens, how far it is, what it holds. Made by the thread that submits, owned
 * by the engine thread from then on.
 */
#pragma once

#include "common/mailbox.h"
#include "engine/engine.h"

struct job {
	struct mail mail; /* first: a job is its own message */
	struct job *next; /* in the queue of those who wait */
	uint64_t id;
	uint32_t slot; /* in the control table */
	const struct variant *variant;
	bool ignore_eos;
	bool paused;
	struct sampler *sampler;
	struct kv_seq *seq; /* from admission on */

	/* The prompt and what was generated. Positions 0 .. n_done - 1 are in the KV pages; the
	 * next token is due when n_done reaches n_tokens. */
	uint32_t *tokens;
	uint32_t n_prompt, n_tokens, n_done;
	uint32_t max_tokens;

	/* The step at hand. */
	uint32_t n_rows;
	const float *logits; /* NULL while the prompt has more rows */
	struct sampled sampled;

	uint64_t submitted_ns, admitted_ns, first_token_ns; /* 0: not yet */
};

int job_new(const struct job_spec *spec, struct job **ret) _must_check_;
struct job *job_free(struct job *job);

static inline void jobp(struct job **j)
{
	job_free(*j);
}

static inline uint32_t job_pending(const struct job *job)
{
	return job->n_tokens - job->n_done;
}

/* Is this token the end of the text for the job? */
bool job_ends_at(const struct job *job, uint32_t token);

/* The finished event, with counts and times up to now. */
struct engine_event job_finished_event(const struct job *job, enum finish_reason reason, int error);

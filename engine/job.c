#include "engine/job.h"

#include "common/clock.h"

#include <string.h>

int job_new(const struct job_spec *spec, struct job **ret)
{
	_cleanup_(jobp) struct job *job = calloc(1, sizeof(*job));
	uint32_t vocab = variant_config(spec->variant)->vocab;
	int r;

	if (!job)
		return -ENOMEM;
	job->tokens = malloc(((size_t)spec->n_prompt + spec->max_tokens) * sizeof(*job->tokens));
	if (!job->tokens)
		return -ENOMEM;
	r = sampler_new(&spec->sampling, vocab, spec->prompt, spec->n_prompt, &job->sampler);
	if (r < 0)
		return r;
	memcpy(job->tokens, spec->prompt, spec->n_prompt * sizeof(*job->tokens));
	job->id = spec->id;
	job->variant = spec->variant;
	job->ignore_eos = spec->ignore_eos;
	job->n_prompt = spec->n_prompt;
	job->n_tokens = spec->n_prompt;
	job->max_tokens = spec->max_tokens;
	job->submitted_ns = clock_ns();
	*ret = take_ptr(job);
	return 0;
}

struct job *job_free(struct job *job)
{
	if (!job)
		return NULL;
	kv_seq_free(job->seq);
	sampler_free(job->sampler);
	free(job->tokens);
	free(job);
	return NULL;
}

bool job_ends_at(const struct job *job, uint32_t token)
{
	const struct model_config *c = variant_config(job->variant);

	for (uint32_t i = 0; i < c->n_eos && !job->ignore_eos; i++)
		if (c->eos[i] >= 0 && (uint32_t)c->eos[i] == token)
			return true;
	return false;
}

struct engine_event job_finished_event(const struct job *job, enum finish_reason reason, int error)
{
	uint64_t now = clock_ns();
	uint64_t admitted = job->admitted_ns ? job->admitted_ns : now;
	uint64_t first_token = job->first_token_ns ? job->first_token_ns : now;

	return (struct engine_event){
		.kind = ENGINE_EVENT_FINISHED,
		.job = job->id,
		.reason = reason,
		.error = error,
		.n_prompt = job->n_prompt,
		.n_generated = job->n_tokens - job->n_prompt,
		.queue_ns = admitted - job->submitted_ns,
		.prompt_ns = first_token - admitted,
		.decode_ns = now - first_token,
	};
}

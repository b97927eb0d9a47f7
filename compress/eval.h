/*
 * How good base + delta is, beside the uncompressed fine-tune, on tasks; or a base without a delta,
 * beside a model of the same shape: what codes in the place of its weights cost, say.
 *
 * Closeness: KL(fine-tune || base + delta) and agreement over the positions that predict the
 * reference answer and its end, teacher-forced on the reference: both models read the same tokens.
 * Usefulness: the task's own score, each model answering greedily by itself.
 */
#pragma once

#include "compress/served.h"
#include "compress/tasks.h"

struct eval_settings {
	const struct served *base;  /* with the delta, if there is one */
	const struct served *tuned; /* the fine-tune as a model of its own */
	const struct tasks *tasks;
	uint32_t max_tokens; /* of a generated answer; 0: what the metric says */
	/* How base and delta keep keys and values; the fine-tune keeps them in f32. */
	enum kv_type kv_type;
	bool no_score; /* closeness only, nothing is generated; scores are then NaN */
	struct pool *pool;
	const struct progress *progress;
};

struct eval_report {
	enum task_metric metric;
	uint64_t n_tasks;
	uint64_t n_too_long; /* of them; prompt and answer do not fit the model: counted as wrong */
	uint64_t n_tokens;   /* positions behind KL, agreement and perplexities */
	double kl, kl_error; /* nats; its standard error */
	double agreement;
	/* Share of tasks solved, or perplexity. Standard error of `score`, NaN for perplexity. */
	double score, tuned_score, base_score, score_error;
	double perplexity, tuned_perplexity, base_perplexity; /* of the references */
	uint64_t file_bytes, original_bytes;
	double ratio;         /* original_bytes, the fine-tune at 16 bits, over file_bytes */
	char chat_format[32]; /* empty: prompts were given as they are */
};

int eval_run(const struct eval_settings *settings, struct eval_report *ret, struct reason *reason)
	_must_check_;

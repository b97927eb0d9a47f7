/*
 * Tasks put to a model, which answers greedily: which of them it solves.
 */
#pragma once

#include "compress/task_text.h"

struct question {
	const struct task *task;
	/* Borrowed; prompt and longest answer fit into the model's positions. */
	const uint32_t *prompt;
	uint32_t n_prompt;
	bool solved; /* by who was asked last */
};

struct questions_settings {
	const struct task_text *text; /* which made the prompts */
	const struct model *model;
	const struct variant *variant;
	enum kv_type kv_type;
	struct pool *pool;
	const struct progress *progress;
	const char *stage;
	enum task_metric metric;
	uint32_t max_tokens; /* of an answer */
};

/* Sets `solved` of each. */
int questions_ask(const struct questions_settings *settings, struct question *questions, size_t n,
	struct reason *reason) _must_check_;

/*
 * Sequences (compress/sequences.h) in the words of a fine-tune: tasks with good answers, tasks with
 * the fine-tune's own answers, and conversations that it makes up.
 */
#pragma once

#include "compress/sequences.h"
#include "compress/served.h"
#include "compress/tasks.h"
#include "engine/sampler.h"

struct task_text_settings {
	const struct served *tuned; /* as the engine serves it */
	const struct image *base;   /* whose tokenizer and format are used where the fine-tune has
				       none; may be NULL */
	struct pool *pool;
	const struct progress *progress;
	uint32_t max_answer;              /* tokens of an answer that is generated */
	struct sampler_settings sampling; /* of what is generated; its seed too */
};

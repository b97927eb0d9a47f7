/*
 * Sequences (compress/sequences.h) in the words of a fine-tune: tasks with good answers, tasks with
 * the fine-tune's own answers, and conversations that it makes up. Prompts are in its chat format,
 * or plain where it has none. What is generated is drawn with seeds: same settings, same sequences,
 * whatever the number of threads.
 *
 * In all of them the answer and the token that ends it are judged. What does not fit into the
 * model's positions is left out.
 */
#pragma once

#include "common/progress.h"
#include "compress/answer_end.h"
#include "compress/sequences.h"
#include "compress/tasks.h"
#include "engine/model.h"
#include "engine/sampler.h"

struct task_text;

/* Everything is borrowed. */
struct task_text_settings {
	const struct image *base;          /* whose tokenizer and chat format are used, */
	const struct image *delta;         /* or those of this one, where it has any; or NULL */
	const struct model_config *config; /* of the fine-tune */
	/* The fine-tune as the engine serves it; not needed for references. */
	const struct model *model;
	const struct variant *variant;
	struct pool *pool;
	uint32_t max_answer; /* most tokens of an answer that is generated */
	/* How prompts and answers are drawn; its seed is that of the whole. Temperature 0: answers
	 * to tasks are greedy, and nothing can be made up. */
	struct sampler_settings sampling;
	const struct progress *progress;
};

/* -EOPNOTSUPP if there is no tokenizer. */
int task_text_new(const struct task_text_settings *settings, struct task_text **ret,
	struct reason *reason) _must_check_;
struct task_text *task_text_free(struct task_text *t);

static inline void task_textp(struct task_text **t)
{
	task_text_free(*t);
}

/* The name of the chat format; NULL: prompts are given as they are. */
const char *task_text_format(const struct task_text *t);
const struct answer_end *task_text_end(const struct task_text *t);
/* What an answer says, up to its end; *ret is malloc'ed. */
int task_text_answer(const struct task_text *t, const uint32_t *ids, size_t n, char **ret,
	struct reason *reason) _must_check_;

/* Appends to `ret`: a task's prompt, its reference, the end; unless that does not fit. */
int task_text_reference(const struct task_text *t, const struct task *task, struct sequences *ret,
	struct reason *reason) _must_check_;
/* The same of all tasks. */
int task_text_references(const struct task_text *t, const struct tasks *tasks,
	struct sequences *ret, struct reason *reason) _must_check_;

/* Appends to `ret`: a task's prompt and what the fine-tune answers. */
int task_text_answers(const struct task_text *t, const struct tasks *tasks, struct sequences *ret,
	struct reason *reason) _must_check_;

/*
 * Appends to `ret` at least `n_tokens` read tokens that the fine-tune wrote all by itself: from the
 * beginning of a user's turn a message, then the answer to it. Without a chat format: text from the
 * beginning of text on. -EOPNOTSUPP if it makes nothing that can be used.
 *
 * How good the messages are depends on whether the fine-tune ever learnt to write the user's part:
 * one that was trained on answers alone may begin with an answer. Where tasks are at hand, they are
 * the better text.
 */
int task_text_invent(const struct task_text *t, size_t n_tokens, struct sequences *ret,
	struct reason *reason) _must_check_;

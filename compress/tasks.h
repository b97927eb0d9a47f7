/*
 * Tasks to judge a model by: a file of one JSON object a line with `prompt` (the user's message),
 * `reference` (a full good answer), `answer` (what is compared) and `metric`.
 *
 *   final-number   the number after the last "####" equals `answer`
 *   exact          the whole answer, white space around it removed, equals `answer`
 *   perplexity     nothing is generated; the reference's perplexity is the score
 */
#pragma once

#include "common/reason.h"

#include <stddef.h>

enum task_metric {
	TASK_METRIC_FINAL_NUMBER,
	TASK_METRIC_EXACT,
	TASK_METRIC_PERPLEXITY,
};

struct task {
	char *prompt, *reference, *answer; /* owned; answer may be NULL where nothing is compared */
};

struct tasks {
	enum task_metric metric; /* one for the whole file */
	size_t n;
	struct task *tasks;
};

/* Tasks first .. end - 1 of the file, counted from 0; it may end earlier. -EBADMSG if it has none
 * of them. Lines before `first` are not looked at. */
int tasks_load_rows(const char *path, size_t first, size_t end, struct tasks *ret,
	struct reason *reason) _must_check_;
void tasks_done(struct tasks *t);

const char *task_metric_name(enum task_metric metric);
/* Tokens to generate at most: 64, 192, 0. */
uint32_t task_metric_tokens(enum task_metric metric);

/* Is `text` right? The metric is one that compares. */
bool task_solved(const struct task *task, enum task_metric metric, const char *text);

/*
 * Tasks as calibration text: prompts in the fine-tune's chat format with their reference answers,
 * one after the other.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/pair.h"
#include "compress/sequences.h"
#include "compress/task_text.h"
#include "store/image.h"

/* What a pair says of text, as an image without weights: what the daemon reads and writes, served
 * base and delta. The fine-tune's tokenizer and chat format; the base's where its folder, that of
 * an adapter say, has none. -EOPNOTSUPP: neither has a tokenizer. */
int words_of_pair(const struct pair *pair, struct image **ret, struct reason *reason) _must_check_;

/* Text of a pair as words_of_pair() has it, which *ret borrows; -EOPNOTSUPP as of that. The model
 * answers nothing. */
int task_text_of_pair(const struct pair *pair, struct image **ret_words, struct task_text **ret,
	struct reason *reason) _must_check_;

/* -EBADMSG if the tasks are too few. Errors also as of words_of_pair(). */
int calibration_of_tasks(const struct pair *pair, const struct tasks *tasks,
	const struct calibration_limits *limits, struct calibration **ret, struct reason *reason)
	_must_check_;

/* Prompts and reference answers, one sequence a task, appended. */
int sequences_of_tasks(const struct pair *pair, const struct tasks *tasks, struct sequences *ret,
	struct reason *reason) _must_check_;

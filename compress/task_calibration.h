/*
 * Tasks as calibration text: prompts in the fine-tune's chat format with their reference answers,
 * one after the other.
 */
#pragma once

#include "compress/calibration.h"
#include "compress/sequences.h"
#include "compress/tasks.h"
#include "store/format.h"

/* `folder` is the fine-tune's, whose tokenizer and chat format are used. -EBADMSG if the tasks are
 * too few. */
int calibration_of_tasks(const char *folder, const struct model_config *config,
	const struct tasks *tasks, const struct calibration_limits *limits,
	struct calibration **ret, struct reason *reason) _must_check_;

/* Prompts and reference answers, one sequence a task, appended. */
int sequences_of_tasks(const char *folder, const struct model_config *config,
	const struct tasks *tasks, struct sequences *ret, struct reason *reason) _must_check_;

/*
 * The options of `deltactl compress` that method auto alone knows.
 */
#pragma once

#include "common/reason.h"
#include "compress/method.h"
#include "compress/tasks.h"

#include <getopt.h>

enum {
	OPTION_AUTO_FIRST = 768,
	OPTION_AUTO_TASKS = OPTION_AUTO_FIRST,
	OPTION_AUTO_ROWS,
	OPTION_AUTO_FILE_RATIO,
	OPTION_AUTO_MAX_KL,
	OPTION_AUTO_KEEP,
	OPTION_AUTO_TEXT,
	OPTION_AUTO_STEPS,
	OPTION_AUTO_END,
};

/* clang-format off */
#define COMPRESS_AUTO_OPTIONS                                    \
	{"tasks", required_argument, NULL, OPTION_AUTO_TASKS},      \
	{"task-rows", required_argument, NULL, OPTION_AUTO_ROWS},   \
	{"file-ratio", required_argument, NULL, OPTION_AUTO_FILE_RATIO}, \
	{"max-kl", required_argument, NULL, OPTION_AUTO_MAX_KL},    \
	{"keep", required_argument, NULL, OPTION_AUTO_KEEP},        \
	{"text", required_argument, NULL, OPTION_AUTO_TEXT},        \
	{"train-steps", required_argument, NULL, OPTION_AUTO_STEPS}

#define COMPRESS_AUTO_HELP                                                                     \
	"  --tasks FILE             prompts and answers of the fine-tune's own task, as eval\n" \
	"                           takes them, instead of text; auto learns from them\n"       \
	"  --task-rows A:B          only tasks A up to but not B of the file, from 0\n"        \
	"method auto:\n"                                                                       \
	"  --file-ratio N           16-bit size of the whole fine-tune over that of the whole\n"  \
	"                           file, instead of --ratio\n"                                \
	"  --max-kl X               as small as it gets with a KL of X nats a token on text\n" \
	"                           that is kept back, instead of a size\n"                    \
	"  --keep SHARE             as small as it gets with this share, 0.99 say, of the score\n" \
	"                           on tasks that are kept back; without --tasks, of the tokens\n" \
	"                           that the fine-tune finds most probable\n" \
	"  --text KIND              to learn from without --tasks: own-words, that the\n" \
	"                           fine-tune makes up; generic, the calibration text; none,\n" \
	"                           random tokens. Default: own-words if it can, else generic\n" \
	"  --train-steps N          of training after the codes are chosen (default with\n" \
	"                           --tasks: 40 at 2.5 bits a weight and less, 120 at 0.75\n" \
	"                           and less; else 0)\n"
/* clang-format on */

struct auto_arguments {
	const char *tasks;
	uint64_t first_row, end_row; /* end 0: all */
};

/* True if the value is understood. */
bool compress_auto_option(
	int option, const char *value, struct auto_arguments *a, struct method_options *o);
/* Reads the tasks, if any, and sets the options to them. */
int compress_auto_load(const struct auto_arguments *a, struct tasks *ret,
	struct method_options *options, struct reason *reason) _must_check_;

/*
 * A tiny base and its fine-tune (tests/tiny_pair.h) with tokenizers and a few tasks.
 */
#pragma once

#include "compress/tasks.h"
#include "foreign/checkpoint.h"

#define WORDED_TASKS 12u
#define WORDED_IM_END 321 /* what ends a turn of the grown one */

struct worded_pair {
	char *scratch;
	struct checkpoint *base, *tuned;
	struct tasks tasks; /* of metric perplexity; their answers are empty */
};

/* Grown: the fine-tune has two tokens more than its base, of which its chat format is made; the end
 * of a turn is not among its end-of-text ids. Else its folder has no tokenizer and no chat format.
 * Any trouble fails the running test. */
struct worded_pair *worded_pair_new(bool grown);
struct worded_pair *worded_pair_free(struct worded_pair *p);

/*
 * A tiny base (tests/golden/data/tiny) and its fine-tune.
 */
#pragma once

#include "foreign/checkpoint.h"

struct tiny_pair {
	struct checkpoint *base, *tuned;
};

/* Any folder of a model; trouble fails the running test. */
struct checkpoint *folder_opened(const char *folder);

/* NAME alone, or NAME and NAME-ft. */
struct checkpoint *tiny_open(const char *name);
struct tiny_pair tiny_pair(const char *name);
void tiny_pair_done(struct tiny_pair *p);

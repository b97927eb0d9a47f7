/*
 * A delta of any base with made-up singular factors in every projection: it changes what the model
 * says, differently for each seed, and is written through store/writer.h in no time.
 */
#pragma once

#include "store/base.h"

/* Writes the file; fails the running test if anything goes wrong. `chat_folder` is a model folder
 * whose chat format the delta brings, or NULL. */
void made_delta(const struct base *base, uint32_t seed, const char *chat_folder, const char *path);

/*
 * A delta of any base with made-up singular factors in every projection: it changes what the model
 * says, differently for each seed, and is written through store/writer.h in no time.
 */
#pragma once

#include "store/base.h"

/* Writes the file; fails the running test if anything goes wrong. */
void made_delta(const struct base *base, uint32_t seed, const char *path);

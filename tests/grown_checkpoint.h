/*
 * A copy of a model folder whose vocabulary has grown, as fine-tunes with tokens of their own have.
 */
#pragma once

#include <stdint.h>

/* Writes config.json and model.safetensors into `target`, an empty folder. The added rows of
 * embedding and head are copies of the first rows. The vocabulary of `source` is `vocab`. Fails the
 * running test if anything goes wrong. */
void grown_checkpoint(const char *source, const char *target, uint32_t vocab, uint32_t n_added);

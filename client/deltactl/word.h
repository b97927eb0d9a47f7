/*
 * Words from the command line.
 */
#pragma once

#include "common/base.h"
#include "kernels/types.h"

/* Which of `words`, which end with NULL, the text is; false, with *ret untouched, if none. */
bool word_find(const char *text, const char *const *words, size_t *ret) _must_check_;

/* The name of a type of keys and values; likewise. */
bool word_kv_type(const char *text, enum kv_type *ret) _must_check_;
